"""The best plans of several phases with what they share in one layout, and how far they may be off.

As in `autoshard.search.planner`: first without regard to memory; then the point of a phase's program that
needs most HBM is added as a budget row, until every phase fits at every point of its own program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.search.budget import solve_with_budgets
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.budget_search import most_rest_seconds
from autoshard.search.errors import SearchError
from autoshard.search.joining import Joint
from autoshard.search.memory import MemoryModel
from autoshard.search.planner import DEFAULT_GAP
from autoshard.search.problem import Problem

_MAX_ROWS = 40
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class JointSolution:
    """The best plans of all phases together.

    Attributes:
        labels: For each phase the labels of its problem's variables.
        phase_seconds: Predicted time of one run of each phase.
        handover_seconds: Predicted time of all hand-overs, each as often as it happens.
        seconds: All runs of all phases, and the hand-overs.
        bound_seconds: A lower bound on `seconds` of plans that share what is shared and fit.
        method: How the solver found it.
    """

    labels: tuple[tuple[int, ...], ...]
    phase_seconds: tuple[float, ...]
    handover_seconds: float
    seconds: float
    bound_seconds: float
    method: str


def search_jointly(
    joint: Joint,
    limit_bytes: float,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_seconds: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> JointSolution:
    """Find the best plans of all phases that fit.

    Args:
        joint: The phases.
        limit_bytes: HBM per chip that the program of a phase may use.
        gap: Relative distance to the optimum that is good enough.
        time_limit_seconds: Limit of each solve; then the best found and its bound.
        on_step: Told in words what is being done.

    Raises:
        BudgetError: No plans fit; carries the least use and the limit.
        NoSolutionError: No plans share what is to be shared.
        SearchError: The phases still do not fit after as many budget rows as are tried.
    """
    memories = [MemoryModel(problem) for problem in joint.problems]
    rows: list[BudgetRow] = []
    limits: list[float] = []
    while True:
        best = solve_with_budgets(joint.network, rows, limits, gap=gap, time_limit_seconds=time_limit_seconds)
        labels = joint.labels(best.labels)
        peaks = [memory.peak(own) for memory, own in zip(memories, labels, strict=True)]
        on_step(f"{best.value * 1e3:.4g} ms for all runs")
        over = [phase for phase, peak in enumerate(peaks) if peak.nbytes > limit_bytes * (1 + _ROUNDING)]
        if not over:
            return _solution(joint, labels, best.bound, limit_bytes, best.method)
        if len(rows) >= _MAX_ROWS:
            raise SearchError(
                f"the plans of the phases still need too much memory after {len(rows)} points of their "
                "programs were made constraints; try another slice or mesh"
            )
        for phase in over:
            row, constant = memories[phase].row(peaks[phase].point)
            rows.append(joint.row(phase, row))
            limits.append(limit_bytes - constant)


def step_seconds(problem: Problem, labels: Sequence[int]) -> float:
    """Predicted time of a plan, without the price that breaks ties."""
    return problem.network.value(labels) - problem.rest_seconds(labels)


def _solution(
    joint: Joint, labels: tuple[tuple[int, ...], ...], bound: float, limit_bytes: float, method: str
) -> JointSolution:
    pairs = list(zip(joint.problems, joint.runs, strict=True))
    each = tuple(step_seconds(p, own) for p, own in zip(joint.problems, labels, strict=True))
    handover = joint.handover_seconds(labels)
    seconds = handover + sum(runs * one for runs, one in zip(joint.runs, each, strict=True))
    slack = sum(runs * most_rest_seconds(problem, limit_bytes) for problem, runs in pairs)
    return JointSolution(labels, each, handover, seconds, min(max(0.0, bound - slack), seconds), method)
