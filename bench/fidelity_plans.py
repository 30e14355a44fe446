"""The plans that tier 0 is held against the TPU compiler on, by their origin.

* `search`: the best distinct plans of the search, close to one another.
* `partly random`: a few heavy decisions are drawn, and the search does the rest.
* `random`: random layouts of arguments and random strategies of einsums (`autoshard.search.sampling`); most
  would never be used, but an error of the model shows in them. Tensors that are large beside HBM are drawn
  among the layouts that hold at most `_SLACKS` times as much on a chip as the leanest, or nothing would fit.
* `hand`: layouts that people use, as texts that fix some tensors; the search fills in the rest.
* `written hand`: the same with the rest left to the compiler (`bench.hand_annotations`).
* `search, projections free`: of the search, some of it left to the compiler (`autoshard.free_projections`).

Plans that need a little more memory than a chip has, and a little less, are drawn on purpose: they show
whether a plan is called fitting that the compiler rejects.

A plan's id is a hash of the program that the compiler is given, so equal programs are compiled once.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import local_fraction
from autoshard.free_projections import freed_plans
from autoshard.plan import Plan
from autoshard.planning import make_plan
from autoshard.programs import Program
from autoshard.refining import export_candidate
from autoshard.search.diversity import HEAVY, heavy_einsums
from autoshard.search.errors import BudgetError, NoSolutionError
from autoshard.search.planner import Candidate, Outcome, search_plans
from autoshard.search.problem import Problem
from autoshard.search.sampling import random_candidates
from bench.fidelity_cases import Study
from bench.fidelity_hand import hand_plans
from bench.hand_annotations import as_written

WRITTEN = "written hand"
FREED = ("search, projections free", "search, unmoved projections free")
"""In the order of `autoshard.free_projections.freed_plans`."""
TOP_K = 8
PARTLY_RANDOM = 6
RANDOM = 6
NEAR_LIMIT = 2
"""Random plans just below the limit, and as many just above it."""
_OVER = 1.25
_BELOW = 0.8
_TRIES = 3
_MOST_FIXED = 3
_DRAWS = 4
"""Random plans wanted with each slack."""
_SLACKS = (1.0, 2.0, 4.0, 16.0)
_LARGE = 0.02
"""Share of a chip's HBM from which on a tensor, whole, counts as large."""
_LOCATION = re.compile(r'^#loc.*\n|\s*\bloc\((?:"(?:[^"\\]|\\.)*"|[^()"]|\([^()]*\))*\)', re.MULTILINE)
"""Where in the source an operation of StableHLO text comes from."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan of a case: where it comes from, which rule if it is one of people, what tier 0 makes of it."""

    origin: str
    candidate: Candidate
    rule: str = ""


def proposals(study: Study) -> list[Proposal]:
    """The distinct plans of a case; one that comes twice goes by the first origin."""
    found = search_plans(study.problem, study.limit_bytes, top_k=TOP_K).candidates
    every = (
        *(Proposal("search", candidate) for candidate in found),
        *(Proposal("partly random", candidate) for candidate in partly_random_plans(study, found[0])),
        *(Proposal("random", candidate) for candidate in random_plans(study)),
        *(Proposal("hand", candidate, rule) for rule, candidate in hand_plans(study)),
    )
    return list({proposal.candidate.labels: proposal for proposal in reversed(every)}.values())[::-1]


def partly_random_plans(study: Study, best: Candidate) -> list[Candidate]:
    """Plans of which one to three heavy decisions are drawn, and the rest is searched."""
    problem, random = study.problem, np.random.default_rng(0)
    arguments = {problem.value_variable[v] for v in problem.graph.arguments if v in problem.value_variable}
    heavy = [*heavy_einsums(problem, best.labels)[:HEAVY], *sorted(arguments)]
    found: dict[tuple[int, ...], Candidate] = {best.labels: best}
    for _ in range(_TRIES * PARTLY_RANDOM):
        chosen = random.choice(heavy, size=int(random.integers(1, _MOST_FIXED + 1)), replace=False)
        fixed = {int(n): int(random.integers(problem.network.size(int(n)))) for n in chosen}
        allowed = {n: np.arange(problem.network.size(n)) == label for n, label in fixed.items()}
        drawn = replace(problem, network=problem.network.restricted(allowed))
        try:
            candidate = search_plans(drawn, _OVER * study.limit_bytes).candidates[0]
        except (BudgetError, NoSolutionError):
            continue
        found.setdefault(candidate.labels, candidate)
        if len(found) > PARTLY_RANDOM:
            break
    return list(found.values())[1:]


def random_plans(study: Study) -> list[Candidate]:
    """Random plans: those nearest to the limit from below and from above, and others that fit."""
    limit, drawn = study.limit_bytes, _draw(study)
    near = sorted(drawn, key=lambda candidate: abs(candidate.peak.nbytes / limit - 1))
    below = [c for c in near if _BELOW * limit <= c.peak.nbytes <= limit][:NEAR_LIMIT]
    above = [c for c in near if c.peak.nbytes > limit][:NEAR_LIMIT]
    others = [c for c in drawn if c.peak.nbytes <= limit and c not in below]
    return [*below, *above, *others[: RANDOM + NEAR_LIMIT - len(below)]]


def _draw(study: Study) -> list[Candidate]:
    """Some plans with each slack, in turn."""
    rounds = []
    for seed, slack in enumerate(_SLACKS):
        problem = lean_problem(study.problem, slack, _LARGE * study.limit_bytes)
        try:
            rounds.append(random_candidates(problem, _OVER * study.limit_bytes, _DRAWS, seed))
        except NoSolutionError:
            continue
    every = [c for turn in itertools.zip_longest(*rounds) for c in turn if c is not None]
    return list({candidate.labels: candidate for candidate in every}.values())


def lean_problem(problem: Problem, slack: float, large_bytes: float) -> Problem:
    """The problem in which large tensors take no more than `slack` times their leanest layout."""
    sizes: dict[int, float] = {}
    for value, variable in problem.value_variable.items():
        sizes[variable] = max(sizes.get(variable, 0.0), problem.graph.values[value].nbytes)
    allowed: dict[int, npt.NDArray[np.bool_]] = {}
    for number, nbytes in sizes.items():
        if nbytes > large_bytes:
            share = local_fraction(problem.variables[number].codes, problem.mesh)
            allowed[number] = share <= slack * share.min() * (1 + 1e-9)
    return replace(problem, network=problem.network.restricted(allowed))


def export(study: Study, candidate: Candidate, origin: str = "") -> Program:
    """The program of a plan, as the compiler is given it."""
    plan = plan_of(study, candidate)
    if origin == WRITTEN:
        plan = as_written(plan)
    elif origin in FREED:
        plan = freed_plans(plan, study.traced.equations)[FREED.index(origin)]
    return export_candidate(study.traced, plan, "tpu")


def plan_of(study: Study, candidate: Candidate) -> Plan:
    """A candidate as a plan, all of it said."""
    outcome = Outcome((candidate,), 0.0, "drawn")
    return make_plan(study.traced, study.problem, candidate, outcome, function_name=study.case.name)


def program_id(program: Program, slice_name: str) -> str:
    """A hash of what is compiled: the StableHLO text without source lines, the slice, donation, options."""
    text = _LOCATION.sub("", str(jax.export.deserialize(bytearray(program.serialised)).mlir_module()))
    options = repr(sorted(program.compiler_options.items()))
    parts: Sequence[str] = (text, slice_name, repr(program.donated), repr(program.mesh_axes), options)
    if program.as_written:
        parts = (*parts, "as written")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
