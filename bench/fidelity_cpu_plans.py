"""Plans of small models for eight CPU devices: the search's best, others like them, and random ones.

The models are the examples' with small shapes in float32, which is what a CPU multiplies in: a PaLM that
reads prompts, its layers scanned, and a Llama that decodes, its layers written out. Their steps take some
milliseconds, well above what launching eight programs takes. Plans come from every mesh of the eight devices
of up to three axes, and from each

* `search`: the best distinct plans;
* `partly random`: one to three of the heaviest einsums are cut at random, and the search does the rest;
* `random`: random layouts of arguments and random strategies of einsums (`autoshard.search.sampling`), which
  nobody would use, but errors of the model show in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoshard.cost.slices import Slice
from autoshard.cost.torus import mesh_factorisations
from autoshard.graph_building import build_graph
from autoshard.plan import Plan
from autoshard.planning import make_plan
from autoshard.search.building import build_problem
from autoshard.search.diversity import heavy_einsums
from autoshard.search.errors import BudgetError, NoSolutionError
from autoshard.search.planner import Candidate, Outcome, search_plans
from autoshard.search.problem import Problem
from autoshard.search.sampling import random_candidates
from autoshard.trace import Traced, trace
from examples import llama, palm

MESH_AXES = 3
BEST, PARTLY_RANDOM, RANDOM = 2, 3, 1
"""Plans of each mesh."""
_HEAVY, _MOST_FIXED, _TRIES = 6, 3, 4

PALM = palm.Config(
    layers=3,
    d_model=256,
    d_ff=1024,
    heads=8,
    d_head=64,
    vocab=4096,
    dtype="float32",
    weight_dtype="float32",
)
LLAMA = llama.Config(
    layers=3,
    d_model=512,
    d_ff=1536,
    heads=16,
    kv_heads=8,
    d_head=32,
    vocab=4096,
    dtype="float32",
    scan_layers=False,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A small model in one phase.

    Attributes:
        name: Its name in tables.
        target: The function, and what makes its abstract arguments.
        donated: Names of the donated arguments.
    """

    name: str
    target: tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]
    donated: tuple[str, ...] = ()


CASES = (
    Case("PaLM-like, prefill of 8 x 64 tokens", palm.prefill_target(PALM, 8, 64)),
    Case("Llama-like, decode of 64 x 256", llama.decode_target(LLAMA, 64, 256), ("cache",)),
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan, where it comes from, and on which mesh."""

    origin: str
    mesh: str
    plan: Plan


def traced_case(case: Case) -> Traced:
    """The program of a case."""
    function, inputs = case.target
    return trace(function, inputs(), donate_argnames=case.donated)


def proposals(traced: Traced, slice_: Slice) -> list[Proposal]:
    """Distinct plans on every mesh of the slice; what takes the same time and memory counts as the same."""
    graph = build_graph(traced)
    distinct: dict[tuple[str, int], Proposal] = {}
    for mesh in mesh_factorisations(slice_, max_axes=MESH_AXES):
        problem, label = build_problem(graph, mesh), "x".join(map(str, mesh.shape))
        for origin, candidate in _candidates(problem):
            outcome = Outcome((candidate,), 0.0, origin)
            plan = make_plan(traced, problem, candidate, outcome, function_name="step")
            key = (f"{plan.predicted_seconds:.4g}", plan.predicted.hbm_bytes_per_chip)
            distinct.setdefault(key, Proposal(origin, label, plan))
    return list(distinct.values())


def _candidates(problem: Problem) -> Iterator[tuple[str, Candidate]]:
    limit_bytes = problem.mesh.slice.chip.hbm_usable_bytes
    best = search_plans(problem, limit_bytes, top_k=BEST).candidates
    yield from (("search", candidate) for candidate in best)
    yield from (("partly random", each) for each in _partly_random(problem, best[0], limit_bytes))
    yield from (("random", each) for each in random_candidates(problem, limit_bytes, RANDOM))


def _partly_random(problem: Problem, best: Candidate, limit_bytes: float) -> list[Candidate]:
    """Plans in which some of the heaviest einsums of the best one are cut at random."""
    random = np.random.default_rng(0)
    heavy = heavy_einsums(problem, best.labels)[:_HEAVY]
    found: dict[tuple[int, ...], Candidate] = {best.labels: best}
    for _ in range(_TRIES * PARTLY_RANDOM):
        chosen = random.choice(heavy, size=int(random.integers(1, _MOST_FIXED + 1)), replace=False)
        drawn = {int(number): int(random.integers(problem.network.size(int(number)))) for number in chosen}
        allowed = {n: np.arange(problem.network.size(n)) == label for n, label in drawn.items()}
        try:
            restricted = replace(problem, network=problem.network.restricted(allowed))
            candidate = search_plans(restricted, limit_bytes).candidates[0]
        except (BudgetError, NoSolutionError):
            continue
        found.setdefault(candidate.labels, candidate)
        if len(found) > PARTLY_RANDOM:
            break
    return list(found.values())[1:]
