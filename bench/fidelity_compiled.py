"""Tier 0 against tier 2: does the model rank plans, and count their memory, as the TPU compiler does?

Run from the repository's root: ``python -m bench.fidelity_compiled [--cases TEXT ...]``. It prices the plans
of `bench/data/compiled_plans.jsonl.xz` by the model of today and holds them against what the compiler said.
With ``--rebuild`` it makes the plans of cases that have none (``--fresh``: of all) and compiles those that
this libtpu has not compiled; what is known is kept when it is interrupted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from autoshard.text_table import align
from autoshard.units import format_percent
from bench.fidelity_cache import Cache, PlanLine, load
from bench.fidelity_cases import CASES, Case, Study
from bench.fidelity_labels import StalePlanError, price_plan
from bench.fidelity_report import Report, Row, memory_table, origin_table, ranking_table
from bench.fidelity_statistics import quantiles
from bench.fidelity_verdicts import Verdict, conclude

LEAST_PLANS, LEAST_CASES = 200, 8
LEAST_TAU = 0.85
MOST_REGRET, MOST_WORST_REGRET = 0.03, 0.15
MOST_MEMORY_ERROR, MOST_MEMORY_ERROR_95 = 0.05, 0.12


def run(say: Callable[[str], None], cases: Sequence[Case] = CASES) -> tuple[Verdict, ...]:
    """Price the plans of the cache, print how tier 0 fares, and judge it."""
    cache = load()
    every = [compare(Study(case), cache) for case in cases]
    reports = [report for report in every if report.rows]
    for line in (*_gaps(every), ""):
        say(line)
    if not reports:
        return (Verdict("plans compiled", "0", f"at least {LEAST_PLANS}", False),)
    say("Ranking: step times predicted (tier 0) against estimated by the TPU compiler (tier 2)\n")
    say("\n".join(align(ranking_table(reports), right=range(1, 12))))
    say("\nPeak HBM per chip, predicted against compiled\n")
    say("\n".join(align(memory_table(reports), right=range(1, 9))))
    say("\nBy origin of the plans\n")
    say("\n".join(align(origin_table(reports), right=range(1, 9))))
    return verdicts(reports)


def _gaps(reports: Sequence[Report]) -> list[str]:
    """What the cache lacks: a line for each case that is not whole."""
    return [
        f"{report.case}: {len(report.rows)} plans compared, {report.stale} stale, {report.waiting} not "
        "compiled: run `python -m bench.fidelity_compiled --rebuild`"
        for report in reports
        if report.stale or report.waiting or not report.rows
    ]


def compare(study: Study, cache: Cache) -> Report:
    """Price the plans of a case that have been compiled; all are stale where the program has changed."""
    name, plans = study.name, cache.of_case(study.name)
    compiled = [plan for plan in plans if plan.answer is not None]
    waiting = len(plans) - len(compiled)
    if plans and cache.cases[name].fingerprint != study.traced.fingerprint():
        return Report(name, (), stale=len(compiled), waiting=waiting)
    rows = [row for plan in compiled if (row := row_of(study, plan, cache.labels(plan))) is not None]
    return Report(name, tuple(rows), stale=len(compiled) - len(rows), waiting=waiting)


def row_of(study: Study, plan: PlanLine, labels: dict[str, str]) -> Row | None:
    """One plan by both tiers; None where it is impossible in the problem of today."""
    answer = plan.answer
    assert answer is not None
    try:
        priced = price_plan(study.problem, study.memory, labels)
    except StalePlanError:
        return None
    return Row(
        plan=plan,
        answer=answer,
        predicted=priced.seconds,
        estimated=answer.seconds_today(study.mesh) if answer.ok else None,
        hbm_bytes=priced.peak.nbytes,
        fits=priced.peak.nbytes <= study.limit_bytes,
        filled=priced.filled,
    )


def verdicts(reports: Sequence[Report]) -> tuple[Verdict, ...]:
    """The targets: enough plans, their order, the regret, memory."""
    taus = [(tau, report.case) for report in reports if (tau := report.tau) is not None]
    plans = sum(len(report.rows) - len(report.lost) for report in reports)
    regrets = [(regret, report.case) for report in reports if (regret := report.regret()) is not None]
    if not taus or not regrets:
        return (Verdict("plans compiled", f"{plans} plans, too few to rank", f"{LEAST_PLANS} plans", False),)
    errors = [abs(error) for report in reports for error in report.memory_errors]
    rejected = sum(len(report.rejected) for report in reports)
    chips = {report.case.rpartition(".")[2].partition(":")[0] for report in reports}
    tau, regret = statistics.median(t for t, _ in taus), statistics.median(r for r, _ in regrets)
    worst_tau, worst_regret = min(taus), max(regrets)
    middle, high = quantiles(errors, (0.5, 0.95))
    return (
        Verdict(
            "plans compiled",
            f"{plans} plans, {len(reports)} cases, {len(chips)} generations",
            f"at least {LEAST_PLANS} plans, {LEAST_CASES} cases, 4 generations",
            plans >= LEAST_PLANS and len(reports) >= LEAST_CASES and len(chips) >= 4,
        ),
        Verdict(
            "Kendall tau per case",
            f"median {tau:.3f}, worst {worst_tau[0]:.3f} ({worst_tau[1]})",
            f"median at least {LEAST_TAU}",
            tau >= LEAST_TAU,
        ),
        Verdict(
            "regret of tier 0's pick, median",
            format_percent(regret),
            f"at most {format_percent(MOST_REGRET)}",
            regret <= MOST_REGRET,
        ),
        Verdict(
            "regret of tier 0's pick, worst",
            f"{format_percent(worst_regret[0])} ({worst_regret[1]})",
            f"at most {format_percent(MOST_WORST_REGRET)}",
            worst_regret[0] <= MOST_WORST_REGRET,
        ),
        Verdict(
            "error of peak HBM, median",
            format_percent(middle),
            f"at most {format_percent(MOST_MEMORY_ERROR)}",
            middle <= MOST_MEMORY_ERROR,
        ),
        Verdict(
            "error of peak HBM, 95th percentile",
            format_percent(high),
            f"at most {format_percent(MOST_MEMORY_ERROR_95)}",
            high <= MOST_MEMORY_ERROR_95,
        ),
        Verdict("plans called fitting that the compiler rejects", str(rejected), "none", rejected == 0),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES if not options.cases or any(text in case.name for text in options.cases)]

    def run_section() -> Sequence[Verdict]:
        if options.rebuild or options.fresh:
            from bench.fidelity_rebuild import rebuild  # only where asked for: it starts compilers

            rebuild(
                cases,
                fresh=options.fresh,
                workers=options.workers,
                limit_seconds=options.limit,
                origins=options.origins,
            )
        return run(print, cases)

    return conclude(run_section)


def _parser() -> argparse.ArgumentParser:
    parser: Any = argparse.ArgumentParser(prog="python -m bench.fidelity_compiled", description=__doc__)
    parser.add_argument("--cases", nargs="*", help="only cases whose name has one of these texts in it")
    parser.add_argument("--rebuild", action="store_true", help="make and compile the plans that are missing")
    parser.add_argument("--fresh", action="store_true", help="make all plans anew, then compile them")
    parser.add_argument("--workers", type=int, default=1, help="compiles at once (1)")
    parser.add_argument("--origins", nargs="*", default=(), help="compile plans of these origins only")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one compile (900)")
    result: argparse.ArgumentParser = parser
    return result


if __name__ == "__main__":
    sys.exit(main())
