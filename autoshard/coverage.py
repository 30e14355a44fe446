"""The coverage of a graph as the plan file records it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autoshard.coverage_records import Coverage, OpaqueRecord, UnknownLoopRecord, UnruledPrimitive
from autoshard.record import SIGNIFICANT_DIGITS
from autoshard.search.coverage import PrimitiveCoverage, Standing, measure_coverage
from autoshard.search.graph import Graph

_DECIMALS = 10.0**SIGNIFICANT_DIGITS


def coverage_record(graph: Graph) -> Coverage:
    """Return what `measure_coverage` says of a graph, without the rows of primitives that are decided."""
    measured = measure_coverage(graph)
    split_by_none = (row for row in measured.of_standing(Standing.WHOLE) if row.bytes)
    return Coverage(
        equations=measured.equations,
        einsums=measured.einsums,
        flops_fraction=_rounded_down(measured.flops_fraction),
        unruled=_rows(measured.of_standing(Standing.UNRULED)),
        flops=measured.flops,
        bytes=round(measured.bytes),
        bytes_fraction=_rounded_down(measured.bytes_fraction),
        unsplit=_rows(split_by_none),
        opaque=tuple(
            OpaqueRecord(primitive=c.primitive, source=c.source, count=c.count, bytes=round(c.bytes))
            for c in measured.opaque
        ),
        replicated_bytes=round(measured.replicated_bytes),
        constants=measured.constants,
        constant_bytes=round(measured.constant_bytes),
        small_arguments=measured.small_arguments,
        small_argument_bytes=round(measured.small_argument_bytes),
        tables=measured.tables,
        table_bytes=round(measured.table_bytes),
        unknown_loops=tuple(
            UnknownLoopRecord(source=loop.source, count=loop.count, flops=loop.flops)
            for loop in measured.unknown_loops
        ),
        freed_annotations=measured.freed_annotations,
    )


def _rounded_down(fraction: float) -> float:
    """A fraction with the digits that a record keeps: 1 is all, not nearly all."""
    return math.floor(fraction * _DECIMALS) / _DECIMALS


def _rows(rows: Iterable[PrimitiveCoverage]) -> tuple[UnruledPrimitive, ...]:
    return tuple(
        UnruledPrimitive(primitive=row.primitive, count=row.count, bytes=round(row.bytes)) for row in rows
    )
