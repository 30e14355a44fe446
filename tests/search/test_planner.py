"""The best plan against brute force, its bound, its runners-up; and the paper's layouts, which fall out."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost.torus import TorusMesh
from autoshard.search.building import build_problem
from autoshard.search.decisions import spell_out
from autoshard.search.diversity import heavy_einsums, kinds_of
from autoshard.search.errors import BudgetError, NotWorthError
from autoshard.search.graph import Graph
from autoshard.search.memory import MemoryModel
from autoshard.search.movements import COPY
from autoshard.search.planner import Outcome, search_plans, signature
from autoshard.search.problem import Problem
from tests.search.graphs import (
    PROGRAMS,
    feed_forward,
    labels_of,
    mesh_of,
    parallel_sum,
    scanned_feed_forward,
    two_readers,
)

NONE = -1
CASES = st.sampled_from(
    [(name, *sizes) for name in sorted(PROGRAMS) for sizes in ((4, 8, 16), (512, 128, 512))]
)


@cache
def _everything(name: str, b: int, e: int, f: int) -> tuple[Problem, list[tuple[float, float]]]:
    """A problem on two chips; value and peak of all its plans that are possible."""
    problem = build_problem(PROGRAMS[name](b, e, f), mesh_of("v5e:1x2"))
    memory = MemoryModel(problem)
    plans = itertools.product(*(range(size) for size in problem.network.sizes))
    values = ((problem.network.value(labels), labels) for labels in plans)
    return problem, [(value, memory.peak(labels).nbytes) for value, labels in values if math.isfinite(value)]


@cache
def _rest(name: str, b: int, e: int, f: int) -> list[float]:
    """The tie-breaking price in the value of each of these plans."""
    problem, _ = _everything(name, b, e, f)
    plans = itertools.product(*(range(size) for size in problem.network.sizes))
    return [problem.rest_seconds(labels) for labels in plans if math.isfinite(problem.network.value(labels))]


def _best(every: list[tuple[float, float]], limit_bytes: float) -> float:
    return min((value for value, nbytes in every if nbytes <= limit_bytes), default=math.inf)


@settings(deadline=None, max_examples=40)
@given(CASES, st.data())
def test_the_best_plan_is_that_of_brute_force(case: tuple[str, int, int, int], data: st.DataObject) -> None:
    problem, every = _everything(*case)
    limit_bytes = data.draw(st.sampled_from(sorted({nbytes for _, nbytes in every})))
    outcome = search_plans(problem, limit_bytes, gap=0.0)
    best = outcome.candidates[0]
    assert problem.network.value(best.labels) == pytest.approx(_best(every, limit_bytes), rel=1e-9)
    assert best.peak.nbytes <= limit_bytes * (1 + 1e-9)
    assert outcome.bound_seconds <= best.seconds
    assert outcome.gap < 1e-2


@settings(deadline=None, max_examples=20)
@given(CASES, st.data())
def test_more_hbm_never_makes_the_best_plan_slower(
    case: tuple[str, int, int, int], data: st.DataObject
) -> None:
    problem, every = _everything(*case)
    limits = st.sampled_from(sorted({nbytes for _, nbytes in every}))
    little, much = sorted((data.draw(limits), data.draw(limits)))
    seconds = [search_plans(problem, limit, gap=0.0).candidates[0].seconds for limit in (little, much)]
    at_rest = 1e-5 * sum(value.nbytes for value in problem.graph.values) / (819e9 * 0.75)
    assert seconds[1] <= seconds[0] + at_rest  # the tie-breaking price of memory is no part of the seconds


@settings(deadline=None, max_examples=20)
@given(CASES)
def test_the_bound_holds_for_every_plan_that_fits(case: tuple[str, int, int, int]) -> None:
    problem, every = _everything(*case)
    limit_bytes = float(np.median([nbytes for _, nbytes in every]))
    outcome = search_plans(problem, limit_bytes, gap=0.2)
    fitting = [
        value - rest
        for (value, nbytes), rest in zip(every, _rest(*case), strict=True)
        if nbytes <= limit_bytes
    ]
    assert outcome.bound_seconds <= min(fitting)
    assert outcome.candidates[0].peak.nbytes <= limit_bytes


def test_what_cannot_fit_is_an_error_with_the_least_use() -> None:
    problem, every = _everything("feed forward", 4, 8, 16)
    least = min(nbytes for _, nbytes in every)
    with pytest.raises(BudgetError, match="least possible use") as raised:
        search_plans(problem, least - 1)
    assert raised.value.limit == least - 1


def test_the_search_ends_where_the_bound_says_that_no_plan_is_worth_it() -> None:
    problem = build_problem(feed_forward(), mesh_of("v5e:1x2"))
    best = search_plans(problem, 1e9, gap=0.0)
    assert search_plans(problem, 1e9, gap=0.0, worth_seconds=best.candidates[0].seconds) == best
    with pytest.raises(NotWorthError) as caught:
        search_plans(problem, 1e9, gap=0.0, worth_seconds=0.99 * best.bound_seconds)
    assert caught.value.bound_seconds == best.bound_seconds


def test_the_search_says_what_it_does() -> None:
    told: list[str] = []
    search_plans(build_problem(feed_forward(), mesh_of("v5e:1x2")), 1e9, on_step=told.append)
    assert len(told) == 1
    assert told[0].endswith("GiB per chip")


def test_runners_up_fit_differ_in_substance_and_are_sorted() -> None:
    problem = build_problem(feed_forward(512, 4096, 16384), mesh_of("v5e:2x2"))
    outcome = search_plans(problem, 16e9, top_k=4)
    assert len(outcome.candidates) == 4
    seconds = [candidate.seconds for candidate in outcome.candidates]
    assert seconds == sorted(seconds)
    assert len({signature(problem, candidate.labels, 0.0) for candidate in outcome.candidates}) == 4
    assert all(candidate.peak.nbytes <= 16e9 for candidate in outcome.candidates)


CUBE_PROBLEMS = [
    build_problem(graph, mesh_of("v4:2x2x2"))
    for graph in (feed_forward(8, 8, 8), two_readers(8, 8, 8), parallel_sum(8, 8, 8))
]


def _renamed(problem: Problem, labels: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    renamed = []
    for variable, label in zip(problem.variables, labels, strict=True):
        renamed.append(variable.codes.tolist().index(variable.codes[label][list(order)].tolist()))
    return tuple(renamed)


@settings(deadline=None)
@given(st.sampled_from(CUBE_PROBLEMS), st.permutations([0, 1, 2]), st.data())
def test_a_renaming_of_equal_axes_changes_nothing(
    problem: Problem, order: list[int], data: st.DataObject
) -> None:
    labels = tuple(data.draw(st.integers(0, size - 1)) for size in problem.network.sizes)
    renamed = _renamed(problem, labels, tuple(order))
    value = problem.network.value(labels)
    assert problem.network.value(renamed) == pytest.approx(value)
    if math.isfinite(value):
        assert signature(problem, renamed, 0.0) == signature(problem, labels, 0.0)
    for number in heavy_einsums(problem, labels):
        kinds = kinds_of(problem, number)
        assert kinds[labels[number]] == kinds[renamed[number]]


def test_plans_that_communicate_differently_have_different_signatures() -> None:
    problem = CUBE_PROBLEMS[0]
    plans = [labels_of(problem), labels_of(problem, wi=[0, NONE, NONE]), labels_of(problem, wi=[0, 0, NONE])]
    assert len({signature(problem, labels, 0.0) for labels in plans}) == 3
    assert (
        len({signature(problem, labels, 1.0) for labels in plans}) == 1
    )  # not when it takes no time to speak of


def test_kinds_keep_unequal_axes_apart() -> None:
    problem = build_problem(feed_forward(8, 8, 8), mesh_of("v5e:2x4"))
    number = problem.op_variable[0]
    kinds = kinds_of(problem, number)
    assert len(set(kinds)) == len(kinds)


# The paper's layouts (arXiv:2211.05102, section 3.2) on PaLM 540B's feed-forward: 118 layers, e=18432 and
# f=73728. The weights take 641 GB, 10 GB on each of 64 chips: 16 GB leave no axis off either of them.

LAYERS, E, F = 118, 18_432, 73_728
LIMIT_BYTES = 16e9


def _palm(tokens: int, mesh: TorusMesh) -> tuple[Problem, Outcome]:
    graph: Graph = scanned_feed_forward(LAYERS, tokens, E, F, donated=True)
    problem = build_problem(graph, mesh)
    return problem, search_plans(problem, LIMIT_BYTES)


@pytest.mark.parametrize("tokens", [64, 512, 4096])
def test_few_tokens_leave_the_weights_where_they_are(tokens: int) -> None:
    problem, outcome = _palm(tokens, mesh_of("v4:4x4x4"))
    decisions = spell_out(problem, outcome.candidates[0].labels)
    for name, weight in (("h", "wi"), ("y", "wo")):
        (decision,) = (d for d in decisions.ops if d.op.name == name)
        assert not [m for m in decision.movements if m.tensor == weight]
        assert sum(len(axes) for axes in decision.operands[1][-1]) == 3  # all axes are on the weight
        assert decision.flops_per_chip == pytest.approx(2 * tokens * E * F / 64)


def test_two_dims_of_the_weight_are_sharded_when_tokens_are_few() -> None:
    # Section 3.2.2: 2D weight-stationary, E over about sqrt(n / 4) and F over the rest: E_xF_yz on 4x4x4.
    problem, outcome = _palm(512, mesh_of("v4:4x4x4"))
    decisions = spell_out(problem, outcome.candidates[0].labels)
    (h,) = (d for d in decisions.ops if d.op.name == "h")
    assert sorted(len(axes) for axes in h.operands[1][-1]) == [1, 2]
    assert len(h.operands[1][-1][1]) == 2


def test_the_more_tokens_the_more_axes_gather_the_weights() -> None:
    # Section 3.2.3: weight-gathered X, XY, XYZ, as the tokens of a step grow.
    gathered = []
    for tokens in (512, 2**16, 2**19):
        problem, outcome = _palm(tokens, mesh_of("v4:4x4x4"))
        decisions = spell_out(problem, outcome.candidates[0].labels)
        (h,) = (d for d in decisions.ops if d.op.name == "h")
        batch_axes = {problem.mesh.names[axis] for axis in h.operands[0][-1][0]}
        moves = [m for m in h.movements if m.tensor == "wi" and m.kind != COPY]
        assert {m.kind for m in moves} <= {"all-gather"}
        assert {axis for m in moves for axis in m.axes} == batch_axes
        for value in problem.graph.arguments[1:]:
            assert sum(len(axes) for axes in decisions.spec_of_value(value)) == 3  # fully sharded at rest
        assert outcome.candidates[0].peak.nbytes <= LIMIT_BYTES
        gathered.append(len(batch_axes))
    assert gathered[0] == 0 < gathered[1] < gathered[2]


def test_the_weights_at_rest_must_be_sharded_for_memory() -> None:
    problem, outcome = _palm(512, mesh_of("v4:4x4x4"))
    at_rest = LAYERS * 2 * E * F * 2 / 64  # two matrices of bfloat16
    assert outcome.candidates[0].peak.by_kind["arguments"] >= at_rest
    with pytest.raises(BudgetError):
        search_plans(problem, at_rest)
