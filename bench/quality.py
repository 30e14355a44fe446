"""Our plans against the layouts that people use, both scored by the TPU compiler.

Run from the repository's root: ``python -m bench.quality [--cases TEXT ...]``. The programs are those of
`bench.quality_cases`, the two sides those of `bench.quality_plans`; what the compiler said of them is in
`data/compiled_quality.jsonl.xz`. With ``--rebuild`` both sides of cases that have none are made (``--fresh``:
of all), and programs are compiled that neither this cache nor that of `bench.fidelity_compiled` knows; what
is known is kept when it is interrupted. Without it nothing is compiled.

For each case: the best of the first five plans of the search (what ``autoshard tune`` compiles, that best one
also with its projections left to the compiler), the first
one alone (what it takes where there is no compiler), and the best rule of those that the compiler accepts,
each at its best mesh, in two forms: *as written* by people, with what it leaves open left to the compiler,
and *filled in* by our search, so that nothing but the rule itself is worse than ours. A ratio below 1 is a
plan faster than every rule:

    ratio = estimated seconds of ours / estimated seconds of the best rule

The table counts the rules that the compiler accepted, those that are too slow to be compiled
(`bench.quality_plans`), and the plans of either side that wait for a rebuild. A loss, a ratio above 1, is
listed with its cause: both sides by both tiers, and the parts that differ.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence

from autoshard.text_table import align
from autoshard.units import format_seconds
from bench.fidelity_cache import load
from bench.fidelity_cases import Case
from bench.fidelity_labels import price_plan, write_labels
from bench.fidelity_verdicts import Verdict, conclude
from bench.quality_cases import CASES
from bench.quality_contest import Contest, Entrant, cause, contest
from bench.quality_plans import our_plans, studies
from bench.quality_rebuild import FILE, rebuild

LEAST_CASES = 12
MOST_MEAN, MOST_WORST = 0.95, 1.02
_SAME = 1e-6
"""Relative difference of two predictions of one plan."""


def table(contests: Sequence[Contest]) -> list[tuple[str, ...]]:
    """A line for each case."""
    heading = (
        "case",
        "ours",
        "first",
        "best rule as written",
        "its time",
        "ratio",
        "best rule filled in",
        "its time",
        "ratio",
        "of the first",
        "rules",
        "slow",
        "waiting",
    )
    return [heading, *map(_line, contests)]


def _line(each: Contest) -> tuple[str, ...]:
    return (
        each.case,
        format_seconds(each.best.seconds),
        format_seconds(each.first.seconds),
        *_beside(each.best, each.annotated),
        *_beside(each.best, each.rule),
        f"{each.first_ratio:.3f}",
        str(len(each.rules)),
        str(each.slow),
        str(each.waiting),
    )


def _beside(ours: Entrant, rule: Entrant | None) -> tuple[str, str, str]:
    """A rule, its time, and the ratio of ours."""
    if rule is None:
        return "none", "", ""
    return rule.name, format_seconds(rule.seconds), f"{ours.seconds / rule.seconds:.3f}"


def losses(contests: Sequence[Contest]) -> Iterator[str]:
    """A line for each case that a rule wins, in either form: by how much, and why."""
    for each in contests:
        for form, rule in (("as written", each.annotated), ("filled in", each.rule)):
            if rule is not None and each.best.seconds > rule.seconds:
                share = 1 - rule.seconds / each.best.seconds
                yield f"lost: {each.case}: {rule.name} {form} is {share:.1%} faster: {cause(each.best, rule)}"


def verdicts(contests: Sequence[Contest], renewed: int = 0) -> tuple[Verdict, ...]:
    """Whether the cases are enough and of today, and for both forms of rules the worst and geometric means.

    Args:
        contests: The cases that have two sides.
        renewed: How many of them have, by the search of today, another first plan than the cache.
    """
    if not contests:
        return (Verdict("cases", "0", f"at least {LEAST_CASES}", False),)
    waiting = sum(each.waiting for each in contests)
    filled_in = {each.case: each.ratio for each in contests}
    first = {each.case: each.first_ratio for each in contests}
    written = {each.case: each.best.seconds / each.annotated.seconds for each in contests if each.annotated}
    return (
        Verdict("cases", str(len(contests)), f"at least {LEAST_CASES}", len(contests) >= LEAST_CASES),
        Verdict("plans that wait for the compiler", str(waiting), "none", not waiting),
        Verdict("cases whose plans are not those of today's search", str(renewed), "none", not renewed),
        _mean("the first plan against rules filled in", first),
        _worst("rules filled in", filled_in),
        _mean("rules filled in", filled_in),
        _worst("rules as written", written),
        _mean("rules as written", written),
    )


def _worst(what: str, ratios: Mapping[str, float]) -> Verdict:
    case, ratio = max(ratios.items(), key=lambda each: each[1], default=("no case", math.inf))
    return Verdict(
        f"{what}: worst ratio", f"{ratio:.3f} ({case})", f"at most {MOST_WORST}", ratio <= MOST_WORST
    )


def _mean(what: str, ratios: Mapping[str, float]) -> Verdict:
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios)) if ratios else math.inf
    figure = f"{mean:.3f} over {len(ratios)}"
    return Verdict(f"{what}: geometric mean", figure, f"at most {MOST_MEAN}", mean <= MOST_MEAN)


def run(cases: Sequence[Case]) -> tuple[Verdict, ...]:
    """Hold both sides of the cache against each other, print how ours fares, and judge it."""
    cache, contests, renewed = load(FILE), [], 0
    for case in cases:
        found = contest(case, cache)
        if found is None:
            print(f"{case.name}: nothing to compare: one side has no compiled plan", file=sys.stderr)
            continue
        contests.append(found)
        if not _is_of_today(case, found):
            renewed += 1
            print(
                f"{case.name}: the search finds another plan today: run `python -m bench.quality --fresh "
                f"--cases {case.name}`",
                file=sys.stderr,
            )
    print(*align(table(contests), right=(1, 2, 4, 5, 7, 8, 9, 10, 11, 12)), sep="\n")
    print(*losses(contests), sep="\n")
    return verdicts(contests, renewed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES if not options.cases or any(text in case.name for text in options.cases)]

    def run_bench() -> Sequence[Verdict]:
        if options.rebuild or options.fresh:
            rebuild(
                cases,
                fresh=options.fresh,
                workers=options.workers,
                limit_seconds=options.limit,
                most=options.most,
            )
        return run(cases)

    return conclude(run_bench)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="*", help="only cases whose name has one of these texts in it")
    parser.add_argument("--rebuild", action="store_true", help="make and compile the plans that are missing")
    parser.add_argument("--fresh", action="store_true", help="make all plans anew, then compile what is new")
    parser.add_argument("--workers", type=int, default=1, help="compiles at once (1)")
    parser.add_argument("--most", type=int, help="compile only the first plans of each kind (all)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one compile (900)")
    return parser


def _is_of_today(case: Case, found: Contest) -> bool:
    """Whether the plan that the search takes today is among those of the cache."""
    (today,) = our_plans(studies(case), most=1)
    study = today.study
    written = write_labels(study.problem, today.proposal.candidate.labels)
    seconds = price_plan(study.problem, study.memory, written).seconds
    return any(math.isclose(each.row.predicted, seconds, rel_tol=_SAME) for each in found.ours)


if __name__ == "__main__":
    sys.exit(main())
