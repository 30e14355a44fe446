"""The best plan of ours once more with its projections left to the compiler, as a tuning run compiles it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoshard.free_projections import freed_plans
from autoshard.partitioner.check import check_candidates
from autoshard.projection_refinement import moves_alike
from autoshard.refining import export_candidate
from bench.fidelity_cache import Cache, PlanLine
from bench.fidelity_cases import Study
from bench.fidelity_labels import price_plan
from bench.fidelity_plans import FREED, Proposal, plan_of
from bench.fidelity_rebuild import add_plans
from bench.quality_contest import entrants_of
from bench.quality_plans import SEARCH


def add_freed(places: Sequence[Study], cache: Cache, known: Mapping[str, PlanLine]) -> Study | None:
    """Put it into the cache, where the plan has such projections and Shardy shards it alike.

    Args:
        places: A case on each mesh that is tried.
        cache: With what the compiler said of the plans of the search.
        known: What it said of any program before, by the hash of program and slice.

    Returns:
        The case on the plan's mesh; None where nothing was added.
    """
    names = {study.name for study in places}
    for key in [key for key, each in cache.plans.items() if each.case in names and is_freed(each)]:
        del cache.plans[key]
    ours = [
        (entrant.seconds, place, entrant.row.plan)
        for place, study in enumerate(places)
        if study.name in cache.cases
        for entrant in entrants_of(study, cache)
        if entrant.row.plan.origin == SEARCH and entrant.row.fits
    ]
    if not ours:
        return None
    _, place, line = min(ours, key=lambda each: each[:2])
    study = places[place]
    candidate = price_plan(study.problem, study.memory, cache.labels(line)).candidate
    plan = plan_of(study, candidate)
    plans = [plan, *freed_plans(plan, study.traced.equations)]
    programs = [export_candidate(study.traced, each, "tpu") for each in plans]
    check, *others = check_candidates(plans, programs, study.case.slice_name)
    alike = [origin for origin, other in zip(FREED, others, strict=False) if moves_alike(check, other)]
    if not alike:
        return None
    add_plans(study, cache, [Proposal(alike[0], candidate)], known)
    return study


def is_freed(plan: PlanLine) -> bool:
    """Whether a plan is such a one."""
    return plan.origin in FREED
