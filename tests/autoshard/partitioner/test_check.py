from dataclasses import replace
from typing import Any

import msgspec
import pytest

from autoshard.cost.torus import MeshAxis
from autoshard.partitioner.check import check, check_candidates, predicted_collectives
from autoshard.partitioner.prices import PropagatedCollective
from autoshard.partitioner.worker import PropagationResult
from autoshard.plan import Plan
from autoshard.plan_records import CollectiveRecord
from autoshard.refining import export_candidate
from autoshard.trace import trace

GATHER = PropagatedCollective("all-gather", ("x", "y"), 1024.0, 6, 2e-6, "layer/dot", "model.py:7")


def planned(plan: Plan, *records: CollectiveRecord, trips: int = 3, repeats: int = 2) -> Plan:
    """The plan with these collectives alone, all of its first einsum."""
    first = msgspec.structs.replace(plan.einsums[0], collectives=records, trips=trips, repeats=repeats)
    return msgspec.structs.replace(plan, einsums=(first,), tensors=())


def record(kind: str, axes: str, nbytes: int, seconds: float = 2e-6) -> CollectiveRecord:
    return CollectiveRecord(kind=kind, axes=axes, bytes_per_chip=nbytes, seconds=seconds, tensor="w")


def result(*collectives: PropagatedCollective) -> PropagationResult:
    total = sum(each.seconds * each.trips for each in collectives)
    return PropagationResult(status="ok", collectives=collectives, seconds=total)


def test_a_plan_lists_its_collectives_with_all_their_runs_and_without_copies(plan: Plan) -> None:
    ours = planned(
        plan,
        record("all-gather", "x,y", 1024),
        record("copy", "x,y", 1024),
        record("ragged-all-to-all", "z", 64),
    )
    assert [(each.kind, each.axes, each.trips) for each in predicted_collectives(ours)] == [
        ("all-gather", ("x", "y"), 6),
        ("all-to-all", ("z",), 6),
    ]


def test_what_was_predicted_is_expected(plan: Plan) -> None:
    found = check(planned(plan, record("all-gather", "y,x", 1024)), result(GATHER))
    assert (found.unexpected, found.missing, found.unseen_seconds) == ((), (), 0.0)
    assert found.bytes_by_kind() == {"all-gather": (6 * 1024, 6 * 1024)}


def test_copies_of_a_collective_are_matched_run_for_run(plan: Plan) -> None:
    """Unrolled layers: six collectives of one run each; a seventh is unexpected."""
    copies = [replace(GATHER, trips=1)] * 7
    found = check(planned(plan, record("all-gather", "x,y", 1024)), result(*copies))
    assert [each.trips for each in found.unexpected] == [1]
    assert found.missing == ()
    assert found.unexpected_bytes == 1024
    assert found.unseen_seconds == pytest.approx(2e-6)
    assert found.agrees(seconds=2.1e-6)
    assert not found.agrees(seconds=1.9e-6)


def test_a_collective_may_be_done_in_parts_over_its_axes(plan: Plan) -> None:
    """A gather over x and y: y first, then x on all bytes. The time of the parts is their own."""
    first = replace(GATHER, axes=("y",), bytes_per_chip=512.0, seconds=1.5e-6)
    parts = first, replace(GATHER, axes=("x",))
    found = check(planned(plan, record("all-gather", "x,y", 1024)), result(*parts))
    assert (found.unexpected, found.missing) == ((), ())
    assert found.unseen_seconds == pytest.approx(6 * 1.5e-6)


@pytest.mark.parametrize(
    "change",
    [{"kind": "all-reduce"}, {"axes": ("x", "z")}, {"bytes_per_chip": 2048.0}, {"trips": 7}],
    ids=["kind", "axes", "bytes", "trips"],
)
def test_another_collective_is_unexpected_and_the_predicted_one_is_missing(
    plan: Plan, change: dict[str, Any]
) -> None:
    other = replace(GATHER, **change)
    found = check(planned(plan, record("all-gather", "x,y", 1024)), result(other))
    if "trips" in change:  # six of the seven runs were predicted
        assert (found.unexpected, found.missing) == ((replace(GATHER, trips=1),), ())
        return
    assert found.unexpected == (other,)
    assert [(each.kind, each.bytes_per_chip, each.trips) for each in found.missing] == [
        ("all-gather", 1024, 6)
    ]
    assert found.missing_bytes == 6 * 1024


def test_the_summary_names_the_slowest_unexpected_collective(plan: Plan) -> None:
    small = replace(GATHER, kind="all-reduce", seconds=1e-9, op_name="small")
    found = check(planned(plan), result(small, GATHER))
    assert found.summary == (
        "0.0 MiB predicted, 0.0 MiB propagated, 0.0 MiB unexpected, most of it the all-gather over x,y of "
        "layer/dot model.py:7"
    )


def test_less_time_than_predicted_is_not_credited(plan: Plan) -> None:
    ours = planned(plan, record("all-gather", "x,y", 1024, seconds=1.0))
    assert check(ours, result(GATHER)).unseen_seconds == 0.0


def test_without_an_answer_nothing_is_compared(plan: Plan) -> None:
    lost = PropagationResult(status="crashed", detail="ended by SIGABRT; its last words: LLVM ERROR\nmore")
    found = check(planned(plan, record("all-gather", "x,y", 1024)), lost)
    assert (found.unexpected, found.missing, found.unseen_seconds) == ((), (), 0.0)
    assert found.summary == "crashed: ended by SIGABRT; its last words: LLVM ERROR"
    assert not found.agrees(seconds=1.0)


def test_the_plans_of_a_scanned_mlp_move_what_they_say(small: Any) -> None:
    """Model, constraints and Shardy agree on the whole way from a search to its partitioned programs."""
    traced = trace(small.function, small.arguments, {})
    plans = small.plans[:3]
    programs = [export_candidate(traced, plan, "cpu") for plan in plans]
    assert all(isinstance(axis, MeshAxis) for axis in programs[0].mesh_axes)
    seen: list[int] = []
    checks = check_candidates(plans, programs, "cpu:8", on_check=lambda index, _: seen.append(index))
    assert sorted(seen) == [0, 1, 2]
    assert [found.result.status for found in checks] == ["ok"] * 3
    assert [found.missing_bytes for found in checks] == [0] * 3
    agreed = [found for found in checks if found.predicted and not found.unexpected]
    assert agreed
    assert all(predicted == propagated for predicted, propagated in agreed[0].bytes_by_kind().values())
