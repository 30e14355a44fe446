"""Padded dims as plans write them down."""

from __future__ import annotations

from collections.abc import Iterable

from autoshard.cost.torus import TorusMesh
from autoshard.plan_records import PaddingRecord
from autoshard.search.padded import Padded


def padding_records(padded: Iterable[Padded], mesh: TorusMesh) -> tuple[PaddingRecord, ...]:
    """Return a record for each padded dim, its axes by name."""
    return tuple(
        PaddingRecord(
            dim=each.name,
            size=each.size,
            padded=each.padded,
            axes=",".join(mesh.names[axis] for axis in each.axes),
        )
        for each in padded
    )
