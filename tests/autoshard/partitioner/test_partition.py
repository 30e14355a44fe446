"""The adapter to Shardy's partitioning: what it hands on is all that the rest relies on."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from autoshard.partitioner.partition import partition
from autoshard.partitioner.partitioned import AxisPart, Block, PartitionedOp

MESH = AbstractMesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
X, Y = AxisPart("x", 1, 4), AxisPart("y", 1, 2)


def shaped(shape: tuple[int, ...], *spec: Any, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, PartitionSpec(*spec)))


def artifact(function: Any, *arguments: Any, out: Any = ()) -> bytes:
    jitted = jax.jit(function, out_shardings=NamedSharding(MESH, PartitionSpec(*out)))
    return bytes(jax.export.export(jitted, platforms=["tpu"])(*arguments).mlir_module_serialized)


def main(function: Any, *arguments: Any, out: Any = ()) -> Block:
    return partition(artifact(function, *arguments, out=out))["main"]


def named(block: Block, name: str) -> list[PartitionedOp]:
    return [op for op in block.ops if op.name == name]


@pytest.mark.smoke
def test_a_gather_has_its_axes_tensors_and_place() -> None:
    block = main(jnp.sin, shaped((8, 6), ("x", "y"), dtype=jnp.bfloat16))
    (sine,), (gather,) = named(block, "stablehlo.sine"), named(block, "sdy.all_gather")
    assert block.arguments == sine.operands
    assert (gather.operands, block.returned) == (sine.results, gather.results)
    move = gather.move
    assert move is not None
    assert move.axes == (X, Y)
    assert (move.source.shape, move.source.itemsize) == ((8, 6), 2)
    assert (move.source.sharding, move.target.sharding) == (((X, Y), ()), ((), ()))
    assert (move.source.bytes_per_chip, move.target.bytes_per_chip) == (1 * 6 * 2, 8 * 6 * 2)
    assert 'loc("' in move.location


def test_part_of_an_axis_knows_what_is_above_it() -> None:
    """Splitting 8 rows over x of 4 into 2 by 4 rows: the major half of x splits 2, the minor half 4."""
    block = main(lambda x: jnp.cos(jnp.sin(x).reshape(2, 4)), shaped((8,), "x"))
    (gather,) = named(block, "sdy.all_gather")
    move = gather.move
    assert move is not None
    assert move.source.sharding == ((AxisPart("x", 1, 2),), (AxisPart("x", 2, 2),))
    assert set(move.axes) == {AxisPart("x", 1, 2), AxisPart("x", 2, 2)}
    assert move.source.bytes_per_chip == 1 * 2 * 4


def test_loops_keep_their_blocks_constants_and_comparison() -> None:
    def run(x: jax.Array) -> jax.Array:
        last: jax.Array = lax.fori_loop(3, 9, lambda _, x: jnp.sin(x), x)
        return last

    block = main(run, shaped((8,), "x"), out=("x",))
    (loop,) = named(block, "stablehlo.while")
    condition, body = loop.blocks
    (compare,) = [op for op in condition.ops if op.direction]
    assert (compare.direction, condition.returned) == ("LT", compare.results)
    assert len(body.returned) == len(loop.operands) == len(loop.results)
    numbers = {op.number for op in (*block.ops, *condition.ops, *body.ops) if op.number is not None}
    assert numbers == {0, 1, 6}  # JAX counts the six trips from 0


def test_calls_name_their_function() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    functions = partition(artifact(lambda x: inner(x) + 1, shaped((8,), "x"), out=("x",)))
    (call,) = named(functions["main"], "func.call")
    assert call.callee is not None
    assert named(functions[call.callee], "stablehlo.sine")


def test_a_sum_over_a_split_dim_stays_open_whatever_its_result_is_to_be() -> None:
    """Left alone, Shardy may gather an operand for a result that is split by the summed axis."""
    x, w = shaped((512, 64), None, "x"), shaped((64, 512), "x", None)
    (dot, reduce, cut) = main(jnp.matmul, x, w, out=("x",)).ops[:3]
    assert [dot.name, reduce.name, cut.name] == [
        *("stablehlo.dot_general", "sdy.all_reduce", "sdy.all_slice")
    ]
    assert reduce.move is not None
    assert reduce.move.axes == (X,)


def test_reshards_stay_where_collectives_are_not_asked_for() -> None:
    functions = partition(artifact(jnp.sin, shaped((8, 6), "x")), to_collectives=False)
    (reshard,) = named(functions["main"], "sdy.reshard")
    assert reshard.move is not None
    assert (reshard.move.source.sharding, reshard.move.target.sharding) == (((X,), ()), ((), ()))


def test_bytes_that_are_no_artifact_are_refused() -> None:
    with pytest.raises(ValueError, match="deserialize"):
        partition(b"no artifact")
