"""Our plans against the layouts that people use, both scored by the TPU compiler.

Run from the repository's root: ``python -m bench.quality [--cases TEXT ...]``. The programs are those of
`bench.fidelity_cases`; what the compiler said of their plans is in the cache that
``python -m bench.fidelity_compiled --rebuild`` makes. Nothing is compiled here. The mesh has an axis for each
dim of the torus, for both sides.

For each case: the best of the first five plans of the search (what ``autoshard tune`` compiles), the first
one alone (what it takes where there is no compiler), and the best of the hand rules of `bench.fidelity_hand`
that fit. A ratio below 1 is a plan faster than every rule:

    ratio = estimated seconds of ours / estimated seconds of the best rule
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from autoshard.text_table import align
from autoshard.units import format_seconds
from bench.fidelity_cache import load
from bench.fidelity_cases import CASES, Study
from bench.fidelity_compiled import compare
from bench.fidelity_report import PROPOSED, Report, Row
from bench.fidelity_verdicts import Verdict

SEARCH, HAND = "search", "hand"
LEAST_CASES = 12
MOST_MEAN, MOST_WORST = 0.95, 1.02


@dataclass(frozen=True, slots=True)
class Contest:
    """A case: our plans in the order of tier 0, and the rules; only what the compiler accepted."""

    case: str
    ours: tuple[Row, ...]
    rules: tuple[Row, ...]

    @property
    def first(self) -> float:
        """Seconds of the plan that tier 0 takes."""
        return _seconds(self.ours[0])

    @property
    def best(self) -> float:
        """Seconds of the best plan that is compiled in a tuning run."""
        return min(_seconds(row) for row in self.ours[:PROPOSED])

    @property
    def rule(self) -> Row:
        """The best rule."""
        return min(self.rules, key=_seconds)

    @property
    def ratio(self) -> float:
        """Our best over the best rule."""
        return self.best / _seconds(self.rule)

    @property
    def first_ratio(self) -> float:
        """The plan that tier 0 takes over the best rule."""
        return self.first / _seconds(self.rule)


def contest(report: Report) -> Contest | None:
    """The two sides of a case; None where the compiler has accepted nothing of one of them."""
    able = [row for row in report.rows if row.fits and row.estimated is not None]
    ours = sorted((row for row in able if row.plan.origin == SEARCH), key=lambda row: row.predicted)
    rules = tuple(row for row in able if row.plan.origin == HAND)
    return Contest(report.case, tuple(ours), rules) if ours and rules else None


def table(contests: Sequence[Contest]) -> list[tuple[str, ...]]:
    """A line for each case."""
    heading = ("case", "ours", "first", "rules", "best rule", "its time", "ratio", "of the first")
    return [
        heading,
        *(
            (
                each.case,
                format_seconds(each.best),
                format_seconds(each.first),
                str(len(each.rules)),
                each.rule.plan.rule,
                format_seconds(_seconds(each.rule)),
                f"{each.ratio:.3f}",
                f"{each.first_ratio:.3f}",
            )
            for each in contests
        ),
    ]


def verdicts(contests: Sequence[Contest]) -> tuple[Verdict, ...]:
    """The geometric mean, the worst case, and whether the cases are enough."""
    if not contests:
        return (Verdict("cases", "0", f"at least {LEAST_CASES}", False),)
    mean = _geometric_mean([each.ratio for each in contests])
    first = _geometric_mean([each.first_ratio for each in contests])
    worst = max(contests, key=lambda each: each.ratio)
    return (
        Verdict("cases", str(len(contests)), f"at least {LEAST_CASES}", len(contests) >= LEAST_CASES),
        Verdict(
            "worst ratio",
            f"{worst.ratio:.3f} ({worst.case})",
            f"at most {MOST_WORST}",
            worst.ratio <= MOST_WORST,
        ),
        Verdict(
            "geometric mean of the first plan", f"{first:.3f}", f"at most {MOST_MEAN}", first <= MOST_MEAN
        ),
        Verdict("geometric mean", f"{mean:.3f}", f"at most {MOST_MEAN}", mean <= MOST_MEAN),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="*", help="only cases whose name has one of these texts in it")
    options = parser.parse_args(arguments)
    cache, contests = load(), []
    for case in CASES:
        if options.cases and not any(text in case.name for text in options.cases):
            continue
        found = contest(compare(Study(case), cache))
        if found is None:
            print(f"{case.name}: nothing to compare: one side has no compiled plan", file=sys.stderr)
        else:
            contests.append(found)
    print(*align(table(contests), right=(1, 2, 3, 5, 6, 7)), sep="\n")
    losses = [each for each in contests if each.ratio > 1]
    for each in losses:
        print(f"lost: {each.case}: {each.rule.plan.rule} is {each.ratio - 1:.1%} faster")
    print()
    for verdict in verdicts(contests):
        print(verdict.line)
    return 0


def _seconds(row: Row) -> float:
    assert row.estimated is not None
    return row.estimated


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


if __name__ == "__main__":
    sys.exit(main())
