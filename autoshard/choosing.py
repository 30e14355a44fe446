"""Choose the winner among the candidates, and write the others down beside it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from autoshard.choices import combination_label
from autoshard.errors import AutoshardError, CompileError
from autoshard.infeasible import compiler_finds_no_room
from autoshard.judged import OK, Judged, rank
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord
from autoshard.refinement import ESTIMATED, MEASURED, Refinement
from autoshard.tune_session import Session
from autoshard.verdict_records import RunnerUp

_HEAVY = 3
_INTERRUPTED = "the run was interrupted"


def choose(refinement: Refinement, *, interrupted: bool = False) -> Plan:
    """Return the best candidate's plan, with the runners-up and the tiers that did not run.

    Where the compiler answered for no candidate in time, none is refused: the model's choice stands.

    Raises:
        InfeasibleError: Every candidate is out of memory.
        CompileError: Every candidate was lost to the compiler or the devices.
    """
    ranked = rank(refinement.candidates)
    reasons = dict(refinement.skipped)
    if ranked[0].status != OK:
        if not all(map(_unanswered, ranked)):
            raise _nothing_left(refinement.session, ranked)
        ranked = sorted(ranked, key=lambda candidate: candidate.plan.predicted_seconds)
        reasons[ESTIMATED] = ranked[0].status
    plan = ranked[0].plan
    if interrupted:
        reasons = {ESTIMATED: _INTERRUPTED, MEASURED: _INTERRUPTED} | reasons
    has = {ESTIMATED: plan.estimated, MEASURED: plan.measured}
    return msgspec.structs.replace(
        plan,
        skipped={
            tier: reasons[tier] for tier in (ESTIMATED, MEASURED) if tier in reasons and has[tier] is None
        },
        runners_up=tuple(runner_up(candidate) for candidate in ranked[1:]),
    )


def _unanswered(candidate: Judged) -> bool:
    return candidate.compiled is not None and candidate.compiled.status == "timed out"


def runner_up(candidate: Judged) -> RunnerUp:
    """What the plan file keeps of a candidate."""
    plan, compiled = candidate.plan, candidate.compiled
    nbytes = compiled.hbm_bytes_per_chip if compiled is not None else None
    return RunnerUp(
        summary=_summary(plan),
        predicted_seconds=plan.predicted_seconds,
        estimated_seconds=plan.estimated_seconds,
        measured_seconds=plan.measured_seconds,
        hbm_bytes_per_chip=nbytes if nbytes is not None else plan.hbm_bytes_per_chip,
        status=candidate.status,
    )


def _summary(plan: Plan) -> str:
    """The choices of the model, and the layouts of the einsums that take longest."""
    heavy = sorted(plan.einsums, key=_seconds, reverse=True)[:_HEAVY]
    layouts = "; ".join(f"{e.name} {e.layout}" for e in heavy)
    return f"{combination_label(plan.choices)}: {layouts}" if plan.choices else layouts


def _seconds(einsum: EinsumRecord) -> float:
    return einsum.trips * einsum.repeats * max(einsum.compute_seconds, einsum.hbm_seconds)


def _nothing_left(session: Session, ranked: Sequence[Judged]) -> AutoshardError:
    sizes = [
        each.compiled.hbm_bytes_per_chip
        for each in ranked
        if each.compiled is not None
        and each.compiled.status == "out of memory"
        and each.compiled.hbm_bytes_per_chip
    ]
    if len(sizes) == len(ranked):
        return compiler_finds_no_room(session, min(sizes))
    reasons = "; ".join(dict.fromkeys(candidate.status for candidate in ranked))
    return CompileError(
        f"none of the {len(ranked)} candidates of `{session.target.name}` survived the compiler and the "
        f"devices: {reasons}. With --refine none the plan is chosen by the model alone"
    )
