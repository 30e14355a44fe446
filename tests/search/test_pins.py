"""Pinned problems: the pinned layouts hold, and the optimum is that of brute force over the labels left."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from autoshard.search.building import build_problem
from autoshard.search.decisions import spell_out
from autoshard.search.errors import PinError, SearchError
from autoshard.search.graph import Graph
from autoshard.search.pins import Banned, OpPin, Pin, ValuePin, pinned
from autoshard.search.planner import search_plans
from autoshard.search.problem import Problem
from tests.search.graphs import cache_update, feed_forward, mesh_of, scanned_feed_forward, two_readers

NONE = -1
PLENTY = 1e12


def problem_of(graph: Graph, slice_name: str = "v5e:1x2") -> Problem:
    return build_problem(graph, mesh_of(slice_name))


def argument(problem: Problem, name: str) -> int:
    (found,) = (value for value in problem.graph.arguments if problem.graph.values[value].name == name)
    return found


def layout_of(problem: Problem, labels: Sequence[int], value: int) -> tuple[int, ...]:
    layouts = problem.layouts(value)
    return tuple(int(entry) for entry in layouts[labels[problem.value_variable[value]]])


def brute_force(problem: Problem, **layouts: tuple[int, ...]) -> float:
    """The least value among the plans of a problem in which some arguments have given layouts."""
    wanted = {argument(problem, name): layout for name, layout in layouts.items()}
    plans = itertools.product(*(range(size) for size in problem.network.sizes))
    return min(
        problem.network.value(labels)
        for labels in plans
        if all(layout_of(problem, labels, value) == layout for value, layout in wanted.items())
    )


@pytest.mark.parametrize("layout", [(0,), (1,), (NONE,)])
@pytest.mark.parametrize("name", ["wi", "wo", "x"])
def test_the_optimum_is_that_of_brute_force(name: str, layout: tuple[int, ...]) -> None:
    problem = problem_of(feed_forward(512, 128, 512))
    pin = ValuePin(argument(problem, name), layout, "pin")
    best = search_plans(pinned(problem, [pin]), PLENTY, gap=0.0).candidates[0]
    assert layout_of(problem, best.labels, pin.value) == layout
    assert problem.network.value(best.labels) == pytest.approx(brute_force(problem, **{name: layout}))


def test_a_pin_on_an_einsum_is_how_it_reads_and_leaves_its_tensors() -> None:
    # BE_x,E_xF_y->BF_y: x is on the summed e, so the result is an open sum over x and says nothing of it.
    problem = problem_of(feed_forward(512, 128, 512), "v5e:2x2")
    pin = OpPin(0, ((NONE, NONE), None), (NONE, 1), "pin")
    free, held = (pinned(problem, [each]) for each in (pin, OpPin(0, ((1, NONE), (0, 1)), (NONE, 1), "pin")))
    (decision, *_) = spell_out(problem, search_plans(held, PLENTY).candidates[0].labels).ops
    assert decision.operands[0][-1] == ((), (0,))
    assert decision.operands[1][-1] == ((0,), (1,))
    assert decision.made == ((), (1,))
    assert decision.open_axes == (0,)
    (decision, *_) = spell_out(problem, search_plans(free, PLENTY).candidates[0].labels).ops
    assert decision.operands[0][-1] == ((), ())
    assert decision.made == ((), (1,))


def test_the_bound_and_all_runners_up_are_those_of_the_pinned_problem() -> None:
    problem = problem_of(feed_forward(512, 4096, 16384), "v5e:2x2")
    best = search_plans(problem, PLENTY)
    whole = (NONE, NONE)
    pin = OpPin(0, (whole, whole), None, "pin")  # four times the work of the first of two einsums
    outcome = search_plans(pinned(problem, [pin]), PLENTY, top_k=3)
    assert outcome.bound_seconds > 1.5 * best.candidates[0].seconds
    assert len(outcome.candidates) > 1
    for candidate in outcome.candidates:
        (decision, *_) = spell_out(problem, candidate.labels).ops
        assert [chain[-1] for chain in decision.operands] == [((), ()), ((), ())]


def test_runners_up_keep_to_a_pin_that_tells_equal_axes_apart() -> None:
    problem = problem_of(feed_forward(512, 4096, 16384), "v5e:2x2")
    pin = ValuePin(argument(problem, "wi"), (0, 1), "pin")
    outcome = search_plans(pinned(problem, [pin]), PLENTY, top_k=3)
    assert len(outcome.candidates) > 1
    assert {layout_of(problem, each.labels, pin.value) for each in outcome.candidates} == {pin.layout}


def test_tied_values_are_pinned_together() -> None:
    # The argument wi is the stack [l, e, f] of what a trip of the loop reads: f is its dim 2.
    problem = problem_of(scanned_feed_forward(3, 4, 8, 16))
    pin = ValuePin(argument(problem, "wi"), (2,), "pin")
    best = search_plans(pinned(problem, [pin]), PLENTY).candidates[0]
    (inner,) = (tie.inner for tie in problem.graph.ties if tie.outer == pin.value)
    assert layout_of(problem, best.labels, pin.value) == (2,)
    assert layout_of(problem, best.labels, inner) == (1,)


def test_no_pins_leave_the_problem_as_it_is() -> None:
    problem = problem_of(feed_forward())
    assert pinned(problem, []) is problem


def test_an_axis_of_one_chip_shards_nothing() -> None:
    problem = problem_of(feed_forward(), "v5e:1x1")
    pin = ValuePin(argument(problem, "wi"), (1,), "pin")
    assert pinned(problem, [pin]).network.value([0] * len(problem.variables)) < math.inf


def test_what_is_whole_anyway_may_be_pinned_whole() -> None:
    problem = problem_of(feed_forward())
    unnamed = next(v.index for v in problem.graph.values if v.index not in problem.value_variable)
    assert pinned(problem, [ValuePin(unnamed, (NONE,), "pin")]).network.value is not None
    with pytest.raises(PinError, match="stays whole on every chip"):
        pinned(problem, [ValuePin(unnamed, (0,), "pin")])


def refused(problem: Problem, *pins: Pin) -> str:
    with pytest.raises(PinError) as caught:
        pinned(problem, pins)
    assert isinstance(caught.value, SearchError)
    return str(caught.value)


def test_a_layout_that_does_not_divide_says_so_and_what_does() -> None:
    problem = problem_of(feed_forward(4, 8, 15))
    assert refused(problem, ValuePin(argument(problem, "wi"), (1,), "wi=;y")) == (
        "`wi=;y` cannot hold on v5e:1x2: `wi` [8,15] has no layout `;y`: dim 1 of size 15 is not divisible "
        "by 2; possible are `y;`, `;`"
    )


def test_a_dim_that_a_loop_cuts_is_refused() -> None:
    problem = problem_of(scanned_feed_forward(4, 4, 8, 16))
    message = refused(problem, ValuePin(argument(problem, "wi"), (0,), "wi=y;;"))
    assert "one of these dims must stay whole" in message
    assert "possible are `;y;`, `;;y`, `;;`" in message


def test_a_dim_that_an_op_cannot_split_is_refused() -> None:
    problem = problem_of(cache_update(donated=False))
    message = refused(problem, OpPin(0, ((1,),), None, "cache"))
    assert "operand 0 of `dynamic_update_slice0` [4,32,8] has no layout `;y;`" in message


def test_pins_on_the_operands_that_no_split_joins_are_refused() -> None:
    # b of the left operand over y leaves the right one whole.
    problem = problem_of(feed_forward())
    assert "no way to split `h` (be,ef->bf)" in refused(problem, OpPin(0, ((0,), (1,)), None, "h"))


def test_two_pins_of_one_layout_are_named() -> None:
    problem = problem_of(two_readers())
    wi = argument(problem, "wi")
    message = refused(problem, ValuePin(wi, (0,), "wi=y;"), ValuePin(wi, (1,), "w*=;y"))
    assert message.startswith("`w*=;y` contradicts `wi=y;`")


def test_a_loose_dim_may_have_the_axes_that_are_not_named() -> None:
    # x over dim 0; y may be anywhere but on dim 0.
    problem = problem_of(feed_forward(512, 128, 512), "v5e:2x2")
    value = argument(problem, "wi")
    held = pinned(problem, [ValuePin(value, (0, NONE), "pin", loose=(1,))])
    left = held.network.unary[held.value_variable[value]]
    allowed = {
        tuple(int(a) for a in held.layouts(value)[label])
        for label in range(len(left))
        if left[label] < math.inf
    }
    assert allowed == {(0, NONE), (0, 1)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_the_axes_of_a_dim_can_be_fixed(order: tuple[int, int]) -> None:
    problem = problem_of(feed_forward(512, 128, 512), "v5e:2x2")
    value = argument(problem, "wi")
    held = pinned(problem, [ValuePin(value, (1, 1), "pin", order=((), order))])
    decisions = spell_out(held, search_plans(held, PLENTY).candidates[0].labels)
    assert decisions.spec_of_value(value) == ((), order)


def test_two_orders_of_one_dim_contradict_each_other() -> None:
    problem = problem_of(feed_forward(512, 128, 512), "v5e:2x2")
    value = argument(problem, "wi")
    pins = [
        ValuePin(value, (1, 1), text, order=((), order)) for text, order in (("a", (0, 1)), ("b", (1, 0)))
    ]
    with pytest.raises(PinError, match="`b` contradicts `a`"):
        pinned(problem, pins)


def test_of_many_pins_those_that_no_plan_has_together_are_named() -> None:
    problem = problem_of(feed_forward(512, 128, 512))
    wi, wo, x = (argument(problem, name) for name in ("wi", "wo", "x"))
    first, second = (problem.value_variable[value] for value in (wi, wo))
    network = problem.network.copy()
    forbidden = [
        [
            math.inf if layout_is(problem, wi, i, (0,)) and layout_is(problem, wo, j, (1,)) else 0.0
            for j in range(problem.network.size(second))
        ]
        for i in range(problem.network.size(first))
    ]
    network.add_pairwise(first, second, forbidden)
    pins: list[Pin] = [
        ValuePin(x, (0,), "x"),
        ValuePin(wi, (0,), "wi"),
        OpPin(0, (), None, "op"),
        ValuePin(wo, (1,), "wo"),
    ]
    with pytest.raises(PinError, match="no plan has all of the layouts `wi`, `wo`: "):
        pinned(replace(problem, network=network), pins)


def layout_is(problem: Problem, value: int, label: int, layout: tuple[int, ...]) -> bool:
    return tuple(int(entry) for entry in problem.layouts(value)[label]) == layout


# ---- bans


def banned(*pairs: tuple[int, int]) -> Banned:
    return Banned(frozenset(pairs))


@pytest.mark.parametrize("pairs", [{(0, 0)}, {(0, 1)}, {(0, 0), (0, 1)}])
@pytest.mark.parametrize("name", ["wi", "wo", "x"])
def test_the_optimum_under_a_ban_is_that_of_brute_force(name: str, pairs: set[tuple[int, int]]) -> None:
    problem = problem_of(feed_forward(512, 128, 512))
    value = argument(problem, name)
    held = pinned(problem, [ValuePin(value, Banned(frozenset(pairs)), "ban")])
    best = search_plans(held, PLENTY, gap=0.0).candidates[0]
    plans = itertools.product(*(range(size) for size in problem.network.sizes))
    allowed = [
        problem.network.value(labels)
        for labels in plans
        if all(layout_of(problem, labels, value)[axis] != dim for axis, dim in pairs)
    ]
    assert problem.network.value(best.labels) == pytest.approx(min(allowed))
    assert all(layout_of(problem, best.labels, value)[axis] != dim for axis, dim in pairs)


def test_a_ban_on_an_einsum_is_of_what_it_reads_and_leaves() -> None:
    problem = problem_of(feed_forward(512, 4096, 16384), "v5e:2x2")
    (free, *_) = spell_out(problem, search_plans(problem, PLENTY).candidates[0].labels).ops
    read = free.operands[1][-1]
    dim, axis = next((dim, axes[0]) for dim, axes in enumerate(read) if axes)
    held = pinned(problem, [OpPin(0, (None, banned((axis, dim))), None, "ban")])
    (decision, *_) = spell_out(problem, search_plans(held, PLENTY).candidates[0].labels).ops
    assert axis not in decision.operands[1][-1][dim]
    held = pinned(problem, [OpPin(0, (), banned((0, 1), (1, 1)), "ban")])
    (decision, *_) = spell_out(problem, search_plans(held, PLENTY).candidates[0].labels).ops
    assert decision.made[1] == ()


def test_a_ban_on_what_stays_whole_holds_anyway() -> None:
    problem = problem_of(feed_forward())
    unnamed = next(v.index for v in problem.graph.values if v.index not in problem.value_variable)
    assert pinned(problem, [ValuePin(unnamed, banned((0, 0)), "ban")]).network.sizes == problem.network.sizes


def test_a_ban_that_contradicts_a_pin_names_both() -> None:
    problem = problem_of(two_readers())
    wi = argument(problem, "wi")
    message = refused(problem, ValuePin(wi, (0,), "wi=y;"), ValuePin(wi, banned((0, 0)), "w*=y;*"))
    assert message.startswith("`w*=y;*` contradicts `wi=y;`")
