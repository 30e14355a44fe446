"""How well a model ranks: Kendall's tau, and what trusting its pick costs; and quantiles of an error.

tau-b = (concordant - discordant) / sqrt((pairs - ties in x)(pairs - ties in y)), Kendall 1945, Biometrika 33;
regret = (true time of the model's pick) / (least true time) - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau


def kendall_tau(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings of the same plans; None where either ranks nothing."""
    if len(set(predicted)) < 2 or len(set(true)) < 2:
        return None
    return float(kendalltau(predicted, true).statistic)


def top_regret(predicted: Sequence[float], true: Sequence[float], count: int = 1) -> float:
    """What is lost by taking the best of the `count` plans that the model ranks first.

    Args:
        predicted: The model's time of each plan; infinite for a plan that it would not take. Of equal ones
            the first counts as first.
        true: The time of each plan.
        count: How many plans the model may propose.

    Returns:
        The share by which the step is slower than the best of all plans.

    Raises:
        ValueError: There are no plans.
    """
    if not len(predicted):
        raise ValueError("no plans: a regret needs at least one")
    order = np.argsort(np.asarray(predicted), kind="stable")[:count]
    times = np.asarray(true, dtype=np.float64)
    return float(times[order].min() / times.min() - 1)


def quantiles(values: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    """Quantiles with linear interpolation; none of no values."""
    return tuple(float(q) for q in np.quantile(values, shares)) if len(values) else ()


def relative_errors(predicted: Sequence[float], true: Sequence[float]) -> list[float]:
    """`predicted / true - 1` of each pair."""
    return [p / t - 1 for p, t in zip(predicted, true, strict=True)]
