"""The stages of the zoo's benchmark for one case: trace it, plan it, compile the plan, check the numerics.

Each is a function from `Work` to its record. Whatever goes wrong with a case is raised.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import jax

from autoshard.compiled.worker import CompileResult
from autoshard.judged import OK, Judged
from autoshard.mesh_search import search_candidates
from autoshard.plan import Plan
from autoshard.plan_file import format_record
from autoshard.plan_records import EinsumRecord, TensorRecord
from autoshard.refinement import shortfall_bytes
from autoshard.refining import compile_candidates
from autoshard.search.coverage import measure_coverage
from autoshard.search.movements import COPY
from autoshard.topology import compiler_skip_reason
from autoshard.trace import Traced
from bench.zoo_options import FULL_EFFORT
from bench.zoo_results import (
    Compiling,
    Fared,
    Numerics,
    Planning,
    Predicted,
    Record,
    Tracing,
    Traffic,
)
from bench.zoo_work import Fit, Work, ZooError, first_fit
from tests.models.numerics_check import Checked, check_case, flat_function

_HEADROOM_RETRIES = 3
"""As often as `autoshard.tune` searches again with memory held back."""

_DETAIL_CHARACTERS = 300

_T = TypeVar("_T")


def trace_stage(work: Work) -> Tracing:
    """Time `jax.make_jaxpr`, then ours; JAX's caches are cleared before either."""
    started = time.monotonic()
    flat, arrays = flat_function(work.program)
    jax.clear_caches()
    make_jaxpr_seconds = _timed(lambda: jax.make_jaxpr(flat)(*arrays))[0]
    jax.clear_caches()
    gc.collect()
    trace_seconds, traced = _timed(lambda: work.traced)
    graph_seconds, graph = _timed(lambda: work.graph)
    peak_bytes, coverage = _peak_bytes(), measure_coverage(graph)
    return Tracing(
        case=work.case.name,
        seconds=time.monotonic() - started,
        equations=coverage.equations,
        einsums=coverage.einsums,
        make_jaxpr_seconds=make_jaxpr_seconds,
        trace_seconds=trace_seconds,
        graph_seconds=graph_seconds,
        peak_bytes=peak_bytes,
        flops_fraction=coverage.flops_fraction,
        bytes_fraction=coverage.bytes_fraction,
        arguments=len(traced.in_avals),
        argument_bytes=sum(graph.values[value].nbytes for value in graph.arguments),
    )


def plan_stage(work: Work) -> Planning:
    """Search on each slice until one fits."""
    started = time.monotonic()
    fit = work.fit
    plan = fit.candidate.plan
    work.plans.mkdir(parents=True, exist_ok=True)
    plan.save(work.plans / f"{work.case.name}.{plan.slice.replace(':', '-')}.json")
    return Planning(
        case=work.case.name,
        seconds=time.monotonic() - started,
        slice=plan.slice,
        refused=fit.refused,
        search_seconds=fit.search_seconds,
        predicted=predicted(plan),
        peak_bytes=_peak_bytes(),
    )


def compile_stage(work: Work) -> Compiling:
    """Compile the best plan; where there is no room, one that takes less, then one for a larger slice."""
    started = time.monotonic()
    reason = compiler_skip_reason(work.fit.session.slice_)
    if reason is not None:
        raise ZooError(reason)
    os.environ["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = str(work.compile_effort)  # of the child
    fit = work.fit
    judged, attempts, seconds = compiled(fit, work.compile_seconds)
    while shortfall_bytes([judged]) is not None:
        fit = first_fit(work, {**fit.refused, judged.plan.slice: judged.status})
        judged, attempts, seconds = compiled(fit, work.compile_seconds)
    result = judged.compiled or CompileResult(status="failed", detail=judged.status)
    return Compiling(
        case=work.case.name,
        seconds=time.monotonic() - started,
        status="ok" if judged.status == OK else result.status,
        detail="" if judged.status == OK else judged.status,
        slice=judged.plan.slice,
        refused=fit.refused,
        predicted=predicted(judged.plan),
        attempts=attempts,
        compile_seconds=seconds,
        effort=work.compile_effort,
        estimated_seconds=result.seconds_estimated if work.compile_effort == FULL_EFFORT else None,
        hbm_bytes_per_chip=result.hbm_bytes_per_chip,
        collectives=_by_kind((c.kind, c.trips, c.bytes_per_chip) for c in result.collectives),
        rematerialisations=result.rematerialisations,
    )


def compiled(fit: Fit, limit_seconds: float) -> tuple[Judged, int, float]:
    """Compile the best plan that the compiler has room for.

    Returns:
        What it says of the last plan that it got, how many it got, and the seconds of the last.
    """
    candidate, headroom_bytes, attempts = fit.candidate, 0.0, 0
    while True:
        attempts += 1
        seconds, judged = _timed(partial(compile_one, fit.session.traced, candidate, limit_seconds))
        short_bytes = shortfall_bytes([judged])
        if short_bytes is None or attempts > _HEADROOM_RETRIES:
            return judged, attempts, seconds
        headroom_bytes += short_bytes
        candidates = search_candidates(fit.session, headroom_bytes).candidates
        if not candidates:
            return judged, attempts, seconds
        candidate = candidates[0]


def compile_one(traced: Traced, candidate: Judged, limit_seconds: float) -> Judged:
    """What the compiler says of a candidate."""
    results: list[Judged] = []
    compile_candidates(
        traced,
        [candidate],
        workers=1,
        time_limit_seconds=limit_seconds,
        on_start=lambda _: None,
        on_result=lambda _, judged: results.append(judged),
    )
    return results[0]


def numerics_stage(work: Work) -> Numerics:
    """Run the reduced case under the chosen plan and random ones, on eight CPU devices."""
    started = time.monotonic()
    checks = check_case(work.case)
    return Numerics(
        case=work.case.name,
        seconds=time.monotonic() - started,
        tolerance=max(check.comparison.tolerance for check in checks),
        plans=tuple(fared(check) for check in checks),
    )


def fared(check: Checked) -> Fared:
    """How a case fared under one plan, as a record."""
    found = check.comparison
    return Fared(
        plan=check.name,
        agrees=found.agrees,
        max_error=found.max_error if math.isfinite(found.max_error) else None,
        worst_path=found.worst_path,
        detail=found.detail[:_DETAIL_CHARACTERS],
    )


RUNS: dict[str, Callable[[Work], Record]] = {
    "trace": trace_stage,
    "plan": plan_stage,
    "compile": compile_stage,
    "numerics": numerics_stage,
}


def predicted(plan: Plan) -> Predicted:
    """What a plan says of itself, the collectives of a whole step."""
    records: tuple[EinsumRecord | TensorRecord, ...] = (*plan.einsums, *plan.tensors)
    return Predicted(
        mesh=" ".join(f"{axis.name}={axis.size}" for axis in plan.mesh_axes),
        seconds=plan.predicted_seconds,
        gap=plan.gap,
        hbm_bytes_per_chip=plan.predicted.hbm_bytes_per_chip,
        lines=format_record(plan).count("\n"),
        collectives=_by_kind(
            (collective.kind, record.trips * record.repeats, collective.bytes_per_chip)
            for record in records
            for collective in record.collectives
            if collective.kind != COPY
        ),
    )


def _by_kind(collectives: Iterable[tuple[str, int, float]]) -> dict[str, Traffic]:
    """Sum up (kind, executions, bytes of one) by kind."""
    counts, nbytes = Counter[str](), Counter[str]()
    for kind, executions, size in collectives:
        counts[kind] += executions
        nbytes[kind] += round(executions * size)
    return {kind: Traffic(counts[kind], nbytes[kind]) for kind in sorted(counts)}


def _timed(action: Callable[[], _T]) -> tuple[float, _T]:
    started = time.monotonic()
    result = action()
    return time.monotonic() - started, result


def _peak_bytes() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
