"""Which of several axes on one dim comes first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.search.building import build_problem
from autoshard.search.ordering import Orders, unreduced_axes
from autoshard.search.problem import Problem
from tests.search.graphs import (
    Sketch,
    feed_forward,
    labels_of,
    mesh_of,
    scanned_feed_forward,
    split_heads,
    two_readers,
)

CUBE = mesh_of("v4:2x2x2")
X, Y, Z = 0, 1, 2
NONE, B, E, F = -1, 0, 1, 2
"""Factors of h = BE,EF->BF; those of y = BF,FE->BE are 0, 1, 2 for b, f, e."""


def test_layouts_without_a_choice_are_written_down() -> None:
    problem = build_problem(feed_forward(), CUBE)
    orders = Orders(problem, labels_of(problem, wi=[0, 1, NONE], h=[E, F, B]))
    op = problem.graph.ops[0]
    assert orders.spec_of_value(problem.graph.arguments[1]) == ((X,), (Y,))
    assert orders.spec_of_operand(op, 0) == ((Z,), (X,))
    assert orders.spec_of_operand(op, 1) == ((X,), (Y,))
    assert orders.spec_of_result(op, 0) == ((Z,), (Y,))
    assert orders.permute_seconds == 0.0


@pytest.mark.parametrize("gathered", [X, Y, Z])
def test_what_is_gathered_is_minor_at_rest(gathered: int) -> None:
    # The weight rests as EF_xyz and is read without one of the axes: that one comes last.
    problem = build_problem(feed_forward(), CUBE)
    read = [NONE if axis == gathered else F for axis in (X, Y, Z)]
    orders = Orders(problem, labels_of(problem, wi=[1, 1, 1], h=read))
    _, at_rest = orders.spec_of_value(problem.graph.arguments[1])
    _, wanted = orders.spec_of_operand(problem.graph.ops[0], 1)
    assert at_rest == (*wanted, gathered)
    assert set(wanted) == {X, Y, Z} - {gathered}
    assert orders.permute_seconds == 0.0


def test_readers_that_contradict_each_other_cost_one_permute() -> None:
    # Both read h, one without x and one without y; h_out on f over x and y can please only one.
    problem = build_problem(two_readers(), CUBE)
    labels = labels_of(problem, h=[F, F, NONE], h_out=[1, 1, NONE], y1=[NONE, 1, NONE], y2=[1, NONE, NONE])
    orders = Orders(problem, labels)
    quarter = 2 * 4 * 16 / 4
    expected = collective_seconds(Kind.COLLECTIVE_PERMUTE, quarter, (X, Y, Z), CUBE)
    assert orders.permute_seconds == pytest.approx(expected)


def test_a_permute_in_a_loop_counts_its_trips() -> None:
    problem = build_problem(scanned_feed_forward(layers=3), CUBE)
    # The carry rests over x and y on e; one reader keeps x, the other keeps y.
    labels = labels_of(problem, carry=[1, 1, NONE], h=[E, NONE, NONE], sum=[NONE, 1, NONE])
    permute = collective_seconds(Kind.COLLECTIVE_PERMUTE, 2 * 4 * 8 / 4, (X, Y, Z), CUBE)
    assert Orders(problem, labels).permute_seconds == pytest.approx(3 * permute)


def test_axes_from_elsewhere_come_after_axes_from_nowhere() -> None:
    # b over x, then f over x and y: y is sliced first, x moves behind it.
    problem = build_problem(feed_forward(), CUBE)
    labels = labels_of(problem, h=[B, NONE, NONE], y=[1, 1, NONE])
    orders = Orders(problem, labels)
    assert orders.spec_of_operand(problem.graph.ops[1], 0) == ((), (Y, X))
    assert orders.permute_seconds == 0.0


def test_a_stack_keeps_its_first_dim_whole() -> None:
    problem = build_problem(scanned_feed_forward(), CUBE)
    orders = Orders(problem, labels_of(problem, wi=[0, 1, NONE]))
    assert orders.spec_of_value(problem.graph.arguments[1]) == ((), (X,), (Y,))


def test_a_merged_dim_lists_the_axes_of_the_major_factor_first() -> None:
    problem = build_problem(split_heads(h=2, d=4), CUBE)
    op = problem.graph.ops[0]
    labels = labels_of(problem, x=[1, 1, NONE], **{op.name: [2, 1, NONE]})
    orders = Orders(problem, labels)
    assert orders.spec_of_operand(op, 0) == ((), (Y, X))
    assert orders.spec_of_result(op, 0) == ((), (Y,), (X,))
    assert orders.spec_of_value(problem.graph.arguments[0]) == ((), (Y, X))
    assert orders.permute_seconds == 0.0


def test_each_operand_of_a_value_read_twice_has_its_own_order() -> None:
    sketch = Sketch({"b": 8, "c": 8, "e": 8})
    x = sketch.argument("x", "be")
    problem = build_problem(sketch.graph(sketch.einsum("be,ce->bc", x, x, name="gram")), CUBE)
    # x rests over all of dim 0; as rows it is read over x and y, as columns over z.
    orders = Orders(problem, labels_of(problem, x=[0, 0, 0], gram=[0, 0, 2]))
    op = problem.graph.ops[0]
    (rows, _), (columns, _) = orders.spec_of_operand(op, 0), orders.spec_of_operand(op, 1)
    assert set(rows) == {X, Y}
    assert columns == (Z,)
    permute = collective_seconds(Kind.COLLECTIVE_PERMUTE, 2 * 8 * 8 / 8, (X, Y, Z), CUBE)
    assert orders.permute_seconds == pytest.approx(permute)  # the major axis cannot be x or y, and z


def test_open_axes_are_listed() -> None:
    assert unreduced_axes(np.array([-2, 0, -2, -1], dtype=np.int8)) == (0, 2)


PROBLEMS = [build_problem(graph, CUBE) for graph in (feed_forward(8, 8, 8), two_readers(8, 8, 8))]


@st.composite
def _plans(draw: st.DrawFn) -> tuple[Problem, tuple[int, ...]]:
    problem = draw(st.sampled_from(PROBLEMS))
    return problem, tuple(draw(st.integers(0, size - 1)) for size in problem.network.sizes)


@settings(deadline=None, max_examples=40)
@given(_plans())
def test_orders_only_rearrange_the_layouts(plan: tuple[Problem, tuple[int, ...]]) -> None:
    problem, labels = plan
    orders = Orders(problem, labels)
    assert orders.permute_seconds >= 0.0
    for value, number in problem.value_variable.items():
        spec = orders.spec_of_value(value)
        code = problem.layouts(value)[labels[number]].tolist()
        sharded = {axis: entry for axis, entry in enumerate(code) if entry >= 0}
        assert {axis: dim for dim, axes in enumerate(spec) for axis in axes} == sharded
        assert sum(map(len, spec)) == len(sharded)
