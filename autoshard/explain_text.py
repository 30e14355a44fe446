"""An explanation as text or as JSON: the same facts for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec

from autoshard.choices import combination_label
from autoshard.cost.cost import Cost
from autoshard.coverage_records import Coverage
from autoshard.explain import Explanation, Memory, Operation, StepTime
from autoshard.explain_compiled import option_lines, order_lines
from autoshard.fusion_hints import hint_lines
from autoshard.padding_text import offer_lines, padding_lines, padding_text
from autoshard.text_table import align
from autoshard.units import format_bytes, format_percent, format_seconds, three_digits
from autoshard.verdict_records import CombinationRecord, RunnerUp, Versions

_NUMBERS = ("trips", "compute", "HBM", "ICI", "DCN", "latency", "exposed", "share")
_RUNNER_UP_HEADING = ("runner-up", "predicted", "estimated", "measured", "HBM per chip", "status")
_TIMES_NOTE = (
    "Times and bytes are for one execution on one chip; the share is of the predicted step, all trips."
)
_NEGLIGIBLE_SHARE = 0.0005
_NOTABLE_SHARE = 0.005


def to_json(explanation: Explanation) -> str:
    """Return the explanation as a JSON object, times in seconds and memory in bytes."""
    return json.dumps(msgspec.to_builtins(explanation), indent=2, ensure_ascii=False)


def to_text(explanation: Explanation) -> str:
    """Return the explanation as aligned text."""
    blocks = [
        _header(explanation),
        [_TIMES_NOTE],
        _operations("einsum", explanation.einsums),
        _tensors(explanation.tensors),
        _parts(explanation.step_cost),
        _totals(explanation),
        _combinations(explanation.combinations),
        option_lines(explanation.compiler_options),
        order_lines(explanation.memory_orders),
        _runners_up(explanation.runners_up),
        _coverage(explanation.coverage),
        hint_lines(explanation.hints),
        offer_lines(explanation.stored_padding, explanation.predicted_seconds),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _header(explanation: Explanation) -> list[str]:
    mesh = " ".join(f"{name}={size}" for name, size in explanation.mesh.items())
    return [
        f"{explanation.function} on {explanation.slice}: {explanation.n_chips} chips, mesh {mesh}, "
        f"objective {explanation.objective}",
        f"made by {explanation.created_by} with {_versions(explanation.versions)}",
        *([f"chosen: {combination_label(explanation.choices)}"] if explanation.choices else []),
        *(f"pinned: {pin}" for pin in explanation.pins),
        *(f"kept of the model: {sharding}" for sharding in explanation.kept),
        *(f"forbidden: {ban}" for ban in explanation.forbidden),
        *padding_lines((*explanation.einsums, *explanation.tensors)),
        *_limit(explanation.hbm_limit_bytes),
        *([] if explanation.padding is None else [f"padding: {explanation.padding}"]),
        *_free_einsums(explanation.free_einsums),
    ]


def _limit(nbytes: int | None) -> list[str]:
    return [] if nbytes is None else [f"memory limit: {nbytes / 2**30:.6g} GiB per chip"]


def _free_einsums(names: Sequence[str]) -> list[str]:
    return [f"no constraints, sharded so by the partitioner itself: {', '.join(names)}"] if names else []


def _versions(versions: Versions) -> str:
    libtpu = f"libtpu {versions.libtpu}" if versions.libtpu else "no libtpu"
    return f"jax {versions.jax}, jaxlib {versions.jaxlib}, {libtpu}"


def _operations(title: str, operations: Sequence[Operation]) -> list[str]:
    """One line per operation (times of one execution), its collectives indented below."""
    if not operations:
        return []
    columns = _columns(title, operations)
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    heading, *lines = align(rows, right=[i for i, name in enumerate(columns) if name in _NUMBERS])
    return [
        heading,
        *(line for pair in zip(lines, operations, strict=True) for line in _with_collectives(*pair)),
    ]


def _columns(title: str, operations: Sequence[Operation]) -> dict[str, list[str]]:
    """The cells by heading; network, latency and what is exposed where the plan knows them."""
    costs = [each.cost for each in operations]
    columns = {
        title: [each.name for each in operations],
        "layout": [each.layout for each in operations],
        "source": [each.source for each in operations],
        "trips": [str(each.executions) for each in operations],
        "compute": [format_seconds(cost.compute_seconds) for cost in costs],
        "HBM": [format_seconds(cost.hbm_seconds) for cost in costs],
        "ICI": [format_seconds(cost.total_ici_seconds) for cost in costs],
    }
    if any(cost.dcn_seconds for cost in costs):
        columns["DCN"] = [format_seconds(cost.dcn_seconds) for cost in costs]
    if any(each.in_parts for each in operations):
        columns["latency"] = [format_seconds(cost.latency_seconds) for cost in costs]
        columns["exposed"] = [format_seconds(cost.exposed_seconds) for cost in costs]
    columns["bound"] = [each.bound for each in operations]
    columns["share"] = [format_percent(each.share) for each in operations]
    return columns


def _tensors(tensors: Sequence[Operation]) -> list[str]:
    """The tensors that communicate or take notable time; the others are only counted."""
    shown = [each for each in tensors if each.collectives or each.share >= _NOTABLE_SHARE]
    rest = [each for each in tensors if each not in shown]
    lines = _operations("tensor", shown)
    if rest:
        share = format_percent(sum(each.share for each in rest))
        count = sum(each.repeats for each in rest)
        lines.append(f"{count} more tensors are pinned and move nothing: {share} of the predicted time")
    return lines


def _with_collectives(line: str, operation: Operation) -> Iterator[str]:
    yield line
    if operation.padding:
        yield f"    padded {padding_text(operation.padding)}"
    for each in operation.collectives:
        yield (
            f"    {each.kind}({each.axes}) of {each.tensor}: {format_bytes(each.bytes_per_chip)} per chip, "
            f"{format_seconds(each.seconds)}"
        )


def _parts(cost: Cost | None) -> list[str]:
    """The predicted step as a sum: what is done at once or hidden is subtracted."""
    if cost is None:
        return []
    rows = [
        ("compute", cost.compute_seconds),
        ("HBM", cost.hbm_seconds),
        ("    compute and HBM of an op at once", -cost.overlapped_seconds),
        *((f"ICI over {axes}", seconds) for axes, seconds in cost.ici_seconds.items()),
        ("DCN", cost.dcn_seconds),
        ("latency", cost.latency_seconds),
        ("    hidden behind other work", -cost.hidden_seconds),
    ]
    shown = [(name, seconds) for name, seconds in rows if seconds]
    total = ("sum: the predicted step", cost.seconds)
    cells = [
        (name, format_seconds(seconds), format_percent(seconds / cost.seconds if cost.seconds else None))
        for name, seconds in (*shown, total)
    ]
    return align([("part of the step", "all trips", "share"), *cells], right=(1, 2))


def _totals(explanation: Explanation) -> list[str]:
    lines = align([_step_time_cells(each) for each in explanation.step_times])
    bound = f"{format_seconds(explanation.lower_bound_seconds)} (gap {format_percent(explanation.gap)})"
    lines.append(f"lower bound {bound}: by the model, no plan of the searched space is faster than that")
    if explanation.other_share > _NEGLIGIBLE_SHARE:
        lines.append(
            f"outside the rows above: {format_percent(explanation.other_share)} of the predicted time"
        )
    return [*lines, *_memory(explanation.memory)]


def _step_time_cells(step: StepTime) -> tuple[str, ...]:
    if step.seconds is None:
        return step.tier, "-", "", "", f"not run: {step.skipped}"
    per_token = step.chip_milliseconds_per_token
    return (
        step.tier,
        format_seconds(step.seconds),
        f"MFU {format_percent(step.mfu)}",
        "" if per_token is None else f"{three_digits(per_token)} chip-ms per token",
        step.source or "",
    )


def _memory(memory: Memory) -> list[str]:
    used = memory.bytes_per_chip / memory.limit_bytes if memory.limit_bytes else None
    kinds = ", ".join(f"{kind} {format_bytes(count)}" for kind, count in memory.by_kind.items())
    lines = [
        f"HBM per chip {format_bytes(memory.bytes_per_chip)} of {format_bytes(memory.limit_bytes)} "
        f"({format_percent(used)}), counted by the {memory.source}"
    ]
    return [*lines, f"    by the model: {kinds}"] if kinds else lines


def _combinations(combinations: Sequence[CombinationRecord]) -> list[str]:
    """What the model says of the choices of the function, the fastest first."""
    if not combinations:
        return []
    rows = [
        (
            combination_label(each.values),
            format_seconds(each.predicted_seconds),
            format_bytes(each.hbm_bytes_per_chip),
            each.status,
        )
        for each in combinations
    ]
    return align([("choices", "predicted", "HBM per chip", "status"), *rows], right=(1, 2))


def _runners_up(runners_up: Sequence[RunnerUp]) -> list[str]:
    if not runners_up:
        return []
    return align([_RUNNER_UP_HEADING, *map(_runner_up_cells, runners_up)], right=(1, 2, 3, 4))


def _runner_up_cells(runner_up: RunnerUp) -> tuple[str, ...]:
    return (
        runner_up.summary,
        format_seconds(runner_up.predicted_seconds),
        format_seconds(runner_up.estimated_seconds),
        format_seconds(runner_up.measured_seconds),
        format_bytes(runner_up.hbm_bytes_per_chip),
        runner_up.status,
    )


def _coverage(coverage: Coverage) -> list[str]:
    """One line on what is understood, and one for each thing that is not; `coverage_text` has the whole."""
    shares = [f"{format_percent(coverage.flops_fraction)} of the flops"]
    if coverage.bytes_fraction is not None:
        shares.append(f"{format_percent(coverage.bytes_fraction)} of the bytes")
    understood = f"{coverage.einsums} einsums among {coverage.equations} equations, {', '.join(shares)}"
    reasons = [(each, "for want of a rule") for each in coverage.unruled]
    reasons += [(each, "as nothing can be split") for each in coverage.unsplit]
    return [
        f"coverage: {understood}",
        *(
            f"    replicated {reason}: {each.primitive}, {each.count} times, {format_bytes(each.bytes)}"
            for each, reason in reasons
        ),
    ]
