"""The cost network of small programs."""

import dataclasses

import numpy as np
import pytest

from autoshard.cost.layouts import UNREDUCED, shard_counts
from autoshard.cost.padding import moves_blocks
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.torus import TorusMesh, native_mesh
from autoshard.search.building import build_problem
from autoshard.search.candidates import factor_shards
from autoshard.search.problem import REST_PRICE, VariableKind, copies, has_unreduced
from tests.search.graphs import (
    Sketch,
    feed_forward,
    labels_of,
    mesh_of,
    parallel_sum,
    scanned_feed_forward,
    two_readers,
)


def _with(**values: float) -> TorusMesh:
    slice_ = mesh_of("v5e:1x2").slice
    return native_mesh(dataclasses.replace(slice_, chip=slice_.chip.with_values("assumed", "test", **values)))


MESH = _with(hidden_gather_fraction=0.0)
NONE, B, E, F = -1, 0, 1, 2


def _seconds(source: int, target: int, nbytes: float, shape: tuple[int, ...] = ()) -> float:
    have, want = (np.array([[code]], dtype=np.int8) for code in (source, target))
    return float(reshard_seconds(have, want, nbytes, MESH, shape)[0, 0])


def test_variables_and_edges_of_a_feed_forward() -> None:
    problem = build_problem(feed_forward(), MESH)
    assert problem.network.names == ("x", "wi", "wo", "result0", "h", "y")
    assert problem.network.sizes == (3, 3, 3, 3, 4, 4)
    assert [v.kind for v in problem.variables] == [VariableKind.LAYOUT] * 4 + [VariableKind.STRATEGY] * 2
    names = problem.network.names
    assert [(names[e.source], names[e.target], e.op, e.position) for e in problem.edges] == [
        ("x", "h", 0, 0),
        ("wi", "h", 0, 1),
        ("h", "y", 1, 0),
        ("wo", "y", 1, 1),
        ("y", "result0", 2, 0),
    ]
    handed = problem.edges[-1]
    assert (handed.held, handed.value) == (problem.graph.ops[1].results[0], problem.graph.results[0])


def test_the_value_of_a_plan_by_hand() -> None:
    problem = build_problem(feed_forward(), MESH)
    labels = labels_of(problem, x=[B], wi=[0], wo=[0], result0=[1], h=[F], y=[1])
    h, y = (problem.variables[problem.op_variable[op]].cost for op in (0, 1))
    assert h is not None
    assert y is not None
    # x is gathered from b, wi goes from e to f, h is read as it is, y is an open sum, scattered over e.
    moved = _seconds(0, -1, 64) + _seconds(0, 1, 256) + _seconds(UNREDUCED, 1, 64, (4, 8))
    own = float(h.seconds[labels[4]] + y.seconds[labels[5]])
    at_rest = REST_PRICE * (32 + 128 + 128 + 32) / (819e9 * 0.75)
    assert problem.rest_seconds(labels) == pytest.approx(at_rest)
    assert problem.network.value(labels) == pytest.approx(own + moved + at_rest)


def test_a_loop_counts_its_trips_and_slots_join_what_they_hold() -> None:
    problem = build_problem(scanned_feed_forward(layers=3), MESH)
    assert problem.network.names == ("x", "wi", "wo", "carry", "result0", "h", "y", "sum")
    trips = {
        (problem.network.names[e.source], problem.network.names[e.target]): e.trips for e in problem.edges
    }
    assert trips == {
        ("x", "carry"): 1,
        ("carry", "h"): 3,
        ("wi", "h"): 3,
        ("h", "y"): 3,
        ("wo", "y"): 3,
        ("carry", "sum"): 3,
        ("y", "sum"): 3,
        ("sum", "carry"): 3,
        ("carry", "result0"): 1,
    }
    still = labels_of(problem)
    gathered = labels_of(problem, wi=[0])
    once = problem.network.value(gathered) - problem.rest_seconds(gathered)
    assert once - (problem.network.value(still) - problem.rest_seconds(still)) == pytest.approx(
        3 * _seconds(0, -1, 256)
    )


def test_a_stack_has_the_layouts_of_its_slice() -> None:
    problem = build_problem(scanned_feed_forward(), MESH)
    stack = problem.graph.arguments[1]
    assert problem.layouts(stack).tolist() == [[-1], [1], [2]]
    variable = problem.variables[problem.value_variable[stack]]
    assert variable.codes.tolist() == [[-1], [0], [1]]


def test_a_value_with_two_readers_is_decided_once_and_may_stay_open() -> None:
    problem = build_problem(two_readers(), MESH)
    variable = problem.variables[problem.network.names.index("h_out")]
    assert variable.codes.tolist() == [[-1], [0], [1], [UNREDUCED]]
    into = [e for e in problem.edges if problem.network.names[e.target] == "h_out"]
    assert [(e.op, e.trips) for e in into] == [(-1, 1)]
    labels = labels_of(problem, h=[E], h_out=[UNREDUCED], y1=[0], y2=[NONE])
    # Both readers close the sum by themselves: one scatters over b, one reduces.
    assert problem.network.value(labels) < np.inf


def test_nothing_becomes_an_open_sum_again() -> None:
    problem = build_problem(parallel_sum(), MESH)
    assert problem.network.value(labels_of(problem, y1=[1], y2=[1], sum=[-2])) < np.inf
    assert problem.network.value(labels_of(problem, y1=[1], y2=[0], sum=[-2])) == np.inf


def test_free_values_do_not_appear() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    x, scale = sketch.argument("x", "be"), sketch.argument("scale", "be", free=True)
    halved = sketch.elementwise("neg", scale)
    graph = sketch.graph(sketch.elementwise("mul", x, halved, name="scaled"))
    problem = build_problem(graph, MESH)
    assert problem.network.names == ("x", "result0", "scaled")
    assert len(problem.edges) == 2


def test_a_slot_that_nothing_ties_is_still_a_variable() -> None:
    # A cond of which only one branch depends on data hands over into a slot without ties.
    sketch = Sketch({"b": 4, "e": 8})
    branch = sketch.hand_over(sketch.elementwise("neg", sketch.argument("x", "be")), "branch")
    problem = build_problem(sketch.graph(sketch.elementwise("exp", branch)), MESH)
    assert "branch" in problem.network.names
    assert problem.network.value(labels_of(problem)) < np.inf


def test_an_op_may_read_a_value_twice() -> None:
    sketch = Sketch({"b": 4, "c": 4, "e": 8})
    x = sketch.argument("x", "be")
    problem = build_problem(sketch.graph(sketch.einsum("be,ce->bc", x, x, name="gram")), MESH)
    labels = labels_of(problem, x=[0], gram=[0])
    # The first operand is there; the second is gathered.
    still = labels_of(problem, gram=[0])
    extra = problem.network.value(labels) - problem.network.value(still)
    saved = problem.rest_seconds(still) - problem.rest_seconds(labels)
    assert extra == pytest.approx(_seconds(0, -1, 64) - saved)


def test_hidden_communication_costs_nothing_but_stays_impossible() -> None:
    problem = build_problem(parallel_sum(), _with(exposed_ici_fraction=0.0))
    gathered, still = labels_of(problem, w1=[0]), labels_of(problem)
    seconds = [problem.network.value(labels) - problem.rest_seconds(labels) for labels in (gathered, still)]
    assert seconds[0] == pytest.approx(seconds[1])
    assert problem.network.value(labels_of(problem, y1=[1], y2=[0], sum=[-2])) == np.inf


def test_a_large_tensor_that_changes_layout_is_copied() -> None:
    layouts = np.array([[-1], [0]], dtype=np.int8)
    nbytes = 2.0**27
    seconds = copies(layouts, layouts, nbytes, MESH)
    hbm = 819e9 * 0.75
    assert seconds == pytest.approx(np.array([[0, nbytes / hbm], [2 * nbytes / hbm, 0]]))
    assert not copies(layouts, layouts, 1024.0, MESH).any()


def test_open_layouts() -> None:
    assert has_unreduced(np.array([0, UNREDUCED], dtype=np.int8))
    assert not has_unreduced(np.array([0, -1], dtype=np.int8))


def test_arguments_results_and_what_is_tied_to_them_stay_even() -> None:
    problem = build_problem(scanned_feed_forward(b=5, f=15, donated=True), MESH, padding=True)
    for value in (*problem.graph.arguments, *problem.graph.results):
        shape = problem.graph.values[value].shape
        assert (np.array(shape) % shard_counts(problem.layouts(value), len(shape), MESH) == 0).all()
    hidden = problem.variables[problem.network.names.index("h")]
    assert (factor_shards(hidden.codes, 3, MESH) == 2).any(axis=0).tolist() == [True, True, True]


def test_a_carry_that_is_no_argument_may_be_padded() -> None:
    problem = build_problem(scanned_feed_forward(b=5), MESH, padding=True)
    carry = problem.variables[problem.network.names.index("carry")]
    assert [B] in carry.codes.tolist()


def test_reshards_that_move_padded_blocks_are_not_offered() -> None:
    mesh = mesh_of("v5e:2x4")
    problem = build_problem(two_readers(b=25), mesh, padding=True)
    for edge in problem.edges:
        if edge.source == edge.target:
            continue
        matrix = problem.network.pairwise[min(edge.source, edge.target), max(edge.source, edge.target)]
        matrix = matrix if edge.source < edge.target else matrix.T
        shape = problem.graph.values[edge.value].shape
        moved = moves_blocks(edge.source_layouts, edge.target_layouts, shape, mesh)
        assert moved is None or np.isinf(matrix[moved]).all()


def test_a_padded_block_is_not_cut_out_of_a_weight_in_a_loop() -> None:
    # The compiler copies the weight of the layer first; outside of a loop it reads the block in place.
    for graph, finite in ((scanned_feed_forward(f=15), False), (feed_forward(f=15), True)):
        problem = build_problem(graph, MESH, padding=True)
        read = next(e for e in problem.edges if graph.ops[e.op].name == "h" and e.position == 1)
        whole = read.source_layouts.tolist().index([NONE])
        cut = problem.variables[read.target].codes.tolist().index([2])  # f
        assert np.isfinite(problem.network.pairwise[read.source, read.target][whole, cut]) == finite
