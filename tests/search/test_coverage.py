"""What is under decisions: hand-counted flops and bytes of small programs, some with ops that are not."""

from dataclasses import replace
from typing import Any

from autoshard.search.coverage import (
    OpaqueCall,
    PrimitiveCoverage,
    Standing,
    UnknownLoop,
    measure_coverage,
    standing_of,
)
from autoshard.search.graph import Factor, FactorKind, Graph, Op, OpKind
from tests.search.graphs import Sketch, cache_update, feed_forward, scanned_feed_forward

X, WI, H = 2 * 4 * 8, 2 * 8 * 16, 2 * 4 * 16  # bytes of [b, e], [e, f], [b, f]
FEED_FORWARD = 2 * (X + WI + H)  # bytes of both einsums
EINSUM_FLOPS = 2 * 4 * 8 * 16


def changed(graph: Graph, index: int, **fields: Any) -> Graph:
    """The graph with fields of one op replaced."""
    ops = list(graph.ops)
    ops[index] = replace(ops[index], **fields)
    return replace(graph, ops=tuple(ops))


def unruled(graph: Graph, index: int, **fields: Any) -> Graph:
    """The graph with one op of which nothing is known."""
    whole = tuple(replace(factor, kind=FactorKind.REPLICATED) for factor in graph.ops[index].factors)
    return changed(graph, index, ruled=False, factors=whole, **fields)


# ---- which ops are decided


def op_of(*factors: Factor, ruled: bool = True) -> Op:
    return replace(feed_forward().ops[0], factors=factors, ruled=ruled)


def test_an_op_is_decided_when_a_factor_may_be_split() -> None:
    parallel, summed = Factor(4, FactorKind.PARALLEL), Factor(4, FactorKind.REDUCTION)
    whole, unit = Factor(4, FactorKind.REPLICATED), Factor(1, FactorKind.PARALLEL)
    assert standing_of(op_of(parallel, whole)) is Standing.DECIDED
    assert standing_of(op_of(summed)) is Standing.DECIDED
    assert standing_of(op_of(whole, unit)) is Standing.WHOLE
    assert standing_of(op_of()) is Standing.WHOLE
    assert standing_of(op_of(parallel, ruled=False)) is Standing.UNRULED


# ---- fractions


def test_a_program_of_einsums_is_decided() -> None:
    coverage = measure_coverage(feed_forward())
    assert (coverage.equations, coverage.einsums) == (3, 2)
    assert (coverage.flops, coverage.flops_fraction) == (2 * EINSUM_FLOPS, 1.0)
    assert (coverage.bytes, coverage.bytes_fraction) == (FEED_FORWARD, 1.0)
    assert coverage.primitives == (
        PrimitiveCoverage("dot_general", Standing.DECIDED, 2, 2 * EINSUM_FLOPS, FEED_FORWARD, FEED_FORWARD),
    )
    assert coverage.replicated_bytes == 0


def test_an_einsum_without_a_rule_takes_its_flops_and_bytes_away() -> None:
    coverage = measure_coverage(unruled(feed_forward(), 0))
    assert coverage.flops_fraction == 0.5
    assert coverage.bytes_fraction == 0.5
    assert coverage.replicated_bytes == X + WI + H
    assert coverage.of_standing(Standing.UNRULED) == (
        PrimitiveCoverage("dot_general", Standing.UNRULED, 1, EINSUM_FLOPS, X + WI + H, 0.0),
    )


def test_a_loop_counts_all_trips_but_replicates_a_tensor_once() -> None:
    graph = scanned_feed_forward(layers=3)
    add = next(op.index for op in graph.ops if op.name == "sum")
    coverage = measure_coverage(unruled(graph, add))
    assert coverage.flops == 3 * 2 * EINSUM_FLOPS
    assert coverage.flops_fraction == 1.0
    assert coverage.bytes == 3 * (FEED_FORWARD + 3 * X)
    assert coverage.bytes_fraction == FEED_FORWARD / (FEED_FORWARD + 3 * X)
    assert coverage.replicated_bytes == 3 * X


def test_a_tensor_that_two_unruled_ops_touch_is_replicated_once() -> None:
    coverage = measure_coverage(unruled(unruled(feed_forward(), 0), 1))
    assert (coverage.flops_fraction, coverage.bytes_fraction) == (0.0, 0.0)
    assert coverage.replicated_bytes == FEED_FORWARD - H  # h is touched twice


def test_loop_boundaries_and_results_weigh_nothing() -> None:
    sketch = Sketch({"b": 4})
    coverage = measure_coverage(sketch.graph(sketch.argument("x", "bb")))
    assert (coverage.primitives, coverage.bytes) == ((), 0)
    assert (coverage.flops_fraction, coverage.bytes_fraction) == (1.0, 1.0)


def test_a_rule_that_splits_nothing_decides_nothing() -> None:
    graph = cache_update(b=1, t=32, d=1)  # b and d have one element, t must stay whole
    coverage = measure_coverage(graph)
    (row,) = coverage.of_standing(Standing.WHOLE)
    assert (row.primitive, row.count, row.bytes) == ("dynamic_update_slice", 1, 2 * (32 + 32))
    assert coverage.bytes_fraction == 0.0
    assert coverage.of_standing(Standing.UNRULED) == ()


def test_a_table_that_a_decided_op_reads_is_undecided() -> None:
    sketch = Sketch({"b": 1024})
    x, mask = sketch.argument("x", "bb"), sketch.value((1024, 1024), "mask", free=True)
    coverage = measure_coverage(sketch.graph(sketch.elementwise("add", x, mask)))
    assert coverage.bytes_fraction == 2 / 3
    assert (coverage.constants, coverage.constant_bytes) == (1, 2 * 2**20)
    assert (coverage.tables, coverage.table_bytes, coverage.replicated_bytes) == (0, 0, 0)


# ---- what else is told


def test_opaque_calls_are_listed_by_line_and_the_largest_is_first() -> None:
    graph = scanned_feed_forward(layers=3)
    names = {op.name: op.index for op in graph.ops}
    graph = unruled(graph, names["h"], primitive="shard_map", source="moe.py:5", kind=OpKind.OTHER, flops=0.0)
    graph = unruled(graph, names["y"], primitive="shard_map", source="moe.py:5", kind=OpKind.OTHER, flops=0.0)
    graph = unruled(graph, names["sum"], primitive="debug_callback", source="log.py:1")
    coverage = measure_coverage(graph)
    assert coverage.opaque == (
        OpaqueCall("shard_map", "moe.py:5", 2, 3 * FEED_FORWARD),
        OpaqueCall("debug_callback", "log.py:1", 1, 3 * 3 * X),
    )
    assert (coverage.einsums, coverage.flops, coverage.flops_fraction) == (0, 0.0, 1.0)


def test_loops_of_unknown_trip_count_are_listed_with_the_flops_of_one_trip() -> None:
    graph = scanned_feed_forward(layers=1)
    h = next(op.index for op in graph.ops if op.name == "h")
    graph = changed(graph, h, source="flash.py:9")
    assert measure_coverage(graph).unknown_loops == ()
    unknown = replace(graph, loops=(replace(graph.loops[0], trips_known=False),))
    assert measure_coverage(unknown).unknown_loops == (UnknownLoop("flash.py:9", 1, 2 * EINSUM_FLOPS),)
    nested = replace(unknown, loops=unknown.loops * 2)  # a loop that is all of another one's body
    assert measure_coverage(nested).unknown_loops == (UnknownLoop("flash.py:9", 2, 2 * EINSUM_FLOPS),)


def test_annotations_are_counted_and_decided() -> None:
    sketch = Sketch({"b": 4})
    x = sketch.argument("x", "bb")
    coverage = measure_coverage(sketch.graph(sketch.elementwise("sharding_constraint", x)))
    assert coverage.freed_annotations == 1
    assert coverage.bytes_fraction == 1.0
    assert measure_coverage(feed_forward()).freed_annotations == 0
