"""The time/memory front against brute force, over one problem and over several."""

import itertools
import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.budget_search import BudgetSearch
from autoshard.search.building import build_problem
from autoshard.search.errors import BudgetError
from autoshard.search.least_memory import TOLERANCE, least_memory
from autoshard.search.memory import MemoryModel
from autoshard.search.memory_front import FrontPoint, MemoryFront
from autoshard.search.problem import Problem
from tests.search.graphs import (
    PROGRAMS,
    mesh_of,
)

PLENTY = 1e12
SIZES = st.sampled_from(((4, 8, 16), (512, 128, 512)))
CASES = st.tuples(st.sampled_from(sorted(PROGRAMS)), SIZES)
Case = tuple[str, tuple[int, int, int]]


@cache
def _problem(case: Case) -> Problem:
    name, sizes = case
    return build_problem(PROGRAMS[name](*sizes), mesh_of("v5e:1x2"))


@cache
def _everything(case: Case) -> tuple[tuple[float, float], ...]:
    """Step time and peak of all plans of a problem on two chips."""
    problem = _problem(case)
    memory = MemoryModel(problem)
    plans = itertools.product(*(range(size) for size in problem.network.sizes))
    values = ((problem.network.value(labels), labels) for labels in plans)
    return tuple(
        (value - problem.rest_seconds(labels), memory.peak(labels).nbytes)
        for value, labels in values
        if math.isfinite(value)
    )


def _fastest(cases: list[Case], limit_bytes: float) -> float:
    plans = (plan for case in cases for plan in _everything(case))
    return min(seconds for seconds, nbytes in plans if nbytes <= limit_bytes * (1 + 1e-9))


def _front(cases: list[Case], count: int) -> tuple[MemoryFront, list[FrontPoint]]:
    front = MemoryFront([_problem(case) for case in cases], gap=0.0)
    return front, list(front.points(PLENTY, count))


def _at_rest(cases: list[Case]) -> float:
    """What the tie-breaking price of memory may hide: seconds by which the optimum of values may be late."""
    graphs = [_problem(case).graph for case in cases]
    return max(1e-5 * 4 * sum(value.nbytes for value in graph.values) / (819e9 * 0.75) for graph in graphs)


@settings(deadline=None, max_examples=12)
@given(st.lists(CASES, min_size=1, max_size=2), st.integers(2, 9))
def test_every_point_is_the_optimum_under_its_budget(cases: list[Case], count: int) -> None:
    front, points = _front(cases, count)
    assert len(points) <= count
    for point in points:
        true = _fastest(cases, point.budget_bytes)
        assert true - 1e-15 <= point.candidate.seconds <= true + _at_rest(cases)
        assert point.bound_seconds <= true * (1 + 1e-9)
        assert point.candidate.peak.nbytes <= point.budget_bytes * (1 + 1e-9)
    least = min(nbytes for case in cases for _, nbytes in _everything(case))
    assert least * (1 - 1e-12) <= front.least.nbytes <= least * (1 + 2 * TOLERANCE)
    assert front.least.bound_bytes <= least * (1 + 1e-12)
    assert points[-1].candidate.peak.nbytes <= least * 1.002


@settings(deadline=None, max_examples=12)
@given(st.lists(CASES, min_size=1, max_size=2))
def test_budgets_fall_and_no_plan_is_given_twice(cases: list[Case]) -> None:
    _, points = _front(cases, 9)
    for before, after in itertools.pairwise(points):
        assert after.budget_bytes < before.candidate.peak.nbytes
        assert after.candidate.seconds >= before.candidate.seconds - _at_rest(cases)


@settings(deadline=None, max_examples=12)
@given(CASES, st.data())
def test_earlier_limits_change_no_optimum(case: Case, data: st.DataObject) -> None:
    limits = sorted({nbytes for _, nbytes in _everything(case)})
    asked = data.draw(st.lists(st.sampled_from(limits), min_size=2, max_size=5))
    search = BudgetSearch(_problem(case), gap=0.0)
    for limit in asked:
        true = _fastest([case], limit)
        assert true - 1e-15 <= search.best(limit).candidate.seconds <= true + _at_rest([case])


def test_one_point_is_the_fastest_plan() -> None:
    case = ("feed forward", (512, 128, 512))
    (point,) = MemoryFront([_problem(case)], gap=0.0).points(PLENTY, 1)
    assert point.candidate.seconds == pytest.approx(_fastest([case], PLENTY))


def test_the_plan_is_that_of_the_best_problem() -> None:
    # The same program four times as large is never the best of the two.
    small, large = ("feed forward", (512, 128, 512)), ("feed forward", (512, 128, 16))
    _, points = _front([small, large], 4)
    assert {point.problem for point in points} == {1}


def test_less_than_the_least_is_an_error() -> None:
    case = ("feed forward", (4, 8, 16))
    search = BudgetSearch(_problem(case), gap=0.0)
    least = least_memory(search)
    assert least.nbytes == min(nbytes for _, nbytes in _everything(case))
    with pytest.raises(BudgetError):
        search.best(least.nbytes * 0.999)
    with pytest.raises(BudgetError):
        list(MemoryFront([_problem(case)], gap=0.0).points(least.nbytes * 0.999, 3))
