"""Followers: a chain is one decision, costs and rows are unchanged, the optimum is the whole network's."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.building import build_problem
from autoshard.search.followers import Followers, fold_followers
from autoshard.search.graph import Graph
from autoshard.search.memory import MemoryModel
from autoshard.search.problem import Problem
from autoshard.search.solver import solve
from tests.search.graphs import Sketch, feed_forward, mesh_of, parallel_sum, two_readers


def gated(readers: int = 1) -> Graph:
    """h = BE,EF->BF; r = relu h; g = r * exp r; then `readers` einsums BF,FE->BE of g."""
    sketch = Sketch({"b": 8, "e": 8, "f": 16})
    x, wi = sketch.argument("x", "be"), sketch.argument("wi", "ef")
    outs = [sketch.argument(f"wo{i}", "fe") for i in range(readers)]
    h = sketch.einsum("be,ef->bf", x, wi, name="h")
    r = sketch.elementwise("relu", h, name="r")
    g = sketch.elementwise("mul", r, sketch.elementwise("exp", r, name="e"), name="g")
    return sketch.graph(*(sketch.einsum("bf,fe->be", g, wo, name=f"y{i}") for i, wo in enumerate(outs)))


@cache
def problem_of(case: str) -> Problem:
    graphs = {
        "gated": gated(),
        "two readers": gated(2),
        "plain": feed_forward(8, 8, 16),
        "shared": two_readers(8, 8, 16),
        "sums": parallel_sum(8, 8, 16),
    }
    return build_problem(graphs[case], mesh_of("v5e:2x4"))


CASES = ("gated", "two readers", "plain", "shared", "sums")


def leaders(problem: Problem, followers: Followers, *names: str) -> set[int]:
    numbers = {
        op.name: problem.op_variable[op.index] for op in problem.graph.ops if op.index in problem.op_variable
    }
    return {followers.leader[numbers[name]] for name in names}


def test_a_chain_of_elementwise_ops_is_one_decision() -> None:
    problem = problem_of("gated")
    followers = fold_followers(problem)
    assert len(leaders(problem, followers, "r", "e", "g")) == 1
    # The einsum's open sum must be closed before relu: it decides for itself.
    assert len(leaders(problem, followers, "h", "r")) == 2
    # r is read twice, so it has a layout variable of its own, which follows too.
    (r,) = (op.results[0] for op in problem.graph.ops if op.name == "r")
    assert followers.leader[problem.value_variable[r]] in leaders(problem, followers, "r")


def test_what_two_einsums_share_stays_a_decision() -> None:
    problem = problem_of("two readers")
    followers = fold_followers(problem)
    (g,) = (op.results[0] for op in problem.graph.ops if op.name == "g")
    assert followers.leader[problem.value_variable[g]] not in leaders(problem, followers, "g")


def test_without_chains_nothing_follows() -> None:
    for case in ("plain", "shared"):
        assert len(set(fold_followers(problem_of(case)).leader)) == len(problem_of(case).variables)


@pytest.mark.parametrize("case", CASES)
def test_the_optimum_is_that_of_the_whole_network(case: str) -> None:
    problem = problem_of(case)
    followers = fold_followers(problem)
    folded, whole = solve(followers.network), solve(problem.network)
    assert folded.value == pytest.approx(whole.value)
    assert problem.network.value(followers.expand(folded.labels)) == pytest.approx(whole.value)


@settings(deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_costs_and_rows_are_those_of_the_expanded_labels(case: str, data: st.DataObject) -> None:
    problem = problem_of(case)
    followers = fold_followers(problem)
    labels = tuple(data.draw(st.integers(0, size - 1)) for size in followers.network.sizes)
    expanded = followers.expand(labels)
    assert followers.network.value(labels) == pytest.approx(problem.network.value(expanded))
    point = data.draw(st.integers(0, len(problem.graph.ops) - 1))
    row, _ = MemoryModel(problem).row(point)
    assert followers.row(row).use(labels) == pytest.approx(row.use(expanded))
