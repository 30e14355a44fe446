"""Which shardings an author gave, wherever they stand, and the one mesh that they are over."""

from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.audit.shardings import Authored, authored_shardings, only_mesh
from autoshard.errors import OptionError
from autoshard.trace import trace

MESH = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
OTHER = AbstractMesh((8,), ("all",), axis_types=(AxisType.Auto,))
DATA, MODEL = NamedSharding(MESH, P("data")), NamedSharding(MESH, P(None, "model"))


def array(sharding: NamedSharding | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((8, 16), "float32", sharding=sharding)


def authored(fn: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> Authored:
    return authored_shardings(trace(fn, args), args)


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    return x + y


def test_an_argument_has_the_sharding_of_its_abstract_value() -> None:
    found = authored(add, array(DATA), array())
    assert found.arguments == (DATA, None)
    assert found.results == (None,)
    assert only_mesh(found.traced.closed, found, None) == {"data": 2, "model": 4}


def test_else_that_of_the_jit_that_takes_it() -> None:
    jitted = jax.jit(add, in_shardings=(DATA, MODEL), out_shardings=MODEL, donate_argnums=1)
    found = authored(jitted, array(), array())
    assert found.arguments == (DATA, MODEL)
    assert found.results == (MODEL,)
    assert found.donated == (1,)


def test_a_constraint_inside_names_the_mesh() -> None:
    def constrained(x: jax.Array, y: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.with_sharding_constraint(x + y, DATA), None

        return jax.lax.scan(layer, x, length=3)[0]

    found = authored(constrained, array(), array())
    assert found.arguments == (None, None)
    assert only_mesh(found.traced.closed, found, None) == {"data": 2, "model": 4}


def test_a_function_without_shardings_needs_a_mesh() -> None:
    found = authored(add, array(), array())
    with pytest.raises(OptionError, match="has no shardings"):
        only_mesh(found.traced.closed, found, None)
    assert only_mesh(found.traced.closed, found, {"x": 8}) == {"x": 8}


def test_shardings_over_two_meshes_are_refused() -> None:
    found = authored(add, array(DATA), array(NamedSharding(OTHER, P("all"))))
    with pytest.raises(OptionError, match="several meshes"):
        only_mesh(found.traced.closed, found, None)


def test_a_mesh_that_is_not_theirs_is_refused() -> None:
    found = authored(add, array(DATA), array())
    with pytest.raises(OptionError, match="data=2 model=4"):
        only_mesh(found.traced.closed, found, {"data": 4, "model": 2})
