"""Costs to and from the records of a plan.

A plan made before costs were kept by parts has totals alone: what it calls ICI is the time of collectives,
network and latency included, by the axes over which they run, and of copies, which are HBM traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from autoshard.cost.cost import Cost, op_cost
from autoshard.plan_records import CollectiveRecord, CostRecord

_COPY = "copy"
"""Kind of a copy in plan files."""


def cost_record(cost: Cost) -> CostRecord:
    """The record of a cost."""
    return CostRecord(**asdict(cost))


def cost_of(record: CostRecord) -> Cost:
    """The cost that a record holds."""
    return Cost(
        record.compute_seconds,
        record.hbm_seconds,
        record.overlapped_seconds,
        record.ici_seconds,
        record.dcn_seconds,
        record.latency_seconds,
        record.hidden_seconds,
    )


def cost_of_totals(
    compute_seconds: float,
    hbm_seconds: float,
    ici_seconds: float,
    collectives: Sequence[CollectiveRecord],
    exposed_fraction: float,
) -> Cost:
    """The cost of an operation in a plan that has totals alone.

    Args:
        compute_seconds: time of the matrix units.
        hbm_seconds: time of the HBM traffic.
        ici_seconds: time of all collectives and copies, of which `collectives` are the list.
        collectives: what moves.
        exposed_fraction: the part of `ici_seconds` that is not hidden.
    """
    moved: dict[str, float] = {}
    for each in collectives:
        moved[each.axes] = moved.get(each.axes, 0.0) + (each.seconds if each.kind != _COPY else 0.0)
    copied = sum(each.seconds for each in collectives if each.kind == _COPY)
    rest = ici_seconds - copied - sum(moved.values())
    return op_cost(compute_seconds, hbm_seconds) + Cost(
        hbm_seconds=copied,
        ici_seconds={**moved, "": rest} if abs(rest) > 1e-6 * ici_seconds else moved,
        hidden_seconds=(1.0 - exposed_fraction) * ici_seconds,
    )
