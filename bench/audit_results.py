"""What `bench.audit` finds: a record for each plan, one JSON object a line, written once it is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from autoshard.audit.causes import cause_of
from autoshard.audit.records import Audit, Row
from autoshard.audit.text import place_of
from autoshard.text_table import align
from autoshard.units import format_bytes, format_percent

ATTRIBUTED_TARGET = 0.95
RATIO_TARGET = 0.1
_LARGE = 0.01
"""What differs from the plan is listed from this fraction of a program's bytes on."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A row of an audit that is not as predicted; bytes per chip and step."""

    verdict: str
    predicted: str
    compiled: str
    op: str
    source: str
    predicted_bytes: float
    compiled_bytes: float
    cause: str


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """One plan; `status` is "ok" or why it was not compiled. Bytes are of a chip and a step."""

    case: str
    rank: int
    status: str
    predicted_bytes: float = 0.0
    compiled_bytes: float = 0.0
    attributed_bytes: float = 0.0
    unexpected_bytes: float = 0.0
    rematerialised: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def ratio(self) -> float:
        """Predicted over compiled bytes; 1 where neither are any."""
        if not self.compiled_bytes:
            return 1.0 if not self.predicted_bytes else float("inf")
        return self.predicted_bytes / self.compiled_bytes


def audited(case: str, rank: int, audit: Audit) -> Audited:
    """Return the record of an audit."""
    least = _LARGE * max(audit.compiled_bytes, audit.predicted_bytes)
    return Audited(
        case=case,
        rank=rank,
        status="ok",
        predicted_bytes=audit.predicted_bytes,
        compiled_bytes=audit.compiled_bytes,
        attributed_bytes=audit.attributed_bytes,
        unexpected_bytes=audit.unexpected_bytes,
        rematerialised=len(audit.rematerialised),
        differences=tuple(
            _difference(row)
            for row in audit.rows
            if row.verdict != "agrees" and max(row.predicted_bytes, row.compiled_bytes) >= least
        ),
    )


def _difference(row: Row) -> Difference:
    op, source = place_of(row)
    predicted = (f"{each.kind}({','.join(each.axes)})" for each in row.predicted)
    compiled = (f"{each.collective.kind}({','.join(each.collective.axes)})" for each in row.compiled)
    return Difference(
        verdict=row.verdict,
        predicted=" + ".join(dict.fromkeys(predicted)),
        compiled=" + ".join(dict.fromkeys(compiled)),
        op=op,
        source=source,
        predicted_bytes=row.predicted_bytes,
        compiled_bytes=row.compiled_bytes,
        cause=cause_of(row),
    )


def read(path: Path) -> list[Audited]:
    """The records of a file, none where there is no file; a line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Audited) for line in lines if line]


def append(path: Path, record: Audited) -> None:
    """Write one record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.name.startswith("."):  # a folder of our own: no part of the repository
        (path.parent / ".gitignore").write_text("*\n")
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def report(records: Sequence[Audited]) -> str:
    """All plans as a table, what differs from them, and the two figures against their targets."""
    done = [each for each in records if each.status == "ok"]
    blocks = [_table(records), *([_differences(done)] if done else []), _figures(records)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _table(records: Iterable[Audited]) -> list[str]:
    heading = (
        "plan",
        "compiled",
        "predicted",
        "ratio",
        "attributed",
        "unexpected",
        "replicated",
        "status",
    )
    rows = [
        (
            f"{each.case} #{each.rank + 1}",
            format_bytes(each.compiled_bytes),
            format_bytes(each.predicted_bytes),
            f"{each.ratio:.3f}",
            format_percent(_share(each.attributed_bytes, each.compiled_bytes, 1.0)),
            format_percent(_share(each.unexpected_bytes, each.compiled_bytes, 0.0)),
            str(each.rematerialised),
            each.status,
        )
        for each in records
    ]
    return align([heading, *rows], right=range(1, 7))


def _differences(records: Iterable[Audited]) -> list[str]:
    heading = (
        "not as predicted",
        "verdict",
        "predicted",
        "compiled",
        "operation",
        "source",
        "bytes",
        "cause",
    )
    rows = [
        (
            f"{each.case} #{each.rank + 1}",
            found.verdict,
            found.predicted or "-",
            found.compiled or "-",
            found.op,
            found.source,
            f"{format_bytes(found.predicted_bytes)} -> {format_bytes(found.compiled_bytes)}",
            found.cause,
        )
        for each in records
        for found in each.differences
    ]
    return align([heading, *rows]) if rows else []


@dataclass(frozen=True, slots=True)
class Figures:
    """The two figures, over the plans that were compiled.

    Attributes:
        plans: How many these are.
        attributed: Part of all their bytes whose operation is known.
        worst_attributed: The same of the worst plan.
        median_off: Distance of predicted to compiled bytes, as a fraction of the latter, in the median plan.
        within: In how many plans that is within the target.
    """

    plans: int
    attributed: float
    worst_attributed: float
    median_off: float
    within: int

    @property
    def meets_targets(self) -> bool:
        """Whether both figures are within their targets."""
        return self.attributed >= ATTRIBUTED_TARGET and self.median_off <= RATIO_TARGET


def figures(records: Iterable[Audited]) -> Figures | None:
    """Return the figures, None where nothing was compiled."""
    done = [each for each in records if each.status == "ok"]
    if not done:
        return None
    compiled = sum(each.compiled_bytes for each in done)
    off = [abs(each.ratio - 1) for each in done]
    return Figures(
        plans=len(done),
        attributed=_share(sum(each.attributed_bytes for each in done), compiled, 1.0),
        worst_attributed=min(_share(each.attributed_bytes, each.compiled_bytes, 1.0) for each in done),
        median_off=median(off),
        within=sum(each <= RATIO_TARGET for each in off),
    )


def _figures(records: Sequence[Audited]) -> list[str]:
    found = figures(records)
    apart = sum(each.status != "ok" for each in records)
    if found is None:
        return [f"nothing was compiled; {apart} plans do not fit"]
    return [
        f"{found.plans} plans were compiled, {apart} do not fit",
        f"attributed to an operation: {format_percent(found.attributed)} of all bytes, "
        f"{format_percent(found.worst_attributed)} in the worst plan "
        f"(target: {format_percent(ATTRIBUTED_TARGET)})",
        f"predicted bytes differ from compiled ones by {format_percent(found.median_off)} in the median of "
        f"{found.plans} plans (target: {format_percent(RATIO_TARGET)}); {found.within} are within that",
    ]


def _share(part: float, whole: float, otherwise: float) -> float:
    return part / whole if whole else otherwise
