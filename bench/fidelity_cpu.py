"""Plans ranked by the cost model against their times on eight CPU devices of this machine.

Run from the repository's root on a quiet machine: ``python -m bench.fidelity_cpu``.

The devices are calibrated first (`autoshard calibrate --slice cpu:8`), then plans of two small models
(`bench.fidelity_cpu_plans`) are searched with the chip that was measured, and all plans of a model are timed
in one process, in turns, and their outputs compared with those of the unsharded program. For each model:
Kendall's tau of predicted and measured times, what is lost by trusting the plan predicted to be fastest, and
measured over predicted times.

What this shows and what not: eight devices share the cores and the memory of one host, so their rates are
shares of its; it tests the composition of the model and its calibration, not the model of a TPU. Other work
on the machine disturbs the times, and with them the ranking.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.calibration import text as calibration_text
from autoshard.calibration.calibrate import calibrate
from autoshard.cost.slices import Slice
from autoshard.refining import export_candidate, export_reference
from autoshard.text_table import align
from autoshard.timing_bench import TimingResult
from autoshard.timing_worker import time_all
from autoshard.units import format_percent, format_seconds, three_digits
from bench.fidelity_cpu_plans import CASES, Case, Proposal, proposals, traced_case
from bench.fidelity_statistics import kendall_tau, quantiles, top_regret
from bench.fidelity_verdicts import Verdict

SLICE = "cpu:8"
LEAST_PLANS, LEAST_TAU, MOST_REGRET = 30, 0.8, 0.1
_ROUNDS, _RUNS_PER_ROUND = 5, 2
_DEVICES = 8
_SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Report:
    """A case: its plans and what the devices say of each."""

    case: str
    proposals: tuple[Proposal, ...]
    results: tuple[TimingResult, ...]

    @property
    def timed(self) -> list[tuple[Proposal, float]]:
        """Plans that ran and computed what they should, with their measured times."""
        pairs = zip(self.proposals, self.results, strict=True)
        return [(p, r.seconds) for p, r in pairs if r.status == "ok" and r.seconds is not None]

    @property
    def predicted(self) -> list[float]:
        """Predicted step times of these, seconds."""
        return [proposal.plan.predicted_seconds for proposal, _ in self.timed]

    @property
    def measured(self) -> list[float]:
        """Measured ones, seconds."""
        return [seconds for _, seconds in self.timed]

    @property
    def tau(self) -> float | None:
        """Kendall's tau of the two."""
        return kendall_tau(self.predicted, self.measured)

    @property
    def regret(self) -> float | None:
        """What trusting the model's first plan costs."""
        return top_regret(self.predicted, self.measured) if self.timed else None


def note_on_stderr(step: str) -> None:
    """Print progress."""
    print(step, file=sys.stderr, flush=True)


def run(say: Callable[[str], None], note: Callable[[str], None] = note_on_stderr) -> tuple[Verdict, ...]:
    """Calibrate, time the plans, print how the model fares, and judge it.

    Args:
        say: Prints results.
        note: Prints progress.
    """
    say(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before the first run\n")
    calibration = calibrate(SLICE, on_step=lambda step: note(f"calibrate: {step}"))
    say(calibration_text.findings_text(calibration))
    reports = []
    for case in CASES:
        report = time_case(case, calibration.calibrated, note)
        say(f"\n{case.name}, on {SLICE}\n")
        say("\n".join(align(plan_table(report), right=range(2, 8))))
        reports.append(report)
    say(f"\nload {os.getloadavg()[0]:.1f} after the last run; predicted against measured\n")
    say("\n".join(align(summary_table(reports), right=range(1, 7))))
    return verdicts(reports)


def time_case(case: Case, slice_: Slice, note: Callable[[str], None]) -> Report:
    """Search plans of a case and time them all in one process."""
    note(f"{case.name}: search plans")
    traced = traced_case(case)
    found = proposals(traced, slice_)
    results = time_all(
        [export_candidate(traced, proposal.plan, "cpu") for proposal in found],
        export_reference(traced, "cpu"),
        cpu_devices=_DEVICES,
        rounds=_ROUNDS,
        runs_per_round=_RUNS_PER_ROUND,
        on_progress=lambda step: note(f"{case.name}: {step}"),
    )
    return Report(case.name, tuple(found), tuple(results))


def plan_table(report: Report) -> list[list[str]]:
    """A row per plan, the fastest prediction first: the terms of the prediction, and what was measured."""
    head = ["plan", "mesh", "compute", "memory", "collectives", "predicted", "measured", "spread", "status"]
    pairs = sorted(
        zip(report.proposals, report.results, strict=True), key=lambda pair: pair[0].plan.predicted_seconds
    )
    return [head, *(_plan_row(proposal, result) for proposal, result in pairs)]


def _plan_row(proposal: Proposal, result: TimingResult) -> list[str]:
    predicted = proposal.plan.predicted
    times = (predicted.compute_seconds, predicted.hbm_seconds, predicted.ici_seconds, predicted.seconds)
    found = [format_seconds(seconds) for seconds in (*times, result.seconds, result.spread_seconds)]
    status = result.status if result.status == "ok" else f"{result.status}: {result.detail}"
    return [proposal.origin, proposal.mesh, *found, status]


def summary_table(reports: Sequence[Report]) -> list[list[str]]:
    """A row per case."""
    head = ["case", "plans", "tau", "regret", "measured/predicted: 5%", "50%", "95%"]
    return [head, *(_summary_row(report) for report in reports)]


def _summary_row(report: Report) -> list[str]:
    ratios = [measured / p for p, measured in zip(report.predicted, report.measured, strict=True)]
    shares = [three_digits(value) for value in quantiles(ratios, _SHARES)] or ["-"] * len(_SHARES)
    return [report.case, str(len(ratios)), _tau_text(report.tau), format_percent(report.regret), *shares]


def _tau_text(tau: float | None) -> str:
    return "-" if tau is None else f"{tau:.2f}"


def verdicts(reports: Sequence[Report]) -> tuple[Verdict, ...]:
    """Judge: enough plans, and of each model its tau and its regret."""
    n_plans = sum(len(report.timed) for report in reports)
    wrong = sum(len(report.results) - len(report.timed) for report in reports)
    return (
        Verdict(
            f"plans timed on {SLICE}",
            f"{n_plans} of {len(reports)} models, {wrong} lost or wrong",
            f"at least {LEAST_PLANS}",
            n_plans >= LEAST_PLANS and wrong == 0,
        ),
        *(verdict for report in reports for verdict in _case_verdicts(report)),
    )


def _case_verdicts(report: Report) -> tuple[Verdict, Verdict]:
    tau, regret = report.tau, report.regret
    return (
        Verdict(
            f"{report.case}: Kendall tau",
            _tau_text(tau),
            f"at least {LEAST_TAU}",
            tau is not None and tau >= LEAST_TAU,
        ),
        Verdict(
            f"{report.case}: top-1 regret",
            format_percent(regret),
            f"at most {format_percent(MOST_REGRET)}",
            regret is not None and regret <= MOST_REGRET,
        ),
    )


def main() -> None:
    """Run this section alone."""
    for verdict in run(print):
        met = "met" if verdict.met else "missed"
        print(f"{met}: {verdict.name}: {verdict.figure}, wanted {verdict.target}")


if __name__ == "__main__":
    main()
