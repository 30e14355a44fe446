"""Time against memory: the fastest plan, then the fastest in ever less memory, down to the least possible.

The budgets lie evenly between what the fastest plan needs and the least that any plan needs. Under each the
plan is the best one that fits, so it is a point of the Pareto front of the cost model (within the gap); of
the points between two budgets the fastest is the one given.

Several problems (the meshes of one slice) have one front: under each budget the best plan of any. A problem
whose bound under a larger budget is no better than a plan of another need not be searched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoshard.search.budget_search import Best, BudgetSearch, Candidate
from autoshard.search.errors import BudgetError, TimeLimitError
from autoshard.search.least_memory import LeastMemory, least_memory
from autoshard.search.order_search import best_with_permutes
from autoshard.search.planner import runners_up
from autoshard.search.problem import Problem

_MOST_NODES = 24
"""Nodes of one branch and bound: the last of a gap under a tight budget may take minutes to close."""
_WORTH = 1e-3
"""Share of the least possible memory by which a plan may exceed it and still be the end of the front."""


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """The best plan under a budget.

    Attributes:
        problem: Position of the problem that it is a plan of.
        budget_bytes: HBM per chip that it may use.
        candidate: The plan.
        others: More plans within the budget, each with the position of its problem: the best of other
            problems, and runners-up.
        bound_seconds: Proven: no plan of any of the problems within the budget is faster.
        method: What proved it.
    """

    problem: int
    budget_bytes: float
    candidate: Candidate
    others: tuple[tuple[int, Candidate], ...]
    bound_seconds: float
    method: str


class MemoryFront:
    """The time/memory front of some problems, searched with what its own points have taught.

    Attributes:
        problems: The problems.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        gap: float,
        time_limit_seconds: float | None = None,
        on_step: Callable[[str], None] = lambda _: None,
        top_k: int = 1,
    ) -> None:
        """Prepare the problems, each once; arguments as of `autoshard.search.planner.search_plans`."""
        self._top_k = top_k
        self.problems = tuple(problems)
        self._searches = [
            BudgetSearch(
                problem,
                gap=gap,
                time_limit_seconds=time_limit_seconds,
                most_nodes=_MOST_NODES,
                on_step=on_step,
            )
            for problem in problems
        ]
        self._bounds = [0.0] * len(problems)
        self._least: LeastMemory | None = None

    @property
    def least(self) -> LeastMemory:
        """The least memory of any plan."""
        if self._least is None:
            found = [least_memory(search) for search in self._searches]
            self._least = LeastMemory(
                min(each.nbytes for each in found), min(each.bound_bytes for each in found)
            )
        return self._least

    def points(self, limit_bytes: float, count: int) -> Iterator[FrontPoint]:
        """The plans under `count` budgets at most, the first being the limit, the last the least possible.

        A plan that also fits the next budget is not given again.

        Raises:
            BudgetError: No plan fits the limit.
            TimeLimitError: Time was up before a plan that fits was found.
        """
        point = self.best(limit_bytes)
        yield point
        if count < 2:
            return
        most, least = point.candidate.peak.nbytes, self.least.nbytes
        for number in range(1, count):
            budget = least + (most - least) * (1 - number / (count - 1))
            if point.candidate.peak.nbytes > max(budget, least * (1 + _WORTH)):
                point = self.best(budget)
                yield point

    def best(self, limit_bytes: float) -> FrontPoint:
        """The best plan of any problem under a limit, not larger than those asked for before."""
        all_found: dict[int, Best] = {}
        error: BudgetError | TimeLimitError | None = None
        fastest = float("inf")
        for number in sorted(range(len(self._searches)), key=lambda n: self._bounds[n]):
            if self._bounds[number] >= fastest:
                continue
            try:
                search = self._searches[number]
                found = best_with_permutes(search, search.best(limit_bytes), limit_bytes)
            except BudgetError as raised:
                self._bounds[number], error = float("inf"), raised
                continue
            except TimeLimitError as raised:
                error = error or raised
                continue
            self._bounds[number] = max(self._bounds[number], found.bound_seconds)
            all_found[number], fastest = found, min(fastest, found.candidate.seconds)
        if not all_found:
            assert error is not None
            raise error
        number = min(all_found, key=lambda n: all_found[n].candidate.seconds)
        best = all_found[number]
        more = runners_up(self._searches[number], best, limit_bytes, self._top_k - 1)
        others = (
            *((n, found.candidate) for n, found in all_found.items() if n != number),
            *((number, candidate) for candidate in more),
        )
        bound = min(best.candidate.seconds, *self._bounds)
        return FrontPoint(number, limit_bytes, best.candidate, others, bound, best.method)
