"""Section 8 of the fidelity bench: the published step times of Pope et al. 2022 against tier 2.

Run alone from the repository's root: ``python -m bench.fidelity_estimated [--points TEXT ...]``. It holds the
TPU compiler's estimated step times (`autoshard.compiled.timeline`) against the points of section 2, one
program per point (`bench.estimated_programs`), and needs no compiler: the answers lie in
`bench/data/compiled_published.jsonl.xz`, their collectives priced by the links of today. With ``--rebuild``
it first compiles the programs that have no answer, one after another; what is known is kept when it is
interrupted.

What a time covers differs, as in section 2. Of the points that time layers only, the compiled program's
loops alone are compared: the schedule outside of them (embedding, unembedding, sampling) is left out, none of
it is subtracted by a formula. A point without an answer, or whose answer is of another plan than that of
today, is said so, is in no mean, and keeps the target from being met.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.text_table import align
from bench.estimated_programs import Lines, Planned, load, name_of, planned_of
from bench.fidelity_cache import Answer
from bench.fidelity_verdicts import Verdict, conclude
from bench.published_points import Point, programs_of, read_points

Say = Callable[[str], None]

LIMIT = 0.12


@dataclass(frozen=True, slots=True)
class Part:
    """One program of a point: its plan of today, and the answer of what the point times.

    Attributes:
        planned: By tier 0.
        answer: By the compiler; None where `gap` says why there is none.
        gap: Why nothing can be compared, else empty.
    """

    planned: Planned
    answer: Answer | None
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """A published time beside what both tiers say."""

    point: Point
    parts: tuple[Part, ...]

    @property
    def gap(self) -> str:
        """Why there is no estimate, else empty."""
        return next((part.gap for part in self.parts if part.gap), "")

    @property
    def predicted(self) -> float:
        """Seconds by tier 0, of the same plans."""
        return sum(part.planned.predicted(self.point.covers) for part in self.parts)

    @property
    def estimated(self) -> float:
        """Seconds by tier 2; only where there is no gap."""
        return self._sum(lambda answer, planned: answer.seconds_today(planned.mesh))

    @property
    def compute(self) -> float:
        """The compiler's cycles in the estimate, as seconds."""
        return self._sum(lambda answer, _: answer.compute)

    @property
    def error(self) -> float:
        """Relative difference of the estimate to the measurement."""
        return self.estimated / self.point.seconds - 1

    def _sum(self, seconds: Callable[[Answer, Planned], float]) -> float:
        found = [
            seconds(part.answer, part.planned) * part.planned.count
            for part in self.parts
            if part.answer is not None
        ]
        return sum(found)


def run(say: Say) -> tuple[Verdict, ...]:
    """Print the estimates and their errors; returns the verdict."""
    return report(read_points(), say)


def report(points: Sequence[Point], say: Say) -> tuple[Verdict, ...]:
    """The section for some of the points."""
    compared = compare(points, load())
    say(points_table(compared))
    say("\n" + families_table(compared))
    return (error_verdict(compared),)


def compare(points: Sequence[Point], lines: Lines) -> list[Compared]:
    """Look every point up among the answers."""
    compared = []
    for number, point in enumerate(points, 1):
        print(f"plans of published times: {number} of {len(points)}", end="\r", file=sys.stderr)
        compared.append(compare_point(point, planned_of(point), lines))
    print(file=sys.stderr)
    return compared


def compare_point(point: Point, planned: Sequence[Planned], lines: Lines) -> Compared:
    """Look one point up."""
    return Compared(point, tuple(_part(point, each, lines) for each in planned))


def _part(point: Point, planned: Planned, lines: Lines) -> Part:
    line = lines.get(planned.name)
    if line is None:
        return Part(planned, None, "not compiled")
    if line.plan != planned.plan:
        return Part(planned, None, "not compiled: another plan was")
    if not line.answer.ok:
        return Part(planned, None, f"not compiled: {line.answer.status}")
    if point.covers == "layers" and not line.trips:
        return Part(planned, None, "no loop in the compiled program")
    return Part(planned, line.part(point.covers))


def points_table(compared: Sequence[Compared]) -> str:
    """One line per point."""
    head = (
        *("source", "model", "weights", "phase", "chips", "batch", "length", "layout", "covers"),
        *("measured", "estimated", "ratio", "compute", "predicted", "ratio", ""),
    )
    lines = align([head, *(_row(each) for each in compared)])
    notes = (
        "times in seconds; estimated: tier 2; compute: its cycles over the measurement; predicted: tier 0, "
        "same plan; covers layers: the program's loops alone, without embedding and unembedding; chips ~: "
        "not in the figure, taken from its neighbours"
    )
    return "\n".join([*lines, notes])


def _row(each: Compared) -> tuple[str, ...]:
    point = each.point
    chips = f"{point.chips}{'~' if point.chips_assumed else ''}"
    estimate = (
        ("-", "-", "-")
        if each.gap
        else (f"{each.estimated:.4g}", f"{1 + each.error:.2f}", f"{each.compute / point.seconds:.2f}")
    )
    unfit = () if all(part.planned.fits for part in each.parts) else ("too large by the model",)
    return (
        *(point.source, point.model, point.weights, point.phase, chips, str(point.batch), str(point.length)),
        *(point.layout or "-", point.covers, f"{point.seconds:.4g}", *estimate),
        *(f"{each.predicted:.4g}", f"{each.predicted / point.seconds:.2f}"),
        "; ".join(filter(None, (each.gap, *unfit))),
    )


def families_table(compared: Sequence[Compared]) -> str:
    """Errors by phase, number format and kind of source, by what is covered, and over all points."""
    groups: dict[str, list[Compared]] = {}
    for each in compared:
        groups.setdefault(each.point.family, []).append(each)
    for each in compared:
        groups.setdefault(f"all that cover the {each.point.covers}", []).append(each)
    groups["all"] = list(compared)
    head = ("family", "points", "compiled", "mean absolute error", "mean error")
    return "\n".join(align([head, *(_family(name, group) for name, group in groups.items())]))


def _family(name: str, group: Sequence[Compared]) -> tuple[str, ...]:
    errors = errors_of(group)
    figures = (
        (f"{statistics.mean(map(abs, errors)):.1%}", f"{statistics.mean(errors):+.1%}")
        if errors
        else ("-", "-")
    )
    return name, str(len(group)), str(len(errors)), *figures


def errors_of(compared: Sequence[Compared]) -> list[float]:
    """Relative errors of the points that have an estimate."""
    return [each.error for each in compared if not each.gap]


def error_verdict(compared: Sequence[Compared]) -> Verdict:
    """Whether the mean absolute error keeps within its limit, and every point is in it."""
    name, target = "published times, tier 2, mean error", f"{LIMIT:.0%} over all points"
    errors = errors_of(compared)
    if not errors:
        return Verdict(name, f"none of {len(compared)} points compiled", target, False)
    error, missing = statistics.mean(map(abs, errors)), len(compared) - len(errors)
    figure = f"{error:.1%} over {len(errors)} points"
    figure += f", {missing} not compiled" if missing else ""
    return Verdict(name, figure, target, error <= LIMIT and not missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    points = [point for point in read_points() if not options.points or _named(point, options.points)]

    def run_section() -> Sequence[Verdict]:
        if options.rebuild:
            from bench.estimated_rebuild import rebuild  # only where asked for: it starts a compiler

            rebuild(points, limit_seconds=options.limit, only=options.points)
        return report(points, print)

    return conclude(run_section)


def _named(point: Point, texts: Sequence[str]) -> bool:
    return any(text in name_of(point, program) for text in texts for program in programs_of(point))


def _parser() -> argparse.ArgumentParser:
    parser: Any = argparse.ArgumentParser(prog="python -m bench.fidelity_estimated", description=__doc__)
    parser.add_argument(
        "--points", nargs="*", default=(), help="only programs with such a text in their name: decode"
    )
    parser.add_argument("--rebuild", action="store_true", help="compile the programs that have no answer")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one compile (300)")
    result: argparse.ArgumentParser = parser
    return result


if __name__ == "__main__":
    sys.exit(main())
