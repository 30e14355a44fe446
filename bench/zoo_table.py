"""The zoo's results as a table: a line for each case, collectives by kind, what went wrong, and totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autoshard.text_table import align
from autoshard.units import format_bytes, format_seconds, three_digits
from bench.zoo_options import FULL_EFFORT
from bench.zoo_results import (
    STAGES,
    Compiling,
    Failure,
    Key,
    Numerics,
    Planning,
    Predicted,
    Record,
    Tracing,
    Traffic,
)

Records = Mapping[Key, Record]

_GIB = 2.0**30
_NOTHING = "-"
_TRACED = ("equations", "einsums", "jaxpr s", "ours s", "ratio", "peak GiB", "flops", "bytes")
_PLANNED = ("slice", "search s", "step", "HBM", "lines")
_COMPILED = ("compiled", "estimated", "HBM", "in s")
_COLLECTIVES = ("collectives", "their bytes")
_LEFT = {"case", "slice", "compiled", "numerics", "kind"}


def table(records: Records, cases: Sequence[str]) -> Iterator[str]:
    """Lines for these cases: the table, collectives by kind, notes and the totals."""
    heading = ("case", *_TRACED, *_PLANNED, *_COMPILED, *_COLLECTIVES, "numerics")
    yield from _aligned(heading, [_row(records, case) for case in cases])
    by_kind = [row for case in cases for row in _collective_rows(records, case)]
    if by_kind:
        yield "\ncollectives of a step, predicted/compiled, bytes per chip"
        yield from _aligned(("case", "kind", "count", "bytes"), by_kind)
    notes = [note for case in cases for note in _notes(records, case)]
    if notes:
        yield ""
        yield from notes
    yield ""
    yield totals(records, cases)


def totals(records: Records, cases: Sequence[str]) -> str:
    """How many cases keep which promise."""
    found = [[records.get((case, stage)) for stage in STAGES] for case in cases]
    traced = [each[0] for each in found if isinstance(each[0], Tracing)]
    compiled = [each[2] for each in found if isinstance(each[2], Compiling)]
    checked = [each[3] for each in found if isinstance(each[3], Numerics)]
    return (
        f"{len(cases)} cases: {sum(each.is_quick for each in traced)} traced in time and memory, "
        f"{sum(each.is_covered for each in traced)} covered, "
        f"{sum(isinstance(each[1], Planning) for each in found)} planned, "
        f"{sum(each.status == 'ok' for each in compiled)} compiled, "
        f"{sum(each.agrees for each in checked)} numerics ok"
    )


def _aligned(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    right = [i for i, name in enumerate(heading) if name not in _LEFT]
    return align([heading, *rows], right=right)


def _row(records: Records, case: str) -> tuple[str, ...]:
    found = {stage: records.get((case, stage)) for stage in STAGES}
    compiled = found["compile"] if isinstance(found["compile"], Compiling) else None
    plan = found["plan"]
    predicted = compiled.predicted if compiled else plan.predicted if isinstance(plan, Planning) else None
    return (
        case,
        *_traced(found["trace"]),
        *_planned(plan, compiled, predicted),
        *_compiled(found["compile"]),
        *_totals_of_collectives(predicted, compiled),
        _numerics(found["numerics"]),
    )


def _traced(record: Record | None) -> tuple[str, ...]:
    if not isinstance(record, Tracing):
        return (_failed(record), *(_NOTHING for _ in _TRACED[1:]))
    return (
        str(record.equations),
        str(record.einsums),
        f"{record.make_jaxpr_seconds:.1f}",
        f"{record.ours_seconds:.1f}",
        f"{record.ratio:.1f}",
        f"{record.peak_bytes / _GIB:.1f}",
        _percent(record.flops_fraction),
        _percent(record.bytes_fraction),
    )


def _percent(fraction: float) -> str:
    """Rounded down: 100% is all of it."""
    return f"{int(fraction * 1000) / 10:.1f}%"


def _planned(
    record: Record | None, compiled: Compiling | None, predicted: Predicted | None
) -> tuple[str, ...]:
    """The plan that was compiled, which may be another than the first, or else the first."""
    if predicted is None or not isinstance(record, Planning):
        return (_failed(record), *(_NOTHING for _ in _PLANNED[1:]))
    return (
        compiled.slice if compiled else record.slice,
        f"{record.search_seconds:.1f}",
        format_seconds(predicted.seconds),
        format_bytes(predicted.hbm_bytes_per_chip),
        str(predicted.lines),
    )


def _compiled(record: Record | None) -> tuple[str, ...]:
    if not isinstance(record, Compiling):
        return (_failed(record), *(_NOTHING for _ in _COMPILED[1:]))
    return (
        _verdict(record),
        format_seconds(record.estimated_seconds),
        format_bytes(record.hbm_bytes_per_chip),
        f"{record.compile_seconds:.0f}",
    )


def _verdict(record: Compiling) -> str:
    if record.status != "ok":
        return record.status
    return "yes" if record.effort == FULL_EFFORT else f"yes, effort {record.effort:g}"


def _totals_of_collectives(predicted: Predicted | None, compiled: Compiling | None) -> tuple[str, str]:
    if predicted is None:
        return _NOTHING, _NOTHING
    ours, theirs = _sum(predicted.collectives), None
    if compiled is not None and compiled.status == "ok":
        theirs = _sum(compiled.collectives)
    return _against(ours, theirs)


def _collective_rows(records: Records, case: str) -> Iterator[tuple[str, ...]]:
    compiled = records.get((case, "compile"))
    if isinstance(compiled, Compiling) and compiled.status == "ok":
        ours, theirs = compiled.predicted.collectives, compiled.collectives
        for kind in sorted({*ours, *theirs}):
            pair = (traffic.get(kind, Traffic(0, 0.0)) for traffic in (ours, theirs))
            yield case, kind, *_against(*pair)


def _sum(collectives: Mapping[str, Traffic]) -> Traffic:
    traffic = collectives.values()
    return Traffic(sum(each.count for each in traffic), sum(each.bytes_per_chip for each in traffic))


def _against(ours: Traffic, theirs: Traffic | None) -> tuple[str, str]:
    if theirs is None:
        return f"{ours.count}/{_NOTHING}", f"{format_bytes(ours.bytes_per_chip)}/{_NOTHING}"
    nbytes = f"{format_bytes(ours.bytes_per_chip)}/{format_bytes(theirs.bytes_per_chip)}"
    return f"{ours.count}/{theirs.count}", nbytes


def _numerics(record: Record | None) -> str:
    if not isinstance(record, Numerics):
        return _failed(record)
    return f"ok {record.worst_error:.0e}" if record.agrees else f"WRONG {three_digits(record.worst_error)}"


def _failed(record: Record | None) -> str:
    return "FAILED" if isinstance(record, Failure) else _NOTHING


def _notes(records: Records, case: str) -> Iterator[str]:
    """Reasons, in full, for what is not as it should be."""
    for stage in STAGES:
        record = records.get((case, stage))
        if isinstance(record, Failure):
            yield f"{case}: {stage} failed: {record.error}"
        if isinstance(record, Compiling) and record.status != "ok":
            yield f"{case}: not compiled: {record.detail}"
        if isinstance(record, Planning | Compiling):
            yield from (f"{case}: not on {name}: {reason}" for name, reason in record.refused.items())
        if isinstance(record, Numerics):
            yield from (f"{case}: {plan.plan}: {plan.detail}" for plan in record.plans if not plan.agrees)
