"""Plan phases together: each alone, then all at once, then each under what they agreed on.

1. Each phase alone: what it could reach if it shared nothing.
2. All at once (`autoshard.search.joining`): which layout of what they share, and of what they hand over,
   makes the runs of all phases fastest; on one mesh.
3. Each phase again, with that pinned: an ordinary plan with a bound of its own, taken to the compiler and to
   the devices like any other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from autoshard.errors import InfeasibleError, OptionError
from autoshard.infeasible import does_not_fit
from autoshard.mesh_search import search_candidates
from autoshard.phases.apart import moving_apart
from autoshard.phases.held import held_specs, pins_of
from autoshard.phases.joint_search import Found, JointSearch, Links
from autoshard.phases.matching import Handed, handed_over, shared_arguments
from autoshard.phases.memory_order import reordered, with_one_order
from autoshard.phases.phase import Phase, make_phases
from autoshard.phases.result import JointPlans, PlannedHandOver, PlannedPhase
from autoshard.plan import Plan
from autoshard.plan_records import PhaseRecord, TogetherRecord
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.tune_session import Session, open_session
from autoshard.tuning import run_session


def run_phases(
    targets: Sequence[Target],
    share: Sequence[str],
    handover: Sequence[str],
    weights: Sequence[float] | None,
    options: Options,
    progress: Progress,
) -> JointPlans:
    """Trace, plan each phase alone and all together, refine each; `autoshard.tune_phases` says the rest."""
    started = time.monotonic()
    if not share and not handover:
        raise OptionError(
            "phases that have nothing in common are planned one by one; name what they share "
            "(--share params) or hand over (--handover cache)"
        )
    phases = make_phases([open_session(target, options, progress) for target in targets], weights)
    signatures = [phase.signature for phase in phases]
    links = Links(shared_arguments(share, signatures), handed_over(handover, signatures))
    searching = time.monotonic()
    separate = [_alone(phase) for phase in phases]
    search = JointSearch(phases, links)
    found = search.run()
    pins = pins_of(phases, found, links, held_specs(found, search.shared()))
    search_seconds = time.monotonic() - searching
    tuned = _tuned(phases, found, pins)
    record = _together(phases, share, handover, weights, options)
    ordered = [
        replace(one, plan=msgspec.structs.replace(one.plan, together=record))
        for one in with_one_order(phases, links, tuned)
    ]
    planned = [
        PlannedPhase(
            phase.name, phase.runs, one, alone, reordered(own.plan, one.plan, phase.session.slice_.chip)
        )
        for phase, own, one, alone in zip(phases, tuned, ordered, separate, strict=True)
    ]
    return JointPlans(
        phases=tuple(planned),
        shared=links.shared,
        handovers=tuple(_planned(each, number, found, planned) for number, each in enumerate(links.handed)),
        moving_seconds=moving_apart(phases, separate, links),
        bound_seconds=found.bound_seconds,
        search_seconds=search_seconds + sum(one.search_seconds for one in tuned),
        total_seconds=time.monotonic() - started,
        assumed_runs=weights is None,
        interrupted=any(one.interrupted for one in tuned),
    )


def _together(
    phases: Sequence[Phase],
    share: Sequence[str],
    handover: Sequence[str],
    weights: Sequence[float] | None,
    options: Options,
) -> TogetherRecord:
    """What was asked, as the plans keep it."""
    targets = [phase.session.target for phase in phases]
    return TogetherRecord(
        phases=tuple(
            PhaseRecord(name=phase.name, target=target.text or None, inputs=target.inputs_text)
            for phase, target in zip(phases, targets, strict=True)
        ),
        share=tuple(share),
        handover=tuple(handover),
        weights=None if weights is None else tuple(map(float, weights)),
        pins=options.pins,
        forbidden=options.forbid,
    )


def _alone(phase: Phase) -> Plan:
    """The best plan of a phase that shares nothing, by the model."""
    session = phase.session
    session.progress.stage(f"plan {phase.name} alone")
    found = search_candidates(replace(session, options=replace(session.options, top_k=1)))
    if found.interrupted:
        raise KeyboardInterrupt
    if not found.candidates:
        raise does_not_fit(session)
    return found.candidates[0].plan


def _tuned(phases: Sequence[Phase], found: Found, pins: Sequence[tuple[str, ...]]) -> list[TuneResult]:
    """Plan each phase under its pins; after Ctrl-C the rest by the model alone."""
    results: list[TuneResult] = []
    interrupted = found.interrupted
    for phase, own in zip(phases, pins, strict=True):
        session = phase.session
        options = replace(session.options, pins=(*session.options.pins, *own))
        if interrupted:
            options = replace(options, refine="none", compile_options="default")
        session.progress.stage(f"plan {phase.name} with what the phases have in common")
        result = _under_pins(phase, replace(session, options=options, mesh=found.mesh, ordered_pins=own))
        interrupted = interrupted or result.interrupted
        results.append(replace(result, interrupted=interrupted))
    return results


def _under_pins(phase: Phase, session: Session) -> TuneResult:
    """Plan a phase under its pins, and say so where the compiler then finds no room."""
    try:
        return run_session(session, time.monotonic())
    except InfeasibleError as error:
        raise InfeasibleError(
            f"`{phase.name}` does not fit with the layouts that the phases agreed on, although the model had "
            f"found room: {error}; plan it alone to see what it would take, or share fewer arguments"
        ) from error


def _planned(handed: Handed, number: int, found: Found, planned: Sequence[PlannedPhase]) -> PlannedHandOver:
    """What is handed over, as the plans have it."""
    source, target = planned[handed.source], planned[handed.target]
    handover = found.joint.handovers[number]
    return PlannedHandOver(
        source=source.name,
        result=handed.result,
        given=source.plan.results[handed.result].spec,
        target=target.name,
        argument=handed.argument,
        taken=target.plan.arguments[handed.argument].spec,
        runs=handover.runs,
        seconds=found.joint.one_handover_seconds(handover, found.solution.labels),
    )
