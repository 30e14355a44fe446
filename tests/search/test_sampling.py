"""Random plans are possible, fit, are told by their seed, and differ in substance."""

import itertools
import math
from collections.abc import Callable

import pytest

from autoshard.search.building import build_problem
from autoshard.search.graph import Graph
from autoshard.search.memory import MemoryModel
from autoshard.search.problem import Problem
from autoshard.search.sampling import random_candidates
from tests.search.graphs import cache_update, feed_forward, mesh_of, parallel_sum, scanned_feed_forward

ANYTHING = math.inf


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(feed_forward(4, 8, 16), mesh_of("v5e:1x2"))


def _code(problem: Problem, labels: tuple[int, ...], name: str) -> int:
    """What the one mesh axis is given to."""
    number = problem.network.names.index(name)
    (code,) = problem.variables[number].codes[labels[number]]
    return int(code)


@pytest.mark.parametrize(
    "program", [feed_forward, parallel_sum, scanned_feed_forward, cache_update], ids=lambda f: f.__name__
)
def test_plans_are_possible_and_distinct(program: Callable[[], Graph]) -> None:
    problem = build_problem(program(), mesh_of("v5e:2x2"))
    found = random_candidates(problem, ANYTHING, 5)
    assert len({candidate.labels for candidate in found}) == 5
    for candidate in found:
        assert math.isfinite(candidate.seconds)
        value = problem.network.value(candidate.labels)
        assert candidate.seconds == pytest.approx(value - problem.rest_seconds(candidate.labels))
        assert candidate.peak == MemoryModel(problem).peak(candidate.labels)


def test_equal_seeds_draw_equal_plans(problem: Problem) -> None:
    assert random_candidates(problem, ANYTHING, 3, seed=7) == random_candidates(problem, ANYTHING, 3, seed=7)
    assert random_candidates(problem, ANYTHING, 3, seed=7) != random_candidates(problem, ANYTHING, 3, seed=8)


def test_fewer_plans_are_the_first_of_more(problem: Problem) -> None:
    assert random_candidates(problem, ANYTHING, 4)[:2] == random_candidates(problem, ANYTHING, 2)


def test_only_plans_that_fit_are_kept(problem: Problem) -> None:
    peaks = [candidate.peak.nbytes for candidate in random_candidates(problem, ANYTHING, 12)]
    middle = sorted(peaks)[len(peaks) // 2]
    assert min(peaks) < middle < max(peaks)
    fitting = random_candidates(problem, middle, 4)
    assert fitting
    assert max(candidate.peak.nbytes for candidate in fitting) <= middle
    # Cut in two, the arguments x (64 B), wi and wo (256 B each) still take 288 B of each chip.
    assert random_candidates(problem, 287.0, 4) == ()


def test_every_way_to_cut_an_einsum_and_to_keep_an_argument_is_drawn(problem: Problem) -> None:
    drawn = [random_candidates(problem, ANYTHING, 1, seed=seed)[0].labels for seed in range(40)]
    # Two chips compute h = BE,EF->BF along b, e or f, or both all of it.
    assert {_code(problem, labels, "h") for labels in drawn} == {-1, 0, 1, 2}
    assert {_code(problem, labels, "wi") for labels in drawn} == {-1, 0, 1}


def test_what_is_forbidden_is_never_drawn() -> None:
    problem = build_problem(parallel_sum(2, 2, 2), mesh_of("v5e:1x2"))
    every = itertools.product(*(range(size) for size in problem.network.sizes))
    assert any(math.isinf(problem.network.value(labels)) for labels in itertools.islice(every, 10_000))
    for seed in range(20):
        (candidate,) = random_candidates(problem, ANYTHING, 1, seed=seed)
        assert math.isfinite(problem.network.value(candidate.labels))
