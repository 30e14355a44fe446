"""Constants refitted on some published times and tried on others: how much of an error is the constants'.

The plans stay as the search on the table's chip found them; only their prices change (`bench.fixed_plan`).
What is refitted are the chip's numbers that the table itself calls fitted, each between a thirtieth and
thirty times its value, fractions up to 1. The fit minimises the mean absolute relative error, by Nelder and
Mead in logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from autoshard.cost.chips import Chip
from bench.published_plans import Case

_RANGE = 30.0
_EVALUATIONS = 160
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Refit:
    """Constants that suit some cases best.

    Attributes:
        chip: The chip with the new constants.
        values: The new constants.
        error: Mean absolute relative error over the cases of the fit.
    """

    chip: Chip
    values: Mapping[str, float]
    error: float


def fitted_names(chip: Chip) -> tuple[str, ...]:
    """The chip's numbers that were fitted to published step times, and matter within one slice."""
    return tuple(
        name
        for name, quantity in chip.quantities.items()
        if quantity.provenance == "fitted" and not name.startswith("dcn_")
    )


def mean_error(cases: Sequence[Case], chip: Chip | None = None) -> float:
    """Mean absolute relative error over some cases."""
    return float(np.mean([abs(case.price(chip).whole / case.point.seconds - 1) for case in cases]))


def refit(cases: Sequence[Case], chip: Chip, names: Sequence[str]) -> Refit:
    """Find the constants under which the plans' prices are nearest to the published times.

    Args:
        cases: What to fit on.
        chip: The chip of the table, where the fit starts.
        names: Which of its numbers may change.
    """
    start = np.log([chip.source(name).value for name in names])
    most = np.array([start[n] + np.log(_RANGE) for n in range(len(names))])
    is_fraction = np.array([chip.source(name).unit == "1" and start[n] <= 0 for n, name in enumerate(names)])
    most = np.where(is_fraction, 0.0, most)
    least = start - np.log(_RANGE)

    def chip_at(logarithms: npt.NDArray[np.float64]) -> Chip:
        values = np.exp(np.clip(logarithms, least, most)).tolist()
        return chip.with_values("fitted", "refit of the bench", **dict(zip(names, values, strict=True)))

    found = minimize(
        lambda logarithms: mean_error(cases, chip_at(logarithms)),
        start,
        method="Nelder-Mead",
        options={"maxfev": _EVALUATIONS, "xatol": _TOLERANCE, "fatol": _TOLERANCE / 10},
    )
    best = chip_at(found.x)
    return Refit(best, {name: float(best.source(name).value) for name in names}, float(found.fun))
