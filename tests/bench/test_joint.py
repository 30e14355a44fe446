"""The bench of joint plans: its cases, and the loss by the compiler's estimates."""

import dataclasses

import msgspec
import pytest

from autoshard.phases.memory_order import Reordered
from autoshard.phases.result import JointPlans
from autoshard.plan import Plan
from autoshard.verdict_records import Estimate
from bench.joint import CASES, estimated
from tests.autoshard.phases.test_tune_phases import planned

CASE = dataclasses.replace(CASES[0], runs=(1, 4))


def timed(plan: Plan, seconds: float) -> Plan:
    estimate = Estimate(seconds=seconds, hbm_bytes_per_chip=1, compute_seconds=seconds, ici_seconds=0.0)
    return msgspec.structs.replace(plan, estimated=estimate)


def together(copies: float) -> JointPlans:
    """Estimated at 2 s and 1 s, the first with copies to another memory order; nothing to hand over."""
    joint = planned(mesh="native", runs=CASE.runs)
    phases = [
        dataclasses.replace(
            phase,
            tuned=dataclasses.replace(phase.tuned, plan=timed(phase.plan, seconds)),
            reordered=Reordered((), copied),
        )
        for phase, seconds, copied in zip(joint.phases, (2.0, 1.0), (copies, 0.0), strict=True)
    ]
    return dataclasses.replace(joint, phases=tuple(phases), handovers=())


@pytest.mark.parametrize(("copies", "figure", "met"), [(0.0, "0.0%", True), (0.3, "5.0%", False)])
def test_the_loss_counts_all_runs_and_copies(copies: float, figure: str, met: bool) -> None:
    joint = together(copies)
    verdict = estimated(CASE, joint, [phase.plan for phase in joint.phases])
    assert (verdict.figure, verdict.met) == (figure, met)


def test_what_is_not_estimated_is_not_met() -> None:
    joint = together(0.0)
    verdict = estimated(CASE, joint, [phase.separate for phase in joint.phases])
    assert (verdict.figure, verdict.met) == ("not estimated", False)
