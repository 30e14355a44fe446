"""The least memory that any plan of a problem needs.

What a plan needs is the most of all points of the program, so this is a minimum of a maximum. The least use
of one point is a lower bound (`autoshard.search.least_use`); the plan that attains it has a worst point of
its own, which gives another bound, until the worst point is one that was looked at. Most often some plan
keeps within the highest of these bounds at every point, which settles it. Otherwise the limits between that
bound and the best plan met are asked for by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoshard.search.budget_search import BudgetSearch
from autoshard.search.errors import BudgetError, TimeLimitError
from autoshard.search.least_use import without_costs
from autoshard.search.solver import solve

TOLERANCE = 1e-3
"""Share of the least memory by which the bound may stay below it."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LeastMemory:
    """The least HBM per chip that was found, and a proven bound: no plan needs less."""

    nbytes: float
    bound_bytes: float


def least_memory(search: BudgetSearch) -> LeastMemory:
    """Find the least memory, to `TOLERANCE`; limits of the search may leave more between it and its bound.

    Raises:
        NoSolutionError: The problem has no plan at all.
    """
    least, bound = _of_points(search)
    middle = low = bound
    while least > low * (1 + TOLERANCE):
        try:
            least = min(least, search.best(middle * (1 + _ROUNDING)).candidate.peak.nbytes)
        except BudgetError:
            low = bound = middle
        except TimeLimitError:  # nothing was found there, and nothing proven
            low = middle
        middle = (least + low) / 2
    return LeastMemory(least, min(bound, least))


def _of_points(search: BudgetSearch) -> tuple[float, float]:
    """The least memory of the plans that use least of one point, and the largest of these uses."""
    network = search.followers.network
    labels, least, bound = solve(without_costs(network)).labels, float("inf"), 0.0
    asked: set[int] = set()
    while True:
        peak = search.memory.peak(search.followers.expand(labels))
        least = min(least, peak.nbytes)
        number = search.row(peak.point)
        if number in asked:
            return least, bound
        asked.add(number)
        thrifty = search.experience.thriftiest(network, search.rows, number)
        bound, labels = max(bound, thrifty.bound + search.constants[number]), thrifty.labels
