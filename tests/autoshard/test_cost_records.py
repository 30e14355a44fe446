"""Costs in plans: there and back, and out of the totals of older plans."""

import pytest

from autoshard.cost.cost import Cost, op_cost
from autoshard.cost_records import cost_of, cost_of_totals, cost_record
from autoshard.plan_records import CollectiveRecord


def collective(kind: str, axes: str, seconds: float) -> CollectiveRecord:
    return CollectiveRecord(kind=kind, axes=axes, bytes_per_chip=1, seconds=seconds, tensor="h")


def test_there_and_back() -> None:
    cost = op_cost(3.0, 2.0, 0.5) + Cost(
        ici_seconds={"x": 1.0, "y,z": 2.0}, dcn_seconds=4.0, hidden_seconds=0.25
    )
    assert cost_of(cost_record(cost)) == cost


def test_totals_become_parts() -> None:
    moved = [
        collective("all-gather", "x", 2.0),
        collective("all-reduce", "x", 1.0),
        collective("copy", "x", 4.0),
    ]
    cost = cost_of_totals(5.0, 6.0, 7.0, moved, exposed_fraction=1.0)
    assert cost.ici_seconds == {"x": 3.0}
    assert cost.hbm_seconds == 6.0 + 4.0
    assert cost.seconds == pytest.approx(max(5.0, 6.0) + 7.0)


def test_what_no_collective_explains_is_kept() -> None:
    cost = cost_of_totals(0.0, 0.0, 7.0, [collective("all-gather", "x", 2.0)], exposed_fraction=0.5)
    assert cost.ici_seconds == {"x": 2.0, "": 5.0}
    assert cost.seconds == pytest.approx(3.5)
