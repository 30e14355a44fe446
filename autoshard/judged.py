"""A candidate plan with what the tiers say of it.

What one tier says is kept beside what the others say; a candidate that does not fit, crashes or computes
something else carries the reason in its status and cannot win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from autoshard.compiled.largest_buffers import LARGEST
from autoshard.compiled.worker import CompileResult
from autoshard.memory_orders import with_orders
from autoshard.partitioner.check import PropagationCheck
from autoshard.plan import Plan
from autoshard.programs import Program
from autoshard.timing_bench import TimingResult
from autoshard.trace import Traced
from autoshard.verdict_records import Estimate, Measurement

OK = "ok"


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate plan with what the tiers said; `status` is "ok" or why it cannot win.

    `program` is the function under the plan, once it has been exported. `traced` is the function that the
    plan is of, where candidates are of several (`autoshard.choice_search`).
    """

    plan: Plan
    status: str = OK
    program: Program | None = None
    propagated: PropagationCheck | None = None
    compiled: CompileResult | None = None
    timed: TimingResult | None = None
    traced: Traced | None = None

    @property
    def seconds(self) -> float:
        """The best knowledge of its step time: measured, else estimated, else predicted.

        What tier 1 finds beyond the plan's own collectives comes on top of a prediction.
        """
        plan = self.plan
        unseen = 0.0 if self.propagated is None else self.propagated.unseen_seconds
        return plan.measured_seconds or plan.estimated_seconds or plan.predicted_seconds + unseen

    @property
    def tier(self) -> int:
        """0 when measured, 1 when estimated, 2 when only predicted: lower is surer."""
        return 0 if self.plan.measured is not None else 1 if self.plan.estimated is not None else 2


def rank(candidates: Sequence[Judged]) -> list[Judged]:
    """Best first: those that can win, surest tier first, then by time."""
    return sorted(candidates, key=lambda c: (c.status != OK, c.tier, c.seconds))


def with_estimate(candidate: Judged, result: CompileResult) -> Judged:
    """Add what the compiler said."""
    result = _within_limit(candidate, result)
    if result.status != OK or result.seconds_estimated is None or result.hbm_bytes_per_chip is None:
        return replace(candidate, status=_why_not_compiled(candidate, result), compiled=result)
    estimate = Estimate(
        seconds=result.seconds_estimated,
        hbm_bytes_per_chip=result.hbm_bytes_per_chip,
        compute_seconds=(result.compute_seconds or 0.0) + (result.filled_seconds or 0.0),
        ici_seconds=result.exposed_collective_seconds or 0.0,
    )
    plan = msgspec.structs.replace(
        candidate.plan,
        estimated=estimate,
        arguments=with_orders(candidate.plan.arguments, result.argument_orders),
        results=with_orders(candidate.plan.results, result.result_orders),
    )
    return replace(candidate, plan=plan, compiled=result)


def _within_limit(candidate: Judged, result: CompileResult) -> CompileResult:
    """The result, out of memory where the program needs more than the user allows."""
    limit, needed = candidate.plan.hbm_limit_bytes, result.hbm_bytes_per_chip
    if result.status != OK or limit is None or needed is None or needed <= limit:
        return result
    return msgspec.structs.replace(result, status="out of memory")


def _why_not_compiled(candidate: Judged, result: CompileResult) -> str:
    """Why a candidate cannot win, in one line."""
    if result.status == "out of memory" and result.hbm_bytes_per_chip is not None:
        needed, limit = result.hbm_bytes_per_chip, candidate.plan.predicted.hbm_limit_bytes
        sizes = f"{needed / 2**30:.2f} GiB per chip of {limit / 2**30:.2f} GiB"
        _, named, buffers = result.detail.partition(LARGEST)
        over = f"out of memory: needs {sizes}, {needed - limit} bytes over"
        return f"{over}; {named}{buffers}" if named else over
    first = result.detail.splitlines()[0] if result.detail else ""
    return f"{result.status}: {first}" if first else result.status


def with_measurement(candidate: Judged, result: TimingResult) -> Judged:
    """Add what the devices said; outputs that differ from the unsharded function's disqualify."""
    if result.status != OK or result.seconds is None:
        status = f"{result.status}: {result.detail}" if result.detail else result.status
        return replace(candidate, status=status, timed=result)
    measurement = Measurement(
        seconds=result.seconds,
        spread_seconds=result.spread_seconds or 0.0,
        runs=result.runs,
        device_kind=result.device_kind,
    )
    return replace(
        candidate, plan=msgspec.structs.replace(candidate.plan, measured=measurement), timed=result
    )
