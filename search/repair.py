"""Making an assignment keep its budgets, and then better, by changing one label at a time.

Greedy: while a budget is exceeded, the change that costs least per unit of excess removed; then the change
that saves most and keeps all budgets, until none does. Gives incumbents, proves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.budget_rows import BudgetRow
from autoshard.search.network import FloatArray, Network, Pair

_SLIVER = 1e-12


@dataclass(frozen=True, slots=True)
class _Terms:
    """One sum of unary and pairwise terms, indexed for asking what a change of one label does."""

    unary: Sequence[FloatArray]
    beside: Sequence[Sequence[tuple[int, FloatArray]]]  # per variable: neighbour, matrix [K_other, K_mine]

    def changes(self, labels: Sequence[int]) -> list[FloatArray]:
        """For each variable, how the sum changes if it took each label [K_i], the others staying."""
        result = []
        for i, vector in enumerate(self.unary):
            total = sum((matrix[labels[j]] for j, matrix in self.beside[i]), vector)
            result.append(total - total[labels[i]])
        return result


class Repair:
    """Local search in one network under budgets."""

    def __init__(self, network: Network, rows: Sequence[BudgetRow], limits: Sequence[float]) -> None:
        """Index the terms; rows must be checked."""
        sizes = network.sizes
        self._cost = _terms(sizes, dict(enumerate(network.unary)), dict(network.pairwise))
        self._uses = [
            _terms(
                sizes,
                {i: np.asarray(vector) for i, vector in row.unary.items()},
                {pair: np.asarray(matrix) for pair, matrix in row.pairwise.items()},
            )
            for row in rows
        ]
        self._rows = rows
        self._limits = np.array(limits, dtype=np.float64)
        self._scale = np.maximum(np.abs(self._limits), _SLIVER)
        self._magnitude = max(float(np.abs(vector[np.isfinite(vector)]).max()) for vector in network.unary)
        self._most_changes = 4 * len(sizes) + 20

    def excess(self, labels: Sequence[int]) -> FloatArray:
        """Use minus limit, per row."""
        return np.array([row.use(labels) for row in self._rows]) - self._limits

    def __call__(self, labels: Sequence[int]) -> tuple[int, ...] | None:
        """A better assignment that keeps all budgets, from one of finite cost; None if none was found."""
        current = list(labels)
        for _ in range(self._most_changes):
            change = _least(self._scores(current))
            if change is None:
                break
            current[change[0]] = change[1]
        return tuple(current) if (self.excess(current) <= 0).all() else None

    def _scores(self, labels: Sequence[int]) -> list[FloatArray]:
        """For each variable and label, how good the change is: least is best, +inf is no use."""
        excess = self.excess(labels)
        costs = self._cost.changes(labels)
        uses = zip(*(terms.changes(labels) for terms in self._uses), strict=True)
        afters = [self._violation(excess[:, None] + np.array(rows)) for rows in uses]
        before = float(self._violation(excess[:, None])[0])
        if before > 0:
            return [_price(cost, before - after) for cost, after in zip(costs, afters, strict=True)]
        worth = -_SLIVER * self._magnitude
        return [
            np.where((after <= 0) & (cost < worth), cost, np.inf)
            for cost, after in zip(costs, afters, strict=True)
        ]

    def _violation(self, excess: FloatArray) -> FloatArray:
        """Relative excess [R, K] summed over the rows [K]."""
        total: FloatArray = (np.maximum(excess, 0.0) / self._scale[:, None]).sum(axis=0)
        return total


def _price(cost: FloatArray, removed: FloatArray) -> FloatArray:
    """Cost per unit of excess removed, +inf where none is removed."""
    useful = (removed > _SLIVER) & np.isfinite(cost)
    price = np.full(cost.shape, np.inf)
    price[useful] = cost[useful] / removed[useful]
    return price


def _least(scores: Sequence[FloatArray]) -> tuple[int, int] | None:
    """Variable and label of the least score, None when all are +inf."""
    i = int(np.argmin([vector.min() for vector in scores]))
    label = int(np.argmin(scores[i]))
    return None if np.isinf(scores[i][label]) else (i, label)


def _terms(sizes: Sequence[int], unary: dict[int, FloatArray], pairwise: dict[Pair, FloatArray]) -> _Terms:
    beside: list[list[tuple[int, FloatArray]]] = [[] for _ in sizes]
    for (i, j), matrix in pairwise.items():
        beside[i].append((j, np.ascontiguousarray(matrix.T)))
        beside[j].append((i, matrix))
    return _Terms([unary.get(i, np.zeros(size)) for i, size in enumerate(sizes)], beside)
