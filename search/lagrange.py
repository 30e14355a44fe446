"""The best price of a budget: maximising the Lagrangian bound.

For prices lambda >= 0 every assignment x within the limits has

    value(x) >= L(lambda) = min over y of value(y) + lambda . (use(y) - limit),

and the minimum is a network without budgets. L is concave and piecewise linear; every assignment ever met
is a plane above it. Kelley's cutting planes (1960) take the highest point below the planes met so far as
the next prices, until the bound there touches the planes. With one budget that is the secant method
(Handler & Zang 1980). The assignments met on the way are where incumbents come from. Geoffrion, *Lagrangean
relaxation for integer programming*, 1974.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.network import BoolArray, FloatArray, Network
from autoshard.search.planes import FIRST_BOX, highest_point
from autoshard.search.reduction import Reduced
from autoshard.search.solver import solve

_CONVERGED = 1e-7


@dataclass(frozen=True, slots=True)
class Sample:
    """An assignment (original labels) as a plane above the dual: cost and excess, in the problem's scale."""

    labels: tuple[int, ...]
    cost: float
    excess: tuple[float, ...]

    def is_allowed(self, masks: Sequence[BoolArray]) -> bool:
        """Whether all labels are among those that `masks[i]` [K_i] allows."""
        return all(mask[label] for mask, label in zip(masks, self.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Dual:
    """The best Lagrangian bound found and where.

    Attributes:
        bound: proven lower bound on every assignment within the limits, in units of cost.
        prices: the prices that prove it, cost per unit of use [R].
        samples: assignments met that are allowed in the network in question.
    """

    bound: float
    prices: FloatArray
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Budgets relaxed into prices, with scales that make costs and uses comparable.

    Attributes:
        network: the costs, over the original labels.
        rows: budget rows over the original labels, checked.
        limits: one per row.
        cost_scale: a typical cost; linear programs see costs in this unit.
        gap: relative distance to its optimum at which a priced network counts as solved; its bound is what
            counts, so every L(prices) is proven all the same.
        visit: called with every assignment met (original labels); returns others derived from it.
    """

    network: Network
    rows: Sequence[BudgetRow]
    limits: FloatArray
    cost_scale: float
    gap: float
    visit: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]

    @property
    def use_scales(self) -> FloatArray:
        """Units in which linear programs see uses [R]."""
        return np.where(self.limits != 0, np.abs(self.limits), 1.0)

    def at(self, reduced: Reduced, prices: FloatArray, deadline: float) -> tuple[float, list[Sample]]:
        """L(prices) over the labels of `reduced`; an assignment that attains it and others, all allowed."""
        rows = [row.cut(reduced.kept) for row in self.rows]
        limit = max(deadline - monotonic(), 0.0)
        seconds = None if np.isinf(limit) else limit
        charged = priced(reduced.network, rows, list(prices))
        solution = solve(charged, gap=self.gap, time_limit_seconds=seconds)
        found = self.samples(reduced.original(solution.labels))
        masks = reduced.masks(self.network.sizes)
        return solution.bound - float(prices @ self.limits), [s for s in found if s.is_allowed(masks)]

    def samples(self, labels: tuple[int, ...]) -> list[Sample]:
        """The planes of an assignment and of those that visiting it gave."""
        return [self.sample(each) for each in (labels, *self.visit(labels))]

    def sample(self, labels: tuple[int, ...]) -> Sample:
        """The plane of an assignment."""
        use = np.array([row.use(labels) for row in self.rows])
        excess = (use - self.limits) / self.use_scales
        return Sample(labels, self.network.value(labels) / self.cost_scale, tuple(excess.tolist()))


def maximise(
    relaxation: Relaxation,
    reduced: Reduced,
    start: Dual,
    *,
    cutoff: Callable[[], float],
    steps: int,
    deadline: float,
) -> Dual:
    """Raise the Lagrangian bound of a network.

    Args:
        relaxation: the budgets.
        reduced: the labels in question.
        start: prices to try first, samples to begin with (all allowed in `reduced`), a bound known already.
        cutoff: stop when the bound reaches what this returns.
        steps: networks to solve at most, at least 1.
        deadline: `time.monotonic()` value at which to stop.

    Returns:
        The best bound and its prices; `start.bound` with the last prices when that was not improved on.
    """
    unit = relaxation.cost_scale / relaxation.use_scales
    samples, bound, best = list(start.samples), -np.inf, start.prices
    prices, box = start.prices, FIRST_BOX
    for step in range(steps):
        value, met = relaxation.at(reduced, prices, deadline)
        samples.extend(met)
        if value > bound:
            bound, best = value, prices
        if bound >= cutoff() or monotonic() >= deadline or step == steps - 1:
            break
        costs = np.array([sample.cost for sample in samples])
        excess = np.array([sample.excess for sample in samples])
        top, scaled, box = highest_point(costs, excess, box)
        if top * relaxation.cost_scale <= bound + max(_CONVERGED, relaxation.gap) * relaxation.cost_scale:
            break
        prices = scaled * unit
    return Dual(max(bound, start.bound), best, tuple(samples))
