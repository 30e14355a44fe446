"""A case's plans by both tiers: what each says, the figures that follow, and tables of them.

Step times are *predicted* by tier 0 and *estimated* by tier 2 (the TPU compiler). A regret is that of the
plan that tier 0 would take among those that it says fit, and of the best of its first five, which is what
`autoshard tune` compiles. Peak HBM is compared for plans that do not fit as well: the compiler names what
they need.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoshard.units import format_percent, three_digits
from bench.fidelity_cache import Answer, PlanLine
from bench.fidelity_statistics import kendall_tau, quantiles, relative_errors, top_regret

PROPOSED = 5
_SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Row:
    """A plan with what both tiers say; seconds and bytes per chip.

    Attributes:
        plan: The plan.
        answer: The compiler's answer.
        predicted: Step time of tier 0.
        estimated: Step time of tier 2, None where the compiler gave none.
        hbm_bytes: Peak of tier 0.
        fits: Whether tier 0 says that it fits.
        filled: Decisions that the problem of today has and the stored plan had not.
    """

    plan: PlanLine
    answer: Answer
    predicted: float
    estimated: float | None
    hbm_bytes: float
    fits: bool
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A case, plan by plan.

    Attributes:
        case: Its name.
        rows: Plans that both tiers know.
        stale: Compiled plans that the problem of today has no more.
        waiting: Plans that have not been compiled.
    """

    case: str
    rows: tuple[Row, ...]
    stale: int = 0
    waiting: int = 0

    @property
    def timed(self) -> list[tuple[Row, float]]:
        """The plans that the compiler estimated."""
        return [(row, row.estimated) for row in self.rows if row.estimated is not None]

    @property
    def tau(self) -> float | None:
        """Kendall's tau of the two times."""
        return kendall_tau([row.predicted for row, _ in self.timed], [seconds for _, seconds in self.timed])

    def regret(self, count: int = 1) -> float | None:
        """What trusting tier 0 costs; it takes only plans that it says fit."""
        if not any(row.fits for row, _ in self.timed):
            return None
        predicted = [row.predicted if row.fits else math.inf for row, _ in self.timed]
        return top_regret(predicted, [seconds for _, seconds in self.timed], count)

    @property
    def time_ratios(self) -> list[float]:
        """Predicted over estimated step times."""
        return [row.predicted / seconds for row, seconds in self.timed]

    @property
    def memory_errors(self) -> list[float]:
        """Signed relative errors of peak HBM."""
        known = [(row.hbm_bytes, row.answer.hbm_bytes) for row in self.rows if row.answer.hbm_bytes]
        return relative_errors([hbm for hbm, _ in known], [hbm for _, hbm in known])

    @property
    def rejected(self) -> list[Row]:
        """Plans called fitting that the compiler rejects."""
        return [row for row in self.rows if row.fits and row.answer.status == "out of memory"]

    @property
    def spurned(self) -> list[Row]:
        """Plans called too large that the compiler accepts."""
        return [row for row in self.rows if not row.fits and row.answer.ok]

    @property
    def lost(self) -> list[Row]:
        """Plans that the compiler gave no verdict on: it crashed, or ran out of time."""
        return [row for row in self.rows if not row.answer.ok and row.answer.status != "out of memory"]


def ranking_table(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """One line a case."""
    head = ("case", "plans", "timed", "lost", "filled", "tau", "regret", f"of {PROPOSED}", "best ms")
    ratios = tuple(f"p/e {share:.0%}" for share in _SHARES)
    return [(*head, *ratios), *(_ranking_row(report) for report in reports)]


def _ranking_row(report: Report) -> tuple[str, ...]:
    tau, best = report.tau, min((seconds for _, seconds in report.timed), default=math.nan)
    ratios = quantiles(report.time_ratios, _SHARES) or (math.nan,) * len(_SHARES)
    return (
        report.case,
        str(len(report.rows)),
        str(len(report.timed)),
        str(len(report.lost)),
        str(sum(row.filled for row in report.rows)),
        "-" if tau is None else f"{tau:.3f}",
        format_percent(report.regret()),
        format_percent(report.regret(PROPOSED)),
        three_digits(best * 1e3),
        *(f"{ratio:.2f}" for ratio in ratios),
    )


def memory_table(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """One line a case: errors, and verdicts on fitting that differ."""
    head = (
        "case",
        "plans",
        "error 5%",
        "50%",
        "95%",
        "|error| 50%",
        "95%",
        "fits, rejected",
        "large, accepted",
    )
    rows = []
    for report in reports:
        errors = report.memory_errors
        signed, sizes = quantiles(errors, _SHARES), quantiles([abs(e) for e in errors], _SHARES[1:])
        cells = [format_percent(value) for value in (*signed, *sizes)] or ["-"] * 5
        wrong = (str(len(report.rejected)), str(len(report.spurned)))
        rows.append((report.case, str(len(errors)), *cells, *wrong))
    return [head, *rows]


def origin_table(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """One line an origin: errors of all cases together, tau as the median of the cases."""
    head = ("origin", "plans", "tau", *(f"p/e {share:.0%}" for share in _SHARES), "|memory error| 50%", "95%")
    origins = dict.fromkeys(row.plan.origin for report in reports for row in report.rows)
    rows = []
    for origin in origins:
        parts = [
            Report(report.case, tuple(r for r in report.rows if r.plan.origin == origin))
            for report in reports
        ]
        taus = [part.tau for part in parts if part.tau is not None]
        ratios = quantiles([ratio for part in parts for ratio in part.time_ratios], _SHARES)
        errors = quantiles([abs(error) for part in parts for error in part.memory_errors], _SHARES[1:])
        rows.append(
            (
                origin,
                str(sum(len(part.rows) for part in parts)),
                f"{statistics.median(taus):.3f}" if taus else "-",
                *([f"{ratio:.2f}" for ratio in ratios] or ["-"] * 3),
                *([format_percent(error) for error in errors] or ["-"] * 2),
            )
        )
    return [head, *rows]
