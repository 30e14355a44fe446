"""What a plan says, worked out from the plan alone: where a step's time goes and how good the plan is.

One execution of an einsum takes the seconds of its `autoshard.cost.cost.Cost`: ``max(compute, HBM)`` and the
exposed communication. Its share of the step is that, times the trips of all its copies, over the predicted
step time. Model flops utilisation is ``flops per chip / (seconds * peak flops per second)``, and a token
costs ``chips * seconds / tokens``. The three step times stay apart: *predicted* by the model, *estimated* by
the compiler, *measured* on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoshard.cost.cost import Bound, Cost
from autoshard.cost.slices import parse_slice
from autoshard.cost_records import cost_of, cost_of_totals
from autoshard.coverage_records import Coverage
from autoshard.errors import SliceError, UnknownChipError
from autoshard.explain_compiled import CompilerOption, MemoryOrder, compiler_options, memory_orders
from autoshard.free_projections import free_einsums
from autoshard.fusion_hints import FusionHint, fusion_hints
from autoshard.plan import Plan
from autoshard.plan_records import (
    CollectiveRecord,
    EinsumRecord,
    PaddingRecord,
    StoredPaddingRecord,
    TensorRecord,
)
from autoshard.units import format_seconds
from autoshard.verdict_records import CombinationRecord, Measurement, RunnerUp, Versions

_MFU_DTYPE = "bfloat16"
_NOT_RUN = "it was not asked for"


@dataclass(frozen=True, slots=True)
class Operation:
    """One einsum, or one constrained tensor; times are for one execution.

    Attributes:
        name: the operation's name in the plan: a pattern where it has copies.
        layout: an einsum's layout in the paper's notation; a tensor's spec.
        source: where the user wrote it.
        trips: how often one copy runs in a step.
        repeats: how many copies there are.
        compute_seconds: time of the matrix units.
        hbm_seconds: time of the HBM traffic.
        ici_seconds: time of the interconnect; in plans that are not `in_parts`, of all communication.
        cost: all parts of the time.
        in_parts: whether the plan tells network and latency from interconnect.
        seconds: time with overlap.
        exposed_seconds: time of the communication that nothing hides.
        bound: what takes longest.
        share: part of the predicted step time, all trips of all copies.
        collectives: what moves.
        padding: the dims that are padded.
    """

    name: str
    layout: str
    source: str
    trips: int
    repeats: int
    compute_seconds: float
    hbm_seconds: float
    ici_seconds: float
    cost: Cost
    in_parts: bool
    seconds: float
    exposed_seconds: float
    bound: Bound
    share: float
    collectives: tuple[CollectiveRecord, ...]
    padding: tuple[PaddingRecord, ...] = ()

    @property
    def executions(self) -> int:
        """How often it runs in a step, all copies."""
        return self.trips * self.repeats


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one tier says of the step; everything is None, and `skipped` says why, where it did not run."""

    tier: Literal["predicted", "estimated", "measured"]
    seconds: float | None = None
    mfu: float | None = None
    chip_milliseconds_per_token: float | None = None
    source: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """HBM of one chip, bytes; `source` says who counted `bytes_per_chip`, `by_kind` is the model's."""

    bytes_per_chip: int
    limit_bytes: int
    source: Literal["compiler", "model"]
    by_kind: dict[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that `autoshard explain` prints.

    `other_share` is the step time outside the listed operations, `step_cost` the parts of the predicted step;
    None for plans that have totals alone.
    """

    function: str
    slice: str
    n_chips: int
    mesh: dict[str, int]
    objective: str
    pins: tuple[str, ...]
    kept: tuple[str, ...]
    forbidden: tuple[str, ...]
    choices: dict[str, str | int | bool | None]
    hbm_limit_bytes: int | None
    padding: str | None
    free_einsums: tuple[str, ...]
    created_by: str
    versions: Versions
    compiler_options: tuple[CompilerOption, ...]
    memory_orders: tuple[MemoryOrder, ...]
    einsums: tuple[Operation, ...]
    tensors: tuple[Operation, ...]
    other_share: float
    step_cost: Cost | None
    step_times: tuple[StepTime, ...]
    lower_bound_seconds: float
    gap: float
    tokens: int | None
    memory: Memory
    runners_up: tuple[RunnerUp, ...]
    combinations: tuple[CombinationRecord, ...]
    coverage: Coverage
    hints: tuple[FusionHint, ...]
    stored_padding: StoredPaddingRecord | None
    predicted_seconds: float


def explain(plan: Plan) -> Explanation:
    """Return what a plan says, worked out from the plan alone."""
    einsums = tuple(_einsum(plan, record) for record in plan.einsums)
    tensors = tuple(_tensor(plan, record) for record in plan.tensors)
    return Explanation(
        function=plan.function.name,
        slice=plan.slice,
        n_chips=plan.n_chips,
        mesh={axis.name: axis.size for axis in plan.mesh_axes},
        objective=plan.objective,
        pins=plan.pins,
        kept=plan.kept,
        forbidden=plan.forbidden,
        choices=plan.choices,
        hbm_limit_bytes=plan.hbm_limit_bytes,
        padding=plan.padding,
        free_einsums=free_einsums(plan),
        created_by=plan.created_by,
        versions=plan.versions,
        compiler_options=compiler_options(plan),
        memory_orders=memory_orders(plan),
        einsums=einsums,
        tensors=tensors,
        other_share=max(0.0, 1.0 - sum(operation.share for operation in einsums + tensors)),
        step_cost=cost_of(plan.predicted.cost) if plan.predicted.cost else None,
        step_times=_step_times(plan),
        lower_bound_seconds=plan.predicted.lower_bound_seconds,
        gap=plan.gap,
        tokens=plan.predicted.tokens,
        memory=_memory(plan),
        runners_up=plan.runners_up,
        combinations=plan.combinations,
        coverage=plan.coverage,
        hints=fusion_hints(plan),
        stored_padding=plan.stored_padding,
        predicted_seconds=plan.predicted_seconds,
    )


def _einsum(plan: Plan, record: EinsumRecord) -> Operation:
    return _operation(plan, record, record.layout, record.compute_seconds)


def _tensor(plan: Plan, record: TensorRecord) -> Operation:
    return _operation(plan, record, "open sum" if record.spec is None else f"[{record.spec}]", 0.0)


def _operation(
    plan: Plan, record: EinsumRecord | TensorRecord, layout: str, compute_seconds: float
) -> Operation:
    cost = _cost(plan, record, compute_seconds)
    step_seconds = plan.predicted.seconds
    return Operation(
        name=record.name,
        layout=layout,
        source=record.source,
        trips=record.trips,
        repeats=record.repeats,
        compute_seconds=cost.compute_seconds,
        hbm_seconds=cost.hbm_seconds,
        ici_seconds=cost.total_ici_seconds,
        cost=cost,
        in_parts=record.cost is not None,
        seconds=cost.seconds,
        exposed_seconds=cost.exposed_seconds,
        bound=cost.bound_by,
        share=record.trips * record.repeats * cost.seconds / step_seconds if step_seconds > 0 else 0.0,
        collectives=record.collectives,
        padding=record.padding,
    )


def _cost(plan: Plan, record: EinsumRecord | TensorRecord, compute_seconds: float) -> Cost:
    if record.cost is not None:
        return cost_of(record.cost)
    exposed = plan.predicted.exposed_ici_fraction
    return cost_of_totals(
        compute_seconds, record.hbm_seconds, record.ici_seconds, record.collectives, exposed
    )


def _step_times(plan: Plan) -> tuple[StepTime, ...]:
    return (
        _step_time(plan, "predicted", plan.predicted_seconds, "the analytical model"),
        _step_time(plan, "estimated", plan.estimated_seconds, "the compiler's schedule; not hardware"),
        _step_time(plan, "measured", plan.measured_seconds, _runs(plan.measured)),
    )


def _runs(measured: Measurement | None) -> str:
    if measured is None:
        return ""
    spread = format_seconds(measured.spread_seconds)
    return f"{measured.runs} runs on {measured.device_kind}, spread {spread}"


def _step_time(
    plan: Plan, tier: Literal["predicted", "estimated", "measured"], seconds: float | None, source: str
) -> StepTime:
    if seconds is None:
        return StepTime(tier, skipped=plan.skipped.get(tier, _NOT_RUN))
    tokens = plan.predicted.tokens
    return StepTime(
        tier=tier,
        seconds=seconds,
        mfu=_mfu(plan, seconds),
        chip_milliseconds_per_token=1e3 * plan.n_chips * seconds / tokens if tokens else None,
        source=source,
    )


def _mfu(plan: Plan, seconds: float) -> float | None:
    """Model flops utilisation; None where this version does not know the chip or the time is zero."""
    try:
        peak = parse_slice(plan.slice).chip.peak(_MFU_DTYPE)
    except (SliceError, UnknownChipError):
        return None
    return plan.predicted.flops_per_chip / (seconds * peak) if seconds > 0 else None


def _memory(plan: Plan) -> Memory:
    return Memory(
        bytes_per_chip=plan.hbm_bytes_per_chip,
        limit_bytes=plan.predicted.hbm_limit_bytes,
        source="compiler" if plan.estimated else "model",
        by_kind=plan.predicted.hbm_by_kind,
    )
