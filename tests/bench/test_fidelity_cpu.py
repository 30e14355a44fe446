"""The ranking on CPU devices: which plans are timed, and how the model is judged by their times."""

from typing import Any

import msgspec
import pytest

from autoshard.calibration import text as calibration_text
from autoshard.cost.slices import parse_slice
from autoshard.plan import Plan
from autoshard.timing_bench import TimingResult
from bench import fidelity_cpu
from bench.fidelity_cpu import Report, plan_table, summary_table, verdicts
from bench.fidelity_cpu_plans import CASES, LLAMA, PALM, Case, Proposal, proposals, traced_case
from examples import palm


def report(plan: Plan, *pairs: tuple[float, float | None], name: str = "model") -> Report:
    """A case of plans with predicted and measured seconds; None: the plan was lost."""
    found, results = [], []
    for predicted, measured in pairs:
        told = msgspec.structs.replace(plan.predicted, seconds=predicted)
        found.append(Proposal("search", "8", msgspec.structs.replace(plan, predicted=told)))
        status: Any = "ok" if measured is not None else "crashed"
        results.append(TimingResult(status=status, seconds=measured, detail="" if measured else "SIGABRT"))
    return Report(name, tuple(found), tuple(results))


def test_the_models_are_float32_and_have_both_forms_of_layers() -> None:
    assert PALM.dtype == PALM.weight_dtype == LLAMA.dtype == "float32"
    assert not LLAMA.scan_layers
    assert len({case.name for case in CASES}) == len(CASES) == 2


def test_the_order_of_times_is_judged_not_the_times(plan: Plan) -> None:
    same = report(plan, (1.0, 10.0), (2.0, 21.0), (4.0, 45.0))
    assert same.tau == 1.0
    assert same.regret == 0.0
    mixed = report(plan, (1.0, 12.0), (2.0, 10.0), (4.0, 20.0))
    assert mixed.tau == pytest.approx(1 / 3)  # one of three pairs is the other way round
    assert mixed.regret == pytest.approx(0.2)


def test_a_lost_plan_is_not_ranked_but_counts_against_the_run(plan: Plan) -> None:
    lost = report(plan, (1.0, None), (2.0, 10.0), (4.0, 20.0))
    assert lost.predicted == [2.0, 4.0]
    assert lost.regret == 0.0
    (timed, *_) = verdicts([lost])
    assert timed.figure == "2 of 1 models, 1 lost or wrong"
    assert not timed.met


def test_targets_are_met_or_missed_case_by_case(plan: Plan) -> None:
    good = report(plan, *((float(n), 2.0 * n) for n in range(1, 31)), name="good")
    bad = report(plan, (1.0, 3.0), (2.0, 1.0), name="bad")
    found = {verdict.name: verdict for verdict in verdicts([good, bad])}
    assert found["plans timed on cpu:8"].met
    assert found["good: Kendall tau"].met
    assert found["good: top-1 regret"].figure == "0.0%"
    assert found["bad: Kendall tau"].figure == "-1.00"
    assert not found["bad: Kendall tau"].met
    assert found["bad: top-1 regret"].figure == "200.0%"
    assert not found["bad: top-1 regret"].met


def test_without_any_time_nothing_is_claimed(plan: Plan) -> None:
    nothing = report(plan, (1.0, None))
    assert (nothing.tau, nothing.regret) == (None, None)
    assert not any(verdict.met for verdict in verdicts([nothing]))
    assert summary_table([nothing])[1] == ["model", "0", "-", "-", "-", "-", "-"]


def test_tables_have_plans_in_the_predicted_order_and_say_why_one_was_lost(plan: Plan) -> None:
    _, first, second = plan_table(report(plan, (4e-3, 20e-3), (2e-3, None)))
    assert (first[5], first[6], first[8]) == ("2.00 ms", "-", "crashed: SIGABRT")
    assert (second[5], second[6], second[8]) == ("4.00 ms", "20.0 ms", "ok")


def test_plans_are_distinct_and_of_every_origin() -> None:
    case = Case("tiny", palm.prefill_target(palm.TINY, 8, 16))
    found = proposals(traced_case(case), parse_slice("cpu:2"))
    assert {proposal.origin for proposal in found} == {"search", "partly random", "random"}
    assert {proposal.mesh for proposal in found} == {"2"}
    keys = {(f"{p.plan.predicted_seconds:.4g}", p.plan.predicted.hbm_bytes_per_chip) for p in found}
    assert len(keys) == len(found)


def test_a_run_prints_its_figures_and_returns_verdicts(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Calibration:
        calibrated = parse_slice("cpu:8")

    monkeypatch.setattr(fidelity_cpu, "calibrate", lambda *_, **__: Calibration())
    monkeypatch.setattr(calibration_text, "findings_text", lambda _: "numbers")
    monkeypatch.setattr(
        fidelity_cpu, "time_case", lambda case, *_: report(plan, (1.0, 1.5), (2.0, 3.0), name=case.name)
    )
    lines: list[str] = []
    found = fidelity_cpu.run(lines.append)
    text = "\n".join(lines)
    assert "numbers" in text
    assert all(case.name in text for case in CASES)
    assert len(found) == 1 + 2 * len(CASES)
    assert [verdict.met for verdict in found] == [False, *[True] * 4]  # 4 plans are too few
