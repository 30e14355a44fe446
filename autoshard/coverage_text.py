"""A function's coverage as text or as JSON: what is under decisions, and all that is not, by its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import msgspec

from autoshard.coverage_records import Coverage, OpaqueRecord, UnknownLoopRecord, UnruledPrimitive
from autoshard.text_table import align
from autoshard.units import format_bytes

_NO_RULE, _NO_SPLIT = "no rule", "its rule splits nothing"
_BYTES_NOTE = "Bytes are those of a step, all trips, unsharded. Shares are rounded down."


def to_json(function: str, coverage: Coverage) -> str:
    """Return the coverage as a JSON object with every field; null where an old plan has not counted it."""
    fields = {name: msgspec.to_builtins(value) for name, value in msgspec.structs.asdict(coverage).items()}
    return json.dumps({"function": function, "coverage": fields}, indent=2, ensure_ascii=False)


def to_text(function: str, coverage: Coverage) -> str:
    """Return the coverage as aligned text."""
    head = f"{function}: {coverage.einsums} einsums among {coverage.equations} equations"
    blocks = [[head, *_shares(coverage)]]
    if coverage.bytes_fraction is None:
        blocks += [_replicated(coverage), ["this plan is from before bytes were counted: tune it again"]]
    else:
        blocks += [
            [_BYTES_NOTE],
            _replicated(coverage),
            _opaque(coverage.opaque),
            _unknown_loops(coverage.unknown_loops, coverage.flops),
            _on_every_chip(coverage),
            [f"sharding annotations of the function that a plan frees: {coverage.freed_annotations}"],
        ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _shares(coverage: Coverage) -> list[str]:
    rows = [("flops", _share(coverage.flops_fraction), _of_flops(coverage.flops))]
    if coverage.bytes_fraction is not None:
        rows.append(("bytes", _share(coverage.bytes_fraction), f"of {format_bytes(coverage.bytes)}"))
    return align([(name, f"{share} under decisions", total) for name, share, total in rows])


def _share(fraction: float) -> str:
    """A fraction as percent, rounded down: 100% is all, not nearly all."""
    return f"{math.floor(round(1e4 * fraction, 6)) / 100:.2f}%"


def _of_flops(flops: float | None) -> str:
    return "" if flops is None else f"of {flops:.3e}"


def _replicated(coverage: Coverage) -> list[str]:
    if not coverage.unruled and not coverage.unsplit:
        return ["replicated primitives: none, every equation has a rule that splits something"]
    heading = ("replicated primitive", "why", "count", "bytes")
    rows = [
        *(_primitive_cells(each, _NO_RULE) for each in coverage.unruled),
        *(_primitive_cells(each, _NO_SPLIT) for each in coverage.unsplit),
    ]
    return align([heading, *rows], right=(2, 3))


def _primitive_cells(row: UnruledPrimitive, reason: str) -> tuple[str, ...]:
    return row.primitive, reason, str(row.count), format_bytes(row.bytes)


def _opaque(calls: Sequence[OpaqueRecord]) -> list[str]:
    if not calls:
        return ["opaque calls: none"]
    rows = [(c.primitive, c.source or "-", str(c.count), format_bytes(c.bytes)) for c in calls]
    table = align([("opaque call", "source", "count", "bytes"), *rows], right=(2, 3))
    return [*table, "    what runs inside is not known: its flops are missing above"]


def _unknown_loops(loops: Sequence[UnknownLoopRecord], flops: float | None) -> list[str]:
    if not loops:
        return ["loops of unknown trip count: none"]
    total = flops or 1.0
    rows = [(e.source or "-", str(e.count), f"{e.flops:.3e}", _share(e.flops / total)) for e in loops]
    heading = ("loop of unknown trip count", "count", "flops of one trip", "of all")
    return [*align([heading, *rows], right=(1, 2, 3)), "    each is counted as one trip"]


def _on_every_chip(coverage: Coverage) -> list[str]:
    rows = [
        ("tensors of the rows above, each once", "", format_bytes(coverage.replicated_bytes)),
        ("closed-over arrays", str(coverage.constants), format_bytes(coverage.constant_bytes)),
        ("small arguments", str(coverage.small_arguments), format_bytes(coverage.small_argument_bytes)),
    ]
    tables = (
        f"left to the compiler: {coverage.tables} large tables computed from small arguments and constants, "
        f"{format_bytes(coverage.table_bytes)}"
    )
    return [*align([("whole on every chip", "count", "bytes"), *rows], right=(1, 2)), "", tables]
