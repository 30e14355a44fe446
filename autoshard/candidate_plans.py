"""From what a search found on a mesh to candidates: plans that the tiers can judge."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import msgspec

from autoshard.judged import Judged
from autoshard.kept_shardings import with_kept
from autoshard.mesh_solving import Solved
from autoshard.plan import Plan
from autoshard.planning import make_plan
from autoshard.search.planner import NOTABLE, Candidate, Outcome, signature
from autoshard.search.problem import Problem
from autoshard.tune_session import Session


def judged_plans(session: Session, solved: Solved) -> list[Judged]:
    """The candidates of a mesh, best first, judged by no tier but the model."""
    return [
        Judged(plan_of(session, solved.problem, candidate, solved.outcome))
        for candidate in solved.outcome.candidates
    ]


def plan_of(session: Session, problem: Problem, candidate: Candidate, outcome: Outcome) -> Plan:
    """Write a candidate as a plan, with what the user asked for."""
    target, options, limit = session.target, session.options, session.options.hbm_limit_bytes
    plan = make_plan(
        session.traced,
        problem,
        candidate,
        outcome,
        function_name=target.name,
        target=target.text or None,
        inputs=target.inputs_text,
        objective=options.objective,
    )
    predicted = msgspec.structs.replace(plan.predicted, hbm_limit_bytes=round(session.hbm_limit_bytes))
    plan = msgspec.structs.replace(
        plan,
        predicted=predicted,
        pins=options.pins,
        forbidden=options.forbid,
        hbm_limit_bytes=None if limit is None else round(limit),
        padding=None if options.padding == "allow" else options.padding,
    )
    return plan if session.kept is None else with_kept(plan, session.kept, session.graph)


def distinct_candidates(solved: Sequence[Solved], most: int) -> list[tuple[Solved, Candidate]]:
    """The fastest candidates of some meshes, each with where it is from.

    What does the same in the same time and memory as a faster one is dropped: it is its copy on a finer mesh.
    """
    every = [(each, candidate) for each in solved for candidate in each.outcome.candidates]
    every.sort(key=lambda pair: pair[1].seconds)
    notable = NOTABLE * every[0][1].seconds if every else 0.0
    kept: dict[Hashable, tuple[Solved, Candidate]] = {}
    for each, candidate in every:
        does = signature(each.problem, candidate.labels, notable)
        key = (f"{candidate.seconds:.4g}", round(candidate.peak.nbytes), does)
        kept.setdefault(key, (each, candidate))
    return list(kept.values())[:most]


def distinct(candidates: Sequence[Judged]) -> list[Judged]:
    """Drop what takes the same time and memory as a faster one: it is its copy on a finer mesh."""
    kept: dict[tuple[str, int], Judged] = {}
    for candidate in candidates:
        kept.setdefault((f"{candidate.seconds:.4g}", candidate.plan.predicted.hbm_bytes_per_chip), candidate)
    return list(kept.values())
