"""The best plan of a problem under one limit of memory after another.

First without regard to memory; then the point of the program that needs most HBM is added as a budget row
and the search repeated, until the best plan fits at every point.  Each repetition is a relaxation, so its
bound holds for the whole problem.

What one limit teaches serves the next: the points that became rows, the assignments met
(`autoshard.search.experience`), and the plans found. A plan that is best under a limit and keeps within a
smaller one is best under that too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.cost.roofline import stream_seconds
from autoshard.search.budget import solve_with_budgets
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.errors import NotWorthError, SearchError
from autoshard.search.experience import Experience
from autoshard.search.followers import fold_followers
from autoshard.search.memory import MemoryModel, Peak
from autoshard.search.problem import REST_PRICE, Problem
from autoshard.search.solution import Solution

_MAX_ROWS = 40
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan of the search.

    Attributes:
        labels: Label of each variable of the problem.
        seconds: Predicted step time.
        peak: HBM per chip.
    """

    labels: tuple[int, ...]
    seconds: float
    peak: Peak


@dataclass(frozen=True, slots=True)
class Best:
    """The best plan under a limit.

    Attributes:
        candidate: The plan.
        bound_seconds: Proven: no plan within the limit is faster.
        method: What proved it.
        prices: Of each of the search's rows, seconds per byte; empty where memory does not bind.
    """

    candidate: Candidate
    bound_seconds: float
    method: str
    prices: tuple[float, ...]


class BudgetSearch:
    """Searches one problem again and again.

    Attributes:
        problem: The decision problem.
        memory: What its plans need.
        followers: Its network with followers folded in.
        rows: The points of the program that were made constraints.
        constants: By row, the bytes that no decision changes.
        experience: What its network has taught so far.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        gap: float,
        time_limit_seconds: float | None = None,
        most_nodes: int | None = None,
        worth_seconds: float = float("inf"),
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare `problem`; `most_nodes` is of each solve, else as `search_plans`."""
        self.problem = problem
        self.memory, self.followers = MemoryModel(problem), fold_followers(problem)
        self.rows: list[BudgetRow] = []
        self.constants: list[float] = []
        self._points: dict[int, int] = {}
        self._most_nodes, self._worth_seconds = most_nodes, worth_seconds
        self._gap, self._time_limit_seconds, self._on_step = gap, time_limit_seconds, on_step
        self.experience = Experience()
        self._found: list[tuple[float, Best]] = []

    def best(self, limit_bytes: float) -> Best:
        """The best plan that fits.

        Raises:
            BudgetError: No plan fits; carries the least use and the limit.
            TimeLimitError: Time was up before a plan that fits was found.
            NotWorthError: All plans take longer than `worth_seconds`.
        """
        for limit, known in self._found:
            if _fits(known.candidate.peak, limit_bytes) and limit_bytes <= limit:
                return known
        self.experience.turn()
        solution, labels, peak = self._within(limit_bytes)
        seconds = step_seconds(self.problem, labels)
        bound = self._bound_seconds(solution, limit_bytes)
        best = Best(
            Candidate(labels, seconds, peak), min(bound, seconds), solution.method, tuple(solution.prices)
        )
        self._found.append((limit_bytes, best))
        return best

    def _within(self, limit_bytes: float) -> tuple[Solution, tuple[int, ...], Peak]:
        """The best solution that fits, its labels of all variables of the problem, and what it needs."""
        for _ in range(_MAX_ROWS + 1):
            limits = [limit_bytes - constant for constant in self.constants]
            solution = solve_with_budgets(
                self.followers.network,
                self.rows,
                limits,
                gap=self._gap,
                time_limit_seconds=self._time_limit_seconds,
                experience=self.experience,
                most_nodes=self._most_nodes,
            )
            bound_seconds = self._bound_seconds(solution, limit_bytes)
            if bound_seconds > self._worth_seconds:
                raise NotWorthError(bound_seconds, self._worth_seconds)
            labels = self.followers.expand(solution.labels)
            peak = self.memory.peak(labels)
            self._on_step(f"{solution.value * 1e3:.4g} ms, {peak.nbytes / 2**30:.2f} GiB per chip")
            if _fits(peak, limit_bytes):
                return solution, labels, peak
            self.row(peak.point)
        raise SearchError(
            f"the plan still needs too much memory at op {peak.point} after {_MAX_ROWS} points of the "
            "program were made constraints; try another slice or mesh"
        )

    def _bound_seconds(self, solution: Solution, limit_bytes: float) -> float:
        return max(0.0, solution.bound - most_rest_seconds(self.problem, limit_bytes))

    def row(self, point: int) -> int:
        """The number of the row of a point of the program, which is added where it is new."""
        if point not in self._points:
            row, constant = self.memory.row(point)
            self._points[point] = len(self.rows)
            self.rows.append(self.followers.row(row))
            self.constants.append(constant)
        return self._points[point]


def _fits(peak: Peak, limit_bytes: float) -> bool:
    return peak.nbytes <= limit_bytes * (1 + _ROUNDING)


def step_seconds(problem: Problem, labels: Sequence[int]) -> float:
    """Predicted step time of a plan: its value without the tie-breaking price of memory."""
    return problem.network.value(labels) - problem.rest_seconds(labels)


def most_rest_seconds(problem: Problem, limit_bytes: float) -> float:
    """The most that the tie-breaking price can add to a plan that fits: what the bound must give back.

    Arguments are all live at once, so they keep within the limit together; the rest may take turns.
    """
    layouts = {n: variable for n, variable in enumerate(problem.variables) if variable.cost is None}
    nbytes = {n: problem.graph.values[v.subject].nbytes * v.trips for n, v in layouts.items()}
    arguments = {problem.value_variable.get(value, -1) for value in problem.graph.arguments}
    at_rest = sum(size for n, size in nbytes.items() if n in arguments)
    others = sum(size for n, size in nbytes.items() if n not in arguments)
    return REST_PRICE * stream_seconds(min(limit_bytes, at_rest) + others, problem.mesh.slice.chip)
