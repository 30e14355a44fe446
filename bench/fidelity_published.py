"""Section 2 of the fidelity bench: the published step times of Pope et al. 2022 against tier 0.

Run alone from the repository's root: ``python -m bench.fidelity_published``.

Every visible point of tables 2, 3 and D.2 and of figures 1, 6 and 7 (`bench.published_points`), predicted
from the traced programs with one set of v4 constants (`bench.published_plans`). Tables are compared with the
whole step, figures with the layers' share of it, since they do not time embedding and unembedding. Beside
each prediction stand its parts relative to the measurement: matrix units, HBM, interconnect; they overlap,
and do not add up to it.

The cross-validation refits the constants that the chip table calls fitted on the prefill points and tries
them on the decode points, and the other way round (`bench.refit`): where the error on the fitted half stays
large, no choice of constants explains the times, and a term is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.cost.chips import Chip, chip
from autoshard.text_table import align
from bench.fidelity_verdicts import Verdict
from bench.fixed_plan import Seconds
from bench.published_plans import Case, case_of
from bench.published_points import Point, read_points
from bench.refit import fitted_names, mean_error, refit

Say = Callable[[str], None]

LIMIT = 0.15
AIM = 0.10
CHIP = "v4"
_FITTED_ON = ("prefill", "decode")
"""Phases of the cross-validation; MT-NLG's times (phase "total") are never fitted on."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A published time beside what is predicted."""

    case: Case
    predicted: Seconds

    @property
    def point(self) -> Point:
        """The published time."""
        return self.case.point

    @property
    def error(self) -> float:
        """Relative difference of the prediction to the measurement."""
        return self.predicted.whole / self.point.seconds - 1

    @property
    def violates(self) -> bool:
        """Whether compute or HBM alone would take longer than the measurement."""
        return max(self.predicted.compute, self.predicted.hbm) > self.point.seconds


def run(say: Say) -> tuple[Verdict, ...]:
    """Print predictions, errors and the cross-validation; returns the verdicts."""
    compared = compare(read_points())
    say(points_table(compared))
    say("\n" + families_table(compared))
    say("\n" + cross_validation([each.case for each in compared], chip(CHIP)))
    return error_verdict(compared), invariant_verdict(compared)


def compare(points: Sequence[Point]) -> list[Compared]:
    """Predict every point."""
    compared = []
    for number, point in enumerate(points, 1):
        print(f"published times: {number} of {len(points)}", end="\r", file=sys.stderr)
        case = case_of(point)
        compared.append(Compared(case, case.price()))
    print(file=sys.stderr)
    return compared


def points_table(compared: Sequence[Compared]) -> str:
    """One line per point."""
    head = (
        *("source", "model", "weights", "phase", "chips", "batch", "length", "layout", "covers"),
        *("measured", "predicted", "ratio", "compute", "HBM", "ICI", ""),
    )
    lines = align([head, *(_row(each) for each in compared)])
    notes = (
        "times in seconds; compute, HBM, ICI: parts of the prediction over the measurement; chips ~: not in "
        "the figure, taken from its neighbours"
    )
    return "\n".join([*lines, notes])


def _row(each: Compared) -> tuple[str, ...]:
    point, predicted = each.point, each.predicted
    chips = f"{point.chips}{'~' if point.chips_assumed else ''}"
    parts = (predicted.compute, predicted.hbm, predicted.ici)
    marks = [
        *(["too large by the model"] if not each.case.fits else []),
        *(["max(compute, HBM) > measured"] if each.violates else []),
    ]
    return (
        *(point.source, point.model, point.weights, point.phase, chips, str(point.batch), str(point.length)),
        *(point.layout or "-", point.covers, f"{point.seconds:.4g}", f"{predicted.whole:.4g}"),
        *(f"{1 + each.error:.2f}", *(f"{part / point.seconds:.2f}" for part in parts), "; ".join(marks)),
    )


def families_table(compared: Sequence[Compared]) -> str:
    """Errors by phase, number format and kind of source, and over all points."""
    families: dict[str, list[Compared]] = {}
    for each in compared:
        families.setdefault(each.point.family, []).append(each)
    known = [each for each in compared if not each.point.chips_assumed]
    groups = {**families, "all whose chips are known": known, "all": list(compared)}
    rows = [
        (name, str(len(group)), f"{_mean_error(group):.1%}", f"{np.mean([g.error for g in group]):+.1%}")
        for name, group in groups.items()
    ]
    return "\n".join(align([("family", "points", "mean absolute error", "mean error"), *rows]))


def _mean_error(compared: Sequence[Compared]) -> float:
    return float(np.mean([abs(each.error) for each in compared]))


def cross_validation(cases: Sequence[Case], chip: Chip, names: Sequence[str] = ()) -> str:
    """Refit on one phase, try on the other.

    Args:
        cases: Published times with plans.
        chip: The chip whose constants are refitted.
        names: Which; those that the table calls fitted when left out.

    Returns:
        A table: for each set of constants the mean absolute error by phase.
    """
    names = tuple(names) or fitted_names(chip)
    phases: dict[str, list[Case]] = {}
    for case in cases:
        phases.setdefault(case.point.phase, []).append(case)

    def row(constants: str, chip: Chip) -> tuple[str, ...]:
        errors = (f"{mean_error(own, chip):.1%}" for own in phases.values())
        values = (f"{name} {chip.source(name).value:.3g}" for name in names)
        return constants, *errors, ", ".join(values)

    rows = [row("as in the chip table", chip)]
    for phase in _FITTED_ON:
        print(f"cross-validation: fit on {phase}", file=sys.stderr)
        rows.append(row(f"fitted on {phase}", refit(phases[phase], chip, names).chip))
    head = ("cross-validation: constants", *(f"error on {phase}" for phase in phases), "values")
    return "\n".join(align([head, *rows]))


def error_verdict(compared: Sequence[Compared]) -> Verdict:
    """Whether the mean absolute error keeps within its limit."""
    error = _mean_error(compared)
    figure = f"{error:.1%} over {len(compared)} points"
    figure += f", {error - LIMIT:.1%} too much" if error > LIMIT else ""
    return Verdict("published times, mean error", figure, f"{LIMIT:.0%}, aim {AIM:.0%}", error <= LIMIT)


def invariant_verdict(compared: Sequence[Compared]) -> Verdict:
    """Whether compute and HBM never exceed a measurement."""
    count = sum(each.violates for each in compared)
    return Verdict("max(compute, HBM) > measured", f"{count} of {len(compared)} points", "none", count == 0)


def main() -> None:
    """Print the section, its verdicts last."""
    for verdict in run(print):
        print(
            f"{verdict.name}: {verdict.figure}; target {verdict.target}: {'met' if verdict.met else 'missed'}"
        )


if __name__ == "__main__":
    main()
