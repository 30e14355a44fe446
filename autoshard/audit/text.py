"""An audit as aligned text, for people; `autoshard.audit.json_report` has the same for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoshard.audit.causes import cause_of
from autoshard.audit.records import Audit, Replicated, Row
from autoshard.name_patterns import fold_names
from autoshard.text_table import align
from autoshard.units import format_bytes, format_percent, format_seconds

_HEADING = ("verdict", "predicted", "compiled", "einsum or operation", "source", "runs")
_BYTES = ("bytes", "time", "exposed")
_TIMES = ("predicted bytes", "compiled", "predicted time", "compiled", "exposed")
_NEGLIGIBLE = 1e-4
"""Rows below this fraction of all bytes are only counted, unless everything is asked for."""


def to_text(audit: Audit, threshold: float, *, everything: bool = False) -> str:
    """Return the audit as aligned text.

    Args:
        audit: The audit.
        threshold: Unexpected bytes, as a fraction of the compiled ones, that are still good.
        everything: Show rows of next to no bytes, too.
    """
    shown = audit.rows if everything else tuple(row for row in audit.rows if _weighs(row, audit))
    blocks = [
        _header(audit),
        _table(audit, shown),
        _hidden(audit, shown),
        _rematerialised(audit),
        _totals(audit, threshold),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _weighs(row: Row, audit: Audit) -> bool:
    most = max(row.compiled_bytes, row.predicted_bytes)
    return most >= _NEGLIGIBLE * max(audit.compiled_bytes, audit.predicted_bytes)


def _header(audit: Audit) -> list[str]:
    mesh = " ".join(f"{name}={size}" for name, size in audit.mesh.items())
    what = "collectives, predicted and compiled" if audit.has_plan else "compiled collectives"
    return [
        f"{audit.function} on {audit.slice}, mesh {mesh}: {what}",
        "Bytes are of one chip (an all-gather's output, the input of others); bytes and times are of a whole "
        "step.",
        *audit.notes,
    ]


def _table(audit: Audit, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    cells = [_cells(row) if audit.has_plan else _found_cells(row) for row in rows]
    heading = (*_HEADING, *_TIMES) if audit.has_plan else ("collective", "of", *_HEADING[3:], *_BYTES)
    right = range(5 if audit.has_plan else 4, len(heading))
    first, *lines = align([heading, *cells], right=tuple(right))
    pairs = zip(lines, rows, strict=True)
    return [first, *(line for text, row in pairs for line in (text, *_remarks(row)))]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.verdict,
        _forms((each.kind, each.axes, True) for each in row.predicted) or "-",
        _compiled_forms(row) or "-",
        *place_of(row),
        str(_runs(row)),
        format_bytes(row.predicted_bytes) if row.predicted else "-",
        format_bytes(row.compiled_bytes) if row.compiled else "-",
        format_seconds(row.predicted_seconds) if row.predicted else "-",
        format_seconds(row.compiled_seconds) if row.compiled else "-",
        format_seconds(row.exposed_seconds) if row.compiled else "-",
    )


def _found_cells(row: Row) -> tuple[str, ...]:
    return (
        _compiled_forms(row),
        row.compiled[0].collective.tensor,
        *place_of(row),
        str(_runs(row)),
        format_bytes(row.compiled_bytes),
        format_seconds(row.compiled_seconds),
        format_seconds(row.exposed_seconds),
    )


def _compiled_forms(row: Row) -> str:
    found = (each.collective for each in row.compiled)
    return _forms((each.kind, each.axes, each.exact) for each in found)


def _forms(forms: Iterable[tuple[str, tuple[str, ...], bool]]) -> str:
    """Kinds and axes; groups that are not the chips along whole axes are marked so."""
    texts = (f"{kind}({'' if exact else 'part of '}{','.join(axes)})" for kind, axes, exact in forms)
    return " + ".join(dict.fromkeys(texts))


def place_of(row: Row) -> tuple[str, str]:
    """The operation and the line: those of the plan's entry where there is one."""
    if row.predicted:
        return row.predicted[0].entry, row.predicted[0].source or _first(e.source for e in row.compiled)
    ops = fold_names(list(dict.fromkeys(each.op for each in row.compiled if each.op)))
    return ops[0] if ops else "(unknown)", _first(each.source for each in row.compiled)


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _runs(row: Row) -> int:
    if row.predicted:
        return sum(each.runs for each in row.predicted)
    return sum(each.collective.trips for each in row.compiled)


def _remarks(row: Row) -> list[str]:
    """Lines below a row: why, where the compiler put it, the user's constraints beside it."""
    remarks = [cause_of(row)]
    if row.predicted:
        entry = row.predicted[0].entry
        moved = [each for each in row.compiled if each.op and each.entry != entry]
        elsewhere = {f"{each.op}{f' ({each.source})' if each.source else ''}" for each in moved}
        remarks += [f"compiled at {place}" for place in sorted(elsewhere)]
    hints = dict.fromkeys(hint for each in row.compiled for hint in each.hints)
    if hints:
        remarks.append(f"beside the sharding constraint at {', '.join(hints)}")
    return [f"    {remark}" for remark in remarks if remark]


def _hidden(audit: Audit, shown: Sequence[Row]) -> list[str]:
    rest = [row for row in audit.rows if row not in shown]
    if not rest:
        return []
    nbytes = format_bytes(sum(row.compiled_bytes for row in rest))
    return [f"{len(rest)} more of {nbytes} in all; --all shows them"]


def _rematerialised(audit: Audit) -> list[str]:
    if not audit.rematerialised:
        return []
    count = len(audit.rematerialised)
    what = "1 reshard replicates its tensor" if count == 1 else f"{count} reshards replicate their tensors"
    lines = [f"{what} on every chip and cuts it anew: no collective does it in parts"]
    return [*lines, *(f"    {_replicated_line(each)}" for each in audit.rematerialised)]


def _replicated_line(each: Replicated) -> str:
    if not each.held:
        return each.warning
    place = f"{each.op or '(unknown)'}{f' ({each.source})' if each.source else ''}"
    return f"{place}: {each.tensor} from {each.held} to {each.wanted}"


def _totals(audit: Audit, threshold: float) -> list[str]:
    attributed = audit.attributed_bytes / audit.compiled_bytes if audit.compiled_bytes else 1.0
    lines = [
        f"compiled {format_bytes(audit.compiled_bytes)} in "
        f"{format_seconds(sum(row.compiled_seconds for row in audit.rows))}, "
        f"{format_percent(attributed)} of the bytes attributed to an operation"
    ]
    if audit.has_plan:
        ratio = audit.predicted_bytes / audit.compiled_bytes if audit.compiled_bytes else None
        lines += [
            f"predicted {format_bytes(audit.predicted_bytes)}, {format_percent(ratio)} of what was compiled",
            f"unexpected {format_bytes(audit.unexpected_bytes)}, {format_percent(audit.unexpected_fraction)} "
            f"of the compiled bytes; the threshold is {format_percent(threshold)}",
        ]
    if audit.unknown_loops:
        lines.append(f"counted once, for their length is unknown: {', '.join(audit.unknown_loops)}")
    return lines
