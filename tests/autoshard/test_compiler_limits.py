"""Slices that the partitioner takes for their operand: which they are, and that it still does so."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import JaxprEqn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.compiler_limits import needs_operand_of_its_own, some_need_operands_of_their_own

DEVICES = 8
X = jax.ShapeDtypeStruct((24, 16), "float32")
"""On eight devices either dim has at most eight shards."""


def last_equation(fn: Callable[..., Any], *args: Any) -> JaxprEqn:
    eqn: JaxprEqn = jax.make_jaxpr(fn)(*args).jaxpr.eqns[-1]
    return eqn


SHARDS_STAY: dict[str, Callable[[Any], Any]] = {
    "the last is left out": lambda x: x[:, :15],
    "7 of 8 shards are a row short": lambda x: x[:17],
    "both dims": lambda x: x[:20, :10],
    "the first of a split": lambda x: lax.split(x, (9, 7), axis=1)[0],
    "at a constant index": lambda x: lax.dynamic_slice(x, (0, 0), (24, 15)),
}
SHARDS_CHANGE: dict[str, Callable[[Any], Any]] = {
    "a whole shard is left out": lambda x: x[:, :8],
    "one dim of two loses a shard": lambda x: x[:20, :8],
    "the first is left out": lambda x: x[:, 1:],
    "the first of another dim is left out": lambda x: x[1:, :15],
    "every other": lambda x: x[:, ::2],
    "nothing is cut": lambda x: lax.slice(x, (0, 0), (24, 16)),
    "the first of an even split": lambda x: lax.split(x, (8, 8), axis=1)[0],
    "no slice": lambda x: x.sum(0),
}


@pytest.mark.parametrize("name", SHARDS_STAY)
def test_a_slice_may_leave_the_shards_as_they_are(name: str) -> None:
    assert needs_operand_of_its_own(last_equation(SHARDS_STAY[name], X), DEVICES)


@pytest.mark.parametrize("name", SHARDS_CHANGE)
def test_other_slices_do_not(name: str) -> None:
    assert not needs_operand_of_its_own(last_equation(SHARDS_CHANGE[name], X), DEVICES)


def test_it_takes_devices_that_divide_the_dim() -> None:
    eqn = last_equation(lambda x: x[:, :15], X)
    assert needs_operand_of_its_own(eqn, 2)
    assert not needs_operand_of_its_own(eqn, 1)
    assert not needs_operand_of_its_own(last_equation(lambda x: x[:, :14], X), 2)
    odd = jax.ShapeDtypeStruct((15,), "float32")
    assert not needs_operand_of_its_own(last_equation(lambda x: x[:14], odd), DEVICES)


def test_bodies_are_looked_into_but_not_opaque_ones() -> None:
    def body(x: Any, _: None) -> tuple[Any, None]:
        return jnp.pad(jax.jit(lambda x: x[:, :15])(x), ((0, 0), (0, 1))), None

    scan = last_equation(lambda x: lax.scan(body, x, length=3)[0], X)
    assert scan.primitive.name == "scan"
    assert not needs_operand_of_its_own(scan, DEVICES)
    assert some_need_operands_of_their_own(scan, DEVICES)
    assert not some_need_operands_of_their_own(last_equation(jax.jit(lambda x: x * x), X), DEVICES)
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(lambda x: x[:, :15], mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    opaque = last_equation(mapped, X)
    assert opaque.primitive.name == "shard_map"
    assert not some_need_operands_of_their_own(opaque, DEVICES)


def read_twice(left: int, shards: int, *, own: bool) -> Callable[[Any], Any]:
    """A sharded tensor of which all is gathered, and all but the end, by way of a copy or not."""
    mesh = jax.make_mesh((shards, DEVICES // shards), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def constrain(array: Any, *spec: Any) -> Any:
        return lax.with_sharding_constraint(array, NamedSharding(mesh, P(*spec)))

    def fn(array: Any) -> Any:
        read = jnp.sin(constrain(array, None, "x"))
        copy = constrain(read, P.UNCONSTRAINED, P.UNCONSTRAINED) if own else read
        return constrain(read * 2), constrain(copy[:, :left])

    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize(("left", "shards"), [(15, 2), (13, 4), (9, 8)])
def test_the_partitioner_takes_the_operand_for_the_slice(left: int, shards: int) -> None:
    """XLA's own mistake; when this fails, it is mended, and `needs_operand_of_its_own` may go."""
    array = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Expected instruction to have shape"):
        read_twice(left, shards, own=False)(array)
    twice, part = read_twice(left, shards, own=True)(array)
    np.testing.assert_allclose(twice, np.sin(array) * 2, rtol=1e-5)
    np.testing.assert_allclose(part, np.sin(array)[:, :left], rtol=1e-5)


@pytest.mark.parametrize(("left", "shards"), [(14, 2), (12, 4), (8, 8)])
def test_it_does_not_where_a_shard_is_cut(left: int, shards: int) -> None:
    array = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    twice, part = read_twice(left, shards, own=False)(array)
    np.testing.assert_allclose(twice, np.sin(array) * 2, rtol=1e-5)
    np.testing.assert_allclose(part, np.sin(array)[:, :left], rtol=1e-5)
