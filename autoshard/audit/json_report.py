"""An audit as JSON, for programs; `autoshard.audit.text` has the same for people."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from autoshard.audit.causes import cause_of
from autoshard.audit.records import Audit, Compiled, Predicted, Row
from autoshard.audit.text import place_of


def to_json(audit: Audit, threshold: float) -> str:
    """Return the audit as a JSON object; bytes and seconds are of one chip and a whole step."""
    return json.dumps(_plain(audit, threshold), indent=2, ensure_ascii=False)


def _plain(audit: Audit, threshold: float) -> dict[str, Any]:
    return {
        "function": audit.function,
        "slice": audit.slice,
        "mesh": audit.mesh,
        "has_plan": audit.has_plan,
        "compiled_bytes": audit.compiled_bytes,
        "predicted_bytes": audit.predicted_bytes if audit.has_plan else None,
        "attributed_bytes": audit.attributed_bytes,
        "unexpected_bytes": audit.unexpected_bytes if audit.has_plan else None,
        "unexpected_fraction": audit.unexpected_fraction if audit.has_plan else None,
        "threshold": threshold if audit.has_plan else None,
        "seconds_estimated": audit.seconds_estimated,
        "unknown_loops": list(audit.unknown_loops),
        "notes": list(audit.notes),
        "rows": [_plain_row(row) for row in audit.rows],
        "rematerialised": [msgspec.to_builtins(each) for each in audit.rematerialised],
    }


def _plain_row(row: Row) -> dict[str, Any]:
    op, source = place_of(row)
    return {
        "verdict": row.verdict,
        "op": op,
        "source": source,
        "cause": cause_of(row),
        "predicted_bytes": row.predicted_bytes,
        "compiled_bytes": row.compiled_bytes,
        "unexpected_bytes": row.unexpected_bytes,
        "predicted_seconds": row.predicted_seconds,
        "compiled_seconds": row.compiled_seconds,
        "exposed_seconds": row.exposed_seconds,
        "predicted": [_plain_predicted(each) for each in row.predicted],
        "compiled": [_plain_compiled(each) for each in row.compiled],
    }


def _plain_predicted(each: Predicted) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(each)
    return plain


def _plain_compiled(each: Compiled) -> dict[str, Any]:
    found = each.collective
    return {
        "instruction": found.name,
        "kind": found.kind,
        "axes": list(found.axes),
        "exact": found.exact,
        "tensor": found.tensor,
        "bytes_per_chip": found.bytes_per_chip,
        "trips": found.trips,
        "seconds": found.seconds,
        "exposed_seconds": found.exposed_seconds,
        "asynchronous": found.asynchronous,
        "entry": each.entry,
        "op": each.op,
        "source": each.source,
        "stack": [f"{line.file}:{line.line}" for line in found.stack],
        "constraints": list(each.hints),
        "neighbour": found.neighbour,
    }
