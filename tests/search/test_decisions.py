"""Plans spelled out op by op."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoshard.cost.collectives import Kind, stage_laws
from autoshard.cost.cost import op_cost
from autoshard.search.building import build_problem
from autoshard.search.candidates import PARTIAL
from autoshard.search.decisions import Decisions, OpDecision, spell_out
from autoshard.search.movements import COPY
from autoshard.search.problem import Problem
from tests.search.graphs import (
    Sketch,
    feed_forward,
    labels_of,
    mesh_of,
    parallel_sum,
    scanned_feed_forward,
    two_readers,
)

PLANE = mesh_of("v5e:2x2")
CUBE = mesh_of("v4:2x2x2")
X, Y = 0, 1
NONE, B, E, F = -1, 0, 1, 2
"""Factors of h = BE,EF->BF; those of y = BF,FE->BE are 0, 1, 2 for b, f, e."""


def _named(decisions: Decisions, name: str) -> OpDecision:
    (found,) = (decision for decision in decisions.ops if decision.op.name == name)
    return found


def _kinds(decision: OpDecision) -> list[tuple[str, tuple[str, ...], float]]:
    return [(m.kind, m.axes, m.bytes_per_chip) for m in decision.movements]


def test_a_weight_stationary_feed_forward() -> None:
    problem = build_problem(feed_forward(), PLANE)
    # x: BE_x, wi: E_xF_y -> BF_y open over x, reduced; wo: F_yE_x -> BE_x open over y, reduced.
    labels = labels_of(problem, x=[1, NONE], wi=[0, 1], wo=[1, 0], h=[E, F], y=[2, 1], result0=[1, NONE])
    decisions = spell_out(problem, labels)
    h, y = _named(decisions, "h"), _named(decisions, "y")
    assert h.operands == ((((), (X,)),), (((X,), (Y,)),))
    assert (h.made, h.open_axes) == (((), (Y,)), (X,))
    assert h.result == (((), (Y,)),)  # closed by an all-reduce
    assert _kinds(y) == [("all-reduce", ("x",), 2 * 4 * 16 / 2)]  # attributed to the einsum that reads h
    assert y.operands[0] == (((), (Y,)),)
    assert (y.made, y.open_axes) == (((), (X,)), (Y,))
    assert y.result == (((), (X,)),)
    assert _kinds(_named(decisions, "result0")) == [("all-reduce", ("y",), 2 * 4 * 8 / 2)]
    assert decisions.spec_of_value(problem.graph.results[0]) == ((), (X,))
    assert h.flops_per_chip == 2 * 4 * 8 * 16 / 4


def test_a_stored_weight_is_sliced_where_it_is_read() -> None:
    """Its own spec comes first, or the partitioner slices the whole stack ahead of the loop."""
    problem = build_problem(feed_forward(), PLANE)
    decisions = spell_out(problem, labels_of(problem, wi=[1, NONE], h=[F, E], x=[NONE, 1]))
    assert _named(decisions, "h").operands[1] == (((), (X,)), ((Y,), (X,)))
    assert _named(decisions, "y").operands[1] == (((), ()),)


def test_a_stored_weight_changes_dims_where_it_is_read() -> None:
    """The whole stack is not exchanged ahead of the loop either; one that is only gathered needs no help."""
    problem = build_problem(feed_forward(), PLANE)
    exchanged = spell_out(problem, labels_of(problem, wi=[1, NONE], h=[E, NONE], x=[1, NONE]))
    assert _named(exchanged, "h").operands[1] == (((), (X,)), ((X,), ()))
    gathered = spell_out(problem, labels_of(problem, wi=[1, NONE]))
    assert _named(gathered, "h").operands[1] == (((), ()),)


def test_what_an_elementwise_op_makes_is_gathered_once() -> None:
    sketch = Sketch({"b": 4, "e": 8, "f": 16})
    made = sketch.elementwise("exp", sketch.argument("x", "be"), name="made")
    weights = [sketch.argument(name, "ef") for name in ("w1", "w2")]
    graph = sketch.graph(*(sketch.einsum("be,ef->bf", made, w) for w in weights))
    problem = build_problem(graph, PLANE)
    labels = labels_of(problem, x=[0, 1], made=[0, 1])
    (found,) = (d for d in spell_out(problem, labels).ops if d.op.name == "made")
    assert found.result == (((X,), (Y,)), ((), (Y,)), ((), ()))


def test_a_gathered_weight_passes_through_a_chain() -> None:
    problem = build_problem(feed_forward(), PLANE)
    decisions = spell_out(problem, labels_of(problem, wi=[0, 1], x=[0, 0], h=[B, B]))
    h = _named(decisions, "h")
    assert h.operands == ((((X, Y), ()),), (((), (Y,)), ((), ())))
    assert _kinds(h) == [("all-gather", ("x",), 2 * 8 * 16 // 2), ("all-gather", ("y",), 2 * 8 * 16)]
    assert h.movements[0].tensor == "wi"
    assert h.constrained


def test_what_stays_where_it_is_is_not_constrained() -> None:
    problem = build_problem(feed_forward(), PLANE)
    decisions = spell_out(problem, labels_of(problem))
    assert not any(_named(decisions, name).constrained for name in ("h", "y"))
    assert not any(decision.movements for decision in decisions.ops)


def test_what_is_handed_over_in_another_layout_is_constrained_at_its_maker() -> None:
    problem = build_problem(feed_forward(), PLANE)
    decisions = spell_out(problem, labels_of(problem, x=[0, NONE], h=[B, NONE], y=[0, NONE]))
    assert _named(decisions, "y").constrained
    assert _kinds(_named(decisions, "result0")) == [("all-gather", ("x",), 2 * 4 * 8)]


def test_what_a_loop_starts_with_is_brought_there_step_by_step() -> None:
    sketch = Sketch({"b": 4, "l": 8, "e": 16})
    y = sketch.einsum("be,ble->ble", sketch.argument("s", "be"), sketch.argument("x", "ble"), name="y")
    slot = sketch.hand_over(y, "carry")
    problem = build_problem(sketch.graph(sketch.elementwise("mul", slot, name="scaled")), PLANE)
    labels = labels_of(problem, s=[1, 1], x=[2, 2], y=[1, 1], carry=[0, 1], scaled=[0, 1], result0=[0, 1])
    result = _named(spell_out(problem, labels), "y").result
    assert result == (((), (), (X, Y)), ((), (Y,), (X,)), ((X,), (Y,), ()))


def test_open_sums_meet_before_they_are_closed() -> None:
    problem = build_problem(parallel_sum(), PLANE)
    halves = {name: [1, NONE] for name in ("h1", "h2", "y1", "y2")}
    labels = labels_of(problem, **halves, w1=[0, NONE], w2=[0, NONE], sum=[PARTIAL, NONE])
    decisions = spell_out(problem, labels)
    for name in ("y1", "y2"):
        assert _named(decisions, name).result == ()
        assert _named(decisions, name).open_axes == (X,)
    total = _named(decisions, "sum")
    assert total.operands == ((), ())
    assert total.result == (((), ()),)
    assert [kind for decision in decisions.ops for kind in _kinds(decision)] == [
        ("all-reduce", ("x",), 2 * 4 * 8)
    ]


def test_a_shared_result_is_brought_to_where_its_readers_find_it() -> None:
    problem = build_problem(two_readers(), PLANE)
    labels = labels_of(problem, x=[1, NONE], wi=[0, NONE], h=[E, NONE], h_out=[1, NONE])
    h = _named(spell_out(problem, labels), "h")
    assert h.result == (((), ()), ((), (X,)))  # y is idle
    assert [kind for kind, _, _ in _kinds(h)] == ["all-reduce"]  # a scatter that leaves no whole tile
    sliced = labels_of(problem, h_out=[1, NONE])
    assert _named(spell_out(problem, sliced), "h").result == (((), ()), ((), (X,)))
    left_open = labels_of(problem, x=[1, NONE], wi=[0, NONE], h=[E, NONE], h_out=[-2, NONE])
    assert _named(spell_out(problem, left_open), "h").result == ()


def test_loop_slots_are_decisions_and_free_operands_are_none() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    x, scale = sketch.argument("x", "be"), sketch.argument("scale", "be", free=True)
    slot = sketch.hand_over(x, "carry")
    problem = build_problem(sketch.graph(sketch.elementwise("mul", slot, scale, name="scaled")), PLANE)
    decisions = spell_out(problem, labels_of(problem, carry=[0, 1]))
    assert [decision.op.name for decision in decisions.ops] == ["carry", "scaled", "result0"]
    assert _named(decisions, "carry").result == (((X,), (Y,)),)
    assert _named(decisions, "scaled").operands[1] == ()
    assert decisions.spec_of_value(scale) == ((), ())


def test_a_copy_of_a_large_tensor_is_a_movement() -> None:
    problem = build_problem(feed_forward(b=2**14, e=2**13, f=8), PLANE)  # x has 256 MiB
    h = _named(spell_out(problem, labels_of(problem, h=[B, NONE])), "h")
    assert _kinds(h) == [(COPY, ("x",), 2**27)]
    copied = 2 * 2**27 / (819e9 * 0.75)
    assert h.movements[0].seconds == pytest.approx(copied)
    # It is HBM traffic of its own, beside the op's: not overlapped with its compute.
    assert h.cost.hbm_seconds == pytest.approx(h.hbm_seconds + copied)
    chip = PLANE.slice.chip
    own = op_cost(h.compute_seconds, h.hbm_seconds, chip.kernel_seconds, chip.serial_fraction)
    assert h.cost.seconds == pytest.approx(own.seconds + copied)


PROBLEMS = [
    build_problem(graph, PLANE)
    for graph in (feed_forward(), scanned_feed_forward(), two_readers(), parallel_sum())
]


@settings(deadline=None)
@given(st.sampled_from(PROBLEMS), st.data())
def test_decisions_add_up_to_the_value_of_the_plan(problem: Problem, data: st.DataObject) -> None:
    labels = tuple(data.draw(st.integers(0, size - 1)) for size in problem.network.sizes)
    value = problem.network.value(labels) - problem.rest_seconds(labels)
    assume(math.isfinite(value))
    decisions = spell_out(problem, labels)
    whole = value + decisions.orders.permute_seconds
    assert decisions.cost.seconds == pytest.approx(whole)
    parts = [d.executions * d.cost.seconds for d in decisions.ops]
    assert sum(parts) == pytest.approx(whole)


def test_a_permute_of_the_order_of_axes_is_a_movement_of_its_reader() -> None:
    # h_out rests over x and y on f; one reader keeps x and the other y, so one of them permutes a quarter.
    problem = build_problem(two_readers(), CUBE)
    labels = labels_of(problem, h=[F, F, NONE], h_out=[1, 1, NONE], y1=[NONE, 1, NONE], y2=[1, NONE, NONE])
    decisions = spell_out(problem, labels)
    found = [
        (decision.op.name, movement)
        for decision in decisions.ops
        for movement in decision.movements
        if movement.kind == "collective-permute"
    ]
    ((reader, permute),) = found
    assert reader in ("y1", "y2")
    assert (permute.axes, permute.tensor, permute.bytes_per_chip) == (("x", "y"), "h_out", 2 * 4 * 16 / 4)
    assert permute.seconds == pytest.approx(decisions.orders.permute_seconds)


def test_costs_keep_the_parts_of_every_collective() -> None:
    # Two slices of 2 chips: x is gathered over both, the first einsum's sum over DCN is closed.
    mesh = mesh_of("2*v5e:1x2")
    problem = build_problem(feed_forward(), mesh)
    dcn, y = 0, 1
    labels = labels_of(problem, x=[0, 0], wi=[0, NONE], wo=[NONE, NONE], h=[E, NONE], y=[NONE, NONE])
    h = _named(spell_out(problem, labels), "h")
    assert mesh.names == ("dcn", "y")
    for movement in h.movements:
        indices = tuple(mesh.names.index(name) for name in movement.axes)
        on_slice, across = stage_laws(Kind(movement.kind), indices, mesh)
        assert movement.cost.total_ici_seconds == pytest.approx(
            movement.bytes_per_chip * on_slice.seconds_per_byte
        )
        assert movement.cost.dcn_seconds == pytest.approx(movement.bytes_per_chip * across.seconds_per_byte)
    assert {axis for movement in h.movements for axis in movement.axes} == {mesh.names[dcn], mesh.names[y]}
    assert set(h.cost.ici_seconds) == {"y"}
    assert h.cost.dcn_seconds > 0
    launch = mesh.slice.chip.kernel_seconds
    moved = sum(m.cost.latency_seconds for m in h.movements)
    assert h.cost.latency_seconds == pytest.approx(launch + moved)


@settings(deadline=None)
@given(st.sampled_from(PROBLEMS), st.data())
def test_every_operand_arrives_as_its_op_reads_it(problem: Problem, data: st.DataObject) -> None:
    labels = tuple(data.draw(st.integers(0, size - 1)) for size in problem.network.sizes)
    assume(np.isfinite(problem.network.value(labels)))
    decisions = spell_out(problem, labels)
    for decision in decisions.ops:
        for position, chain in enumerate(decision.operands):
            if chain and decision.op.index in problem.op_variable:
                assert chain[-1] == decisions.orders.spec_of_operand(decision.op, position)
