"""What fusing einsums would save by the compiler's schedule (`FusionRecord.estimated_seconds`).

The schedule says how long each of the einsums takes. What of that exceeds its matrix unit and HBM time may be
the start of a kernel, of which one einsum would have one; it may also be that the compiler streams slower,
which fusing would not change. So no more is called a start than the chip table says:

    start = min(schedule - max(compute, HBM), kernel start)      of each, not below 0
    fused = sum(schedule) - (sum(starts) - the longest start)

What the compiler has merged already has no time of its own in the schedule, and saves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from autoshard.cost.slices import parse_slice
from autoshard.equations import Equations
from autoshard.marks import marked_key
from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord, FusionRecord


def with_fusion_times(plan: Plan, equations: Equations, matmul_seconds: Mapping[str, float]) -> Plan:
    """Return the plan with what its schedule says of its fusions.

    Args:
        plan: a plan that was compiled.
        equations: its function, walked.
        matmul_seconds: of the compiled program (`autoshard.compiled.matmul_times`).
    """
    marks = {equation.name: marked_key(equation.path) for equation in equations.equations}

    def scheduled(record: EinsumRecord) -> float:
        return sum(matmul_seconds.get(marks[name], 0.0) for name in expand_name(record.name))

    records = {record.name: record for record in plan.einsums}
    kernel_seconds = parse_slice(plan.slice).chip.kernel_seconds
    fusions = []
    for fusion in plan.fusions:
        members = [records[name] for name in fusion.einsums]
        fusions.append(_estimated(fusion, members, [scheduled(each) for each in members], kernel_seconds))
    return msgspec.structs.replace(plan, fusions=tuple(fusions))


def _estimated(
    fusion: FusionRecord, members: list[EinsumRecord], seconds: list[float], kernel_seconds: float
) -> FusionRecord:
    if not any(seconds):
        return fusion
    starts = [_start(each, taken, kernel_seconds) for each, taken in zip(members, seconds, strict=True)]
    saved = sum(starts) - max(starts)
    return msgspec.structs.replace(
        fusion,
        estimated_seconds=sum(seconds) + fusion.collective_seconds,
        estimated_fused_seconds=sum(seconds) - saved + fusion.fused_collective_seconds,
    )


def _start(record: EinsumRecord, seconds: float, kernel_seconds: float) -> float:
    """What one einsum takes for starting its kernel, all executions together."""
    executions = record.trips * record.repeats
    busy = executions * max(record.compute_seconds, record.hbm_seconds)
    return min(max(0.0, seconds - busy), executions * kernel_seconds)
