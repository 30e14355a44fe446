"""Candidates of several meshes: what is the same plan on a finer mesh goes, what only ties stays."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct

from autoshard.candidate_plans import distinct_candidates
from autoshard.cost.slices import parse_slice
from autoshard.graph_building import build_graph
from autoshard.mesh_solving import Solved
from autoshard.mesh_study import meshes_to_try
from autoshard.search.building import build_problem
from autoshard.search.planner import Candidate, Outcome, search_plans
from autoshard.trace import trace


def experts(x: Array, w: Array) -> Array:
    return jnp.einsum("ble,xef->blxf", x, w)


def solved(place: int) -> Solved:
    """The five best plans on one of the meshes of eight chips."""
    x, w = ShapeDtypeStruct((64, 8, 512), "bfloat16"), ShapeDtypeStruct((8, 512, 1024), "bfloat16")
    graph = build_graph(trace(experts, (x, w)))
    problem = build_problem(graph, meshes_to_try(parse_slice("v5e:2x4"), "auto")[place])
    return Solved(problem, search_plans(problem, 2.0**34, top_k=5))


def tied(found: Solved) -> Solved:
    """The same plans, all of them as fast and as large as the first."""
    first = found.outcome.candidates[0]
    same = tuple(Candidate(each.labels, first.seconds, first.peak) for each in found.outcome.candidates)
    return replace(found, outcome=Outcome(same, 0.0, "tied"))


def test_plans_that_tie_and_cut_differently_are_all_kept() -> None:
    found = tied(solved(0))
    labels = [candidate.labels for candidate in found.outcome.candidates]
    assert len(labels) >= 3
    assert [candidate.labels for _, candidate in distinct_candidates([found], 5)] == labels
    assert [candidate.labels for _, candidate in distinct_candidates([found], 2)] == labels[:2]


def test_a_copy_on_a_finer_mesh_is_dropped() -> None:
    native, finer = solved(0), solved(1)
    best = replace(finer, outcome=replace(finer.outcome, candidates=finer.outcome.candidates[:1]))
    kept = distinct_candidates([native, best], 9)
    assert [each is native for each, _ in kept] == [True] * len(native.outcome.candidates)


def test_the_fastest_is_first_whatever_its_mesh() -> None:
    native = solved(0)
    faster, other = native.outcome.candidates[:2]
    slower = Candidate(other.labels, 2 * faster.seconds, other.peak)
    late = replace(native, outcome=replace(native.outcome, candidates=(faster,)))
    early = replace(native, outcome=replace(native.outcome, candidates=(slower,)))
    assert [candidate for _, candidate in distinct_candidates([early, late], 5)] == [faster, slower]
    assert distinct_candidates([], 5) == []
