"""How a joint plan is told."""

import dataclasses
import json

import pytest

from autoshard.phases.memory_order import Reordered
from autoshard.phases.result import JointPlans, PlannedHandOver
from autoshard.phases.text import joint_json, joint_text
from tests.autoshard.phases.test_tune_phases import planned


@pytest.fixture(scope="module")
def joint() -> JointPlans:
    return planned(mesh="native", runs=None)


def with_handovers(joint: JointPlans, *handovers: tuple[str, str, float]) -> str:
    """The text where arrays are handed over: (result, argument, seconds)."""
    made = tuple(
        PlannedHandOver("prefill", result, "x;", "decode", argument, ";x", 1, seconds)
        for result, argument, seconds in handovers
    )
    return joint_text(dataclasses.replace(joint, handovers=made), ())


def test_every_phase_has_a_line_and_all_runs_another(joint: JointPlans) -> None:
    lines = joint_text(joint, ()).splitlines()
    assert [line.split()[:2] for line in lines[:5]] == [
        ["phase", "runs"],
        ["prefill", "1"],
        ["decode", "64"],
        ["hand-over", "0"],
        ["all", "runs"],
    ]


def test_layers_are_handed_over_in_one_line(joint: JointPlans) -> None:
    text = with_handovers(joint, *((f"result/1/{n}/k", f"cache/{n}/k", 1e-3) for n in range(8)))
    (line,) = (line for line in text.splitlines() if "cache/" in line)
    assert line.split("  ")[0] == "result/1/{0..7}/k of prefill"
    assert "cache/{0..7}/k of decode" in line
    assert line.endswith("1.00 ms")
    assert "8.00 ms" in next(line for line in text.splitlines() if line.startswith("hand-over"))


def test_names_that_fold_unlike_are_told_one_by_one(joint: JointPlans) -> None:
    text = with_handovers(joint, ("result/1/0", "cache/a", 0.0), ("result/1/1", "cache/b", 0.0))
    lines = [line for line in text.splitlines() if "cache/" in line]
    assert [line.split()[0] for line in lines] == ["result/1/0", "result/1/1"]
    assert all(line.endswith("nothing to move") for line in lines)


def test_assumed_runs_are_said(joint: JointPlans) -> None:
    assert "runs are assumed: 64 of each later phase for one of the first" in joint_text(joint, ())
    asked = dataclasses.replace(joint, assumed_runs=False)
    assert "runs are those of --weights" in joint_text(asked, ("a.json", "b.json"))


def test_what_plans_made_alone_would_move_is_said(joint: JointPlans) -> None:
    moved = joint_text(dataclasses.replace(joint, moving_seconds=0.25), ())
    assert "moving it from one to the next would take 250 ms more each time" in moved
    apart = joint_text(dataclasses.replace(joint, moving_seconds=None), ())
    assert "the plans are on different meshes" in apart


def test_copies_to_another_memory_order_are_said(joint: JointPlans) -> None:
    first = dataclasses.replace(joint.phases[0], reordered=Reordered(("params/up", "params/down"), 0.002))
    text = joint_text(dataclasses.replace(joint, phases=(first, joint.phases[1])), ())
    assert "prefill has params/up, params/down in the memory order of the phase that runs most often" in text
    assert "copies of some 2.00 ms" in text
    assert "memory order" not in joint_text(joint, ())


def test_the_json_holds_the_plans_or_their_files(joint: JointPlans) -> None:
    facts = json.loads(joint_json(joint, ()))
    assert facts["phases"]["prefill"]["plan"]["function"]["name"] == "prefill"
    assert facts["loss"] == pytest.approx(joint.loss)
    named = json.loads(joint_json(joint, ("a.json", "b.json")))
    assert [phase["plan"] for phase in named["phases"].values()] == ["a.json", "b.json"]
