"""Tiers 2 and 3: take candidate plans to the TPU compiler and to real devices.

Each candidate is exported with its constraints and judged in a child process (`autoshard.compile_worker`, `autoshard.timing_worker`).
What a tier says is kept beside what the others say; a candidate that does not fit, crashes or computes something else is named
and dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import msgspec
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.applying import argument_specs, constraints_of, result_specs
from autoshard.compile_worker import CompileResult, compile_all
from autoshard.constraining import run_constrained
from autoshard.cost.torus import MeshAxis
from autoshard.plan import Plan
from autoshard.plan_records import Estimate, Measurement
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.timing_bench import TimingResult
from autoshard.timing_worker import time_all
from autoshard.trace import Traced

_HOST_MEMORY_SHARE = 0.5
"""Tier 3 on virtual CPU devices is skipped when inputs and outputs of all runs would need more than this share of the host."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate plan with what the tiers said; `status` is "ok" or why it cannot win."""

    plan: Plan
    status: str = "ok"
    compiled: CompileResult | None = None
    timed: TimingResult | None = None

    @property
    def seconds(self) -> float:
        """The best knowledge of its step time: measured, else estimated, else predicted."""
        plan = self.plan
        return plan.measured_seconds or plan.estimated_seconds or plan.predicted_seconds

    @property
    def tier(self) -> int:
        """0 when measured, 1 when estimated, 2 when only predicted: lower is surer."""
        return 0 if self.plan.measured is not None else 1 if self.plan.estimated is not None else 2


def rank(candidates: Sequence[Judged]) -> list[Judged]:
    """Best first: those that can win, surest tier first, then by time."""
    return sorted(candidates, key=lambda c: (c.status != "ok", c.tier, c.seconds))


def export_candidate(traced: Traced, plan: Plan, platform: str) -> Program:
    """Export a traced function under a plan."""
    axes = tuple(MeshAxis(a.name, a.size, a.torus_dim, a.stride) for a in plan.mesh_axes)
    mesh = abstract_mesh(axes)
    constraints = constraints_of(plan, traced.equations)

    def constrain(array: Any, spec: PartitionSpec) -> Any:
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

    def planned(*leaves: Any) -> list[Any]:
        return run_constrained(traced.closed, leaves, constraints, constrain)

    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=NamedSharding(mesh, spec))
        for aval, spec in zip(traced.in_avals, argument_specs(plan), strict=True)
    ]
    program = export_program(
        planned,
        arguments,
        platform=platform,
        donate=traced.donated,
        mesh_axes=axes,
        out_shardings=[NamedSharding(mesh, spec) for spec in result_specs(plan)],
    )
    return _with_paths(program, traced)


def export_reference(traced: Traced, platform: str) -> Program:
    """Export the function as it is, for one device."""

    def unsharded(*leaves: Any) -> list[Any]:
        return list(jax.core.eval_jaxpr(traced.closed.jaxpr, traced.closed.consts, *leaves))

    return _with_paths(export_program(unsharded, traced.in_avals, platform=platform), traced)


def _with_paths(program: Program, traced: Traced) -> Program:
    return msgspec.structs.replace(program, argument_paths=traced.argument_names, result_paths=traced.result_names)


def compile_candidates(
    traced: Traced,
    candidates: Sequence[Judged],
    *,
    workers: int,
    time_limit_seconds: float,
    on_start: Callable[[int], None],
    on_result: Callable[[int, Judged], None],
) -> list[Judged]:
    """Tier 2: compile each candidate for its slice; `on_result` sees each as soon as it is known."""
    programs = [export_candidate(traced, candidate.plan, "tpu") for candidate in candidates]
    judged = list(candidates)

    def settle(index: int, result: CompileResult) -> None:
        judged[index] = with_estimate(judged[index], result)
        on_result(index, judged[index])

    compile_all(
        programs,
        candidates[0].plan.slice,
        workers=workers,
        time_limit_seconds=time_limit_seconds,
        on_start=on_start,
        on_result=settle,
    )
    return judged


def with_estimate(candidate: Judged, result: CompileResult) -> Judged:
    """Add what the compiler said."""
    if result.status != "ok" or result.seconds_estimated is None or result.hbm_bytes_per_chip is None:
        return replace(candidate, status=_lost(candidate, result), compiled=result)
    estimate = Estimate(
        seconds=result.seconds_estimated,
        hbm_bytes_per_chip=result.hbm_bytes_per_chip,
        compute_seconds=(result.compute_seconds or 0.0) + (result.filled_seconds or 0.0),
        ici_seconds=result.exposed_collective_seconds or 0.0,
    )
    return replace(candidate, plan=msgspec.structs.replace(candidate.plan, estimated=estimate), compiled=result)


def _lost(candidate: Judged, result: CompileResult) -> str:
    """Why a candidate cannot win, in one line."""
    if result.status == "out of memory" and result.hbm_bytes_per_chip is not None:
        needed, limit = result.hbm_bytes_per_chip, candidate.plan.predicted.hbm_limit_bytes
        return f"out of memory: needs {needed / 2**30:.2f} GiB per chip of {limit / 2**30:.2f} GiB, {needed - limit} bytes over"
    first = result.detail.splitlines()[0] if result.detail else ""
    return f"{result.status}: {first}" if first else result.status


def time_candidates(
    traced: Traced,
    candidates: Sequence[Judged],
    *,
    cpu_devices: int | None,
    platform: str,
    seed: int,
    time_limit_seconds: float,
    on_progress: Callable[[str], None],
) -> list[Judged]:
    """Tier 3: run the candidates on real devices (virtual CPU devices count as such) and check their results."""
    programs = [export_candidate(traced, candidate.plan, platform) for candidate in candidates]
    results = time_all(
        programs,
        export_reference(traced, platform),
        cpu_devices=cpu_devices,
        seed=seed,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
    )
    return [with_measurement(candidate, result) for candidate, result in zip(candidates, results, strict=True)]


def with_measurement(candidate: Judged, result: TimingResult) -> Judged:
    """Add what the devices said; outputs that differ from the unsharded function's disqualify."""
    if result.status != "ok" or result.seconds is None:
        detail = f"{result.status}: {result.detail}" if result.detail else result.status
        return replace(candidate, status=detail, timed=result)
    measurement = Measurement(
        seconds=result.seconds,
        spread_seconds=result.spread_seconds or 0.0,
        runs=result.runs,
        device_kind=result.device_kind,
    )
    return replace(candidate, plan=msgspec.structs.replace(candidate.plan, measured=measurement), timed=result)


def host_memory_reason(traced: Traced, n_candidates: int) -> str | None:
    """Why tier 3 on virtual CPU devices would not fit this host, or None."""
    nbytes = sum(a.size * a.dtype.itemsize for a in (*traced.in_avals, *traced.out_avals))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes * 4 > _HOST_MEMORY_SHARE * memory:
        return (
            f"the function's arrays take {nbytes / 2**30:.1f} GiB, too much to run on CPU devices of this host "
            f"({memory / 2**30:.0f} GiB); tune a smaller configuration to time it"
        )
    return None
