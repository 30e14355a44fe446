"""The collectives of tiny programs, partitioned in this process: sound programs do not abort."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.partitioner.partition import partition
from autoshard.partitioner.partitioned import AxisPart
from autoshard.partitioner.propagation import Found, Propagated, propagated, user_line
from autoshard.partitioner.worker import stablehlo_of
from autoshard.programs import abstract_mesh, export_program

AXES = native_mesh(parse_slice("v5e:2x4")).axes
MESH = abstract_mesh(AXES)
X, Y = AxisPart("x", 1, 2), AxisPart("y", 1, 4)
B, K, N = 16, 64, 32


def shaped(shape: tuple[int, ...], *spec: Any, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, PartitionSpec(*spec)))


def put(array: jax.Array, *spec: Any) -> jax.Array:
    placed: jax.Array = lax.with_sharding_constraint(array, NamedSharding(MESH, PartitionSpec(*spec)))
    return placed


def moved(
    function: Callable[..., Any], *arguments: Any, out: Any = (), to_collectives: bool = True
) -> Propagated:
    """What a function moves on the mesh; its result is replicated unless `out` says otherwise."""
    program = export_program(
        function,
        arguments,
        platform="tpu",
        mesh_axes=AXES,
        out_shardings=NamedSharding(MESH, PartitionSpec(*out)),
    )
    return propagated(partition(stablehlo_of(program), to_collectives=to_collectives))


def kinds(found: Propagated) -> list[tuple[str, tuple[AxisPart, ...], float, int]]:
    return [(each.kind, each.axes, each.bytes_per_chip, each.trips) for each in found.found]


def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


@pytest.mark.smoke
def test_a_split_contraction_is_all_reduced() -> None:
    """The whole contract with Shardy's passes: propagation, insertion, shardings, axes, where it is from."""
    found = moved(matmul, shaped((B, K), None, "y"), shaped((K, N), "y", None))
    assert kinds(found) == [("all-reduce", (Y,), B * N * 4, 1)]
    assert found.unknown_loops == ()
    (only,) = found.found
    assert only.op_name.endswith("dot_general")
    assert only.line.startswith("test_propagation.py:")


def test_a_sum_whose_result_is_split_is_scattered() -> None:
    found = moved(matmul, shaped((B, K), None, "y"), shaped((K, N), "y", None), out=("y",))
    assert kinds(found) == [("reduce-scatter", (Y,), B * N * 4, 1)]


def test_a_sum_is_scattered_over_what_splits_the_result_and_the_rest_is_reduced_after_it() -> None:
    both = ("x", "y")
    found = moved(matmul, shaped((B, K), None, both), shaped((K, N), both, None), out=("x",))
    assert kinds(found) == [
        ("reduce-scatter", (X,), B * N * 4, 1),
        ("all-reduce", (Y,), B * N * 4 / 2, 1),
    ]


def test_two_sums_that_only_meet_are_reduced_as_one() -> None:
    def parallel(x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return x @ v + x @ w

    weights = shaped((K, N), "y", None)
    found = moved(parallel, shaped((B, K), None, "y"), weights, weights)
    assert kinds(found) == [("all-reduce", (Y,), B * N * 4, 1)]


def test_two_sums_one_of_which_is_read_elsewhere_stay_two() -> None:
    def parallel(x: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        left = x @ v
        return left + x @ w + jnp.tanh(left)

    weights = shaped((K, N), "y", None)
    found = moved(parallel, shaped((B, K), None, "y"), weights, weights)
    assert kinds(found) == [("all-reduce", (Y,), B * N * 4, 1)] * 2


def test_a_constraint_that_wants_less_sharding_gathers() -> None:
    found = moved(lambda x: put(x * 2, "x", None), shaped((B, K), "x", "y", dtype=jnp.bfloat16), out=("x",))
    assert kinds(found) == [("all-gather", (Y,), B // 2 * K * 2, 1)]


def test_a_constraint_that_wants_more_sharding_is_free() -> None:
    assert kinds(moved(lambda x: x * 2, shaped((B, K), "x"), out=("x", "y"))) == []


def test_an_axis_that_changes_dims_is_exchanged() -> None:
    found = moved(lambda x: put(put(x, "y", None) * 2, None, "y"), shaped((B, K), "y"), out=(None, "y"))
    assert kinds(found) == [("all-to-all", (Y,), B * K * 4 / 4, 1)]


def test_axes_that_change_their_order_are_permuted() -> None:
    found = moved(lambda x: x * 2, shaped((B, K), ("x", "y")), out=(("y", "x"),))
    (only,) = found.found
    assert (only.kind, only.bytes_per_chip) == ("collective-permute", B * K * 4 / 8)
    assert (only.source.sharding, only.target.sharding) == (((X, Y), ()), ((Y, X), ()))


def test_the_same_gather_for_two_readers_is_done_once() -> None:
    def twice(x: jax.Array) -> jax.Array:
        return jnp.sin(put(x, None, None)) + jnp.cos(put(x, None, None))

    assert kinds(moved(twice, shaped((B, K), "x"))) == [("all-gather", (X,), B * K * 4, 1)]


def test_what_nothing_reads_is_not_moved() -> None:
    def dead(x: jax.Array) -> jax.Array:
        put(x, None, None)
        return x * 2

    assert kinds(moved(dead, shaped((B, K), "x"), out=("x",))) == []


def layers(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
    def layer(x: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        up, down = pair
        x = put(x, None, None)
        return x + put(put(x @ up, None, "y") @ down, None, None), None

    last: jax.Array = lax.scan(layer, x, weights)[0]
    return last


def test_a_scan_moves_as_often_as_it_has_layers() -> None:
    weights = shaped((6, K, N), None, None, "y"), shaped((6, N, K), None, "y", None)
    found = moved(layers, shaped((B, K)), weights)
    assert kinds(found) == [("all-reduce", (Y,), B * K * 4, 6)]


def test_what_a_loop_carries_takes_the_sharding_of_its_result() -> None:
    """The body wants x whole and so does what it returns, yet Shardy carries it split: a gather per layer.

    The TPU compiler does the same; a constraint on the loop's result ends it.
    """

    def last(wanted: tuple[str | None, ...] | None) -> Callable[..., jax.Array]:
        def run(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
            x = layers(put(x, None, None), weights)
            return x if wanted is None else put(x, *wanted)

        return run

    weights = shaped((6, K, N), None, None, "y"), shaped((6, N, K), None, "y", None)
    reduce = ("all-reduce", (Y,), B * K * 4, 6)
    assert kinds(moved(last((None, None)), shaped((B, K)), weights, out=("x",))) == [reduce]
    assert kinds(moved(last(None), shaped((B, K)), weights, out=("x",))) == [
        ("all-gather", (X,), B * K * 4, 6),
        reduce,
    ]


def test_nested_loops_multiply() -> None:
    def twice(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> Any:
        return lax.fori_loop(2, 7, lambda _, x: layers(x, weights), x)

    weights = shaped((6, K, N), None, None, "y"), shaped((6, N, K), None, "y", None)
    assert kinds(moved(twice, shaped((B, K)), weights)) == [("all-reduce", (Y,), B * K * 4, 30)]


def test_a_loop_that_only_its_run_ends_counts_once_and_is_named() -> None:
    def until(x: jax.Array) -> Any:
        return lax.while_loop(lambda x: x[0, 0] < 3.0, lambda x: put(put(x, "y", None) * 2, None, None), x)

    found = moved(until, shaped((B, K)))
    # How often x is gathered around the loop, whose carry Shardy splits, differs between its versions.
    assert {(kind, axes, trips) for kind, axes, _, trips in kinds(found)} == {("all-gather", (Y,), 1)}
    assert [loop.partition(":")[0] for loop in found.unknown_loops] == ["test_propagation.py"]


def test_a_function_moves_at_every_call() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return put(put(x, "y", None) * 2, None, None)

    found = moved(lambda x: inner(jnp.sin(inner(x))), shaped((B, K)))
    assert kinds(found) == [("all-gather", (Y,), B * K * 4, 1)] * 2


def test_all_branches_of_a_conditional_are_listed() -> None:
    def either(x: jax.Array, flag: jax.Array) -> Any:
        def gathered(*spec: Any) -> Callable[[jax.Array], jax.Array]:
            return lambda x: put(put(x, *spec) * 2, None, None)

        return lax.cond(flag, gathered("x", None), gathered("y", None), x)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    found = moved(either, shaped((B, K)), flag)
    assert {each[:3] for each in kinds(found)} == {
        ("all-gather", (X,), B * K * 4),
        ("all-gather", (Y,), B * K * 4),
    }


def test_the_collectives_of_a_shard_map_are_the_users_own() -> None:
    def body(x: jax.Array) -> Any:
        row = lax.psum(x, "y")
        right = lax.ppermute(row, "y", [(i, (i + 1) % 4) for i in range(4)])
        return lax.all_gather(row, "x", tiled=True) + lax.all_gather(right, "x", tiled=True)

    def mapped(x: jax.Array) -> Any:
        specs = PartitionSpec("x", "y"), PartitionSpec()
        return jax.shard_map(body, mesh=MESH, in_specs=specs[0], out_specs=specs[1], check_vma=False)(x)

    reduce, permute, *gathers = moved(mapped, shaped((B, K), "x", "y")).found
    shard = B // 2 * K // 4 * 4
    assert (reduce.kind, reduce.bytes_per_chip) == ("all-reduce", shard)
    # Older versions of JAX write the groups of chips, newer ones the axes.
    assert reduce.axes == (Y,) or reduce.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (permute.kind, permute.bytes_per_chip) == ("collective-permute", shard)
    assert permute.pairs == tuple((4 * x + y, 4 * x + (y + 1) % 4) for x in range(2) for y in range(4))
    assert [(each.kind, each.bytes_per_chip) for each in gathers] == [("all-gather", 2 * shard)] * 2


def test_reshards_that_are_left_open_keep_both_sides() -> None:
    found = moved(jnp.sin, shaped((B, K), "x"), out=("y",), to_collectives=False)
    (only,) = found.found
    assert only.kind == "reshard"
    assert (only.source.sharding, only.target.sharding) == (((X,), ()), ((Y,), ()))


def test_bytes_of_a_shard_are_those_of_the_largest() -> None:
    found = moved(lambda x: put(put(x, "y", None) * 2, None, None), shaped((B - 2, K)))
    (only,) = found.found
    assert isinstance(only, Found)
    assert only.source.bytes_per_chip == 4 * K * 4  # 14 rows over 4 chips: 4, 4, 4 and 2


def test_a_line_is_that_of_the_users_code() -> None:
    here = __file__.replace("tests/autoshard/partitioner/test_propagation.py", "autoshard/programs.py")
    assert user_line(f'loc("a/dot"(callsite("f"("{here}":3:4 to :9) at "g"("/home/me/model.py":7:1))))') == (
        "model.py:7"
    )
    assert user_line('loc("arrays[0]")') == ""
