"""A value that one equation reads through a chain stays where it is for the others."""

import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.constraining import Chains, Constraints, run_constrained
from autoshard.equations import Equations
from autoshard.homes import homes_of
from autoshard.trace import Traced, trace

HOME, GATHERED = P("y", None, "z"), P(("y", "x"), None, None)
X = jax.ShapeDtypeStruct((8, 8, 8), "float32")


def residual(x: jax.Array) -> Any:
    """Layers that read what they carry twice: for a norm, and for the sum behind."""

    def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + jnp.exp(jnp.sin(x)), None

    return lax.scan(layer, x, None, length=4)[0]


def remat_residual(x: jax.Array) -> Any:
    """The same, each layer in a body of its own inside of the loop's."""
    layer = jax.checkpoint(lambda x: x + jnp.exp(jnp.sin(x)))
    return lax.scan(lambda x, _: (layer(x), None), x, None, length=4)[0]


def mesh() -> Mesh:
    return jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3)


def path_of(found: Equations, primitive: str) -> str:
    return next(e.path for e in found.equations if e.primitive == primitive)


def norm_elsewhere(found: Equations) -> tuple[dict[str, Chains], dict[str, Chains], dict[str, P]]:
    """Operands, results and slots: the carry at home, its norm elsewhere."""
    operands: dict[str, Chains] = {path_of(found, "sin"): ((GATHERED,),)}
    results: dict[str, Chains] = {
        path_of(found, "sin"): ((GATHERED,),),
        path_of(found, "exp"): ((GATHERED, HOME),),
    }
    slots = {e.path: HOME for e in found.equations if e.path.endswith(":carry0")}
    return operands, results, slots


def constraints(found: Equations) -> Constraints:
    operands, results, slots = norm_elsewhere(found)
    every = {**results, **{path: ((spec,),) for path, spec in slots.items()}}
    return Constraints(operands, results, slots, homes=homes_of(found, operands, every))


def compiled(traced: Traced, constraints: Constraints) -> str:
    on = mesh()

    def planned(x: jax.Array) -> Any:
        def constrain(array: Any, spec: P) -> Any:
            return lax.with_sharding_constraint(array, NamedSharding(on, spec))

        return run_constrained(traced.closed, [x], constraints, constrain, on)[0]

    home = NamedSharding(on, HOME)
    argument = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=home)
    return str(jax.jit(planned, out_shardings=home).lower(argument).compile().as_text())


def collectives(hlo: str) -> int:
    return len(re.findall(r" (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", hlo))


def test_a_carry_that_is_read_elsewhere_has_a_home() -> None:
    found = trace(residual, (X,)).equations
    assert constraints(found).homes == {path_of(found, "sin"): (HOME,)}


def test_no_home_where_all_read_alike() -> None:
    found = trace(residual, (X,)).equations
    operands, results, slots = norm_elsewhere(found)
    every = {**results, **{path: ((spec,),) for path, spec in slots.items()}}
    assert homes_of(found, {path: ((HOME,),) for path in operands}, every) == {}
    assert homes_of(found, {}, every) == {}


def test_no_home_for_a_single_reader() -> None:
    found = trace(lambda x: lax.scan(lambda x, _: (jnp.sin(x), None), x, None, length=4)[0], (X,)).equations
    slots = {e.path: ((HOME,),) for e in found.equations if e.path.endswith(":carry0")}
    assert homes_of(found, {path_of(found, "sin"): ((GATHERED,),)}, slots) == {}


def test_other_readers_do_not_get_the_end_of_the_chain() -> None:
    for fn in (residual, remat_residual):
        traced = trace(fn, (X,))
        told = constraints(traced.equations)
        assert told.homes
        held, loose = compiled(traced, told), compiled(traced, replace(told, homes={}))
        assert collectives(held) < collectives(loose)
