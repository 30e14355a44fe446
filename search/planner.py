"""The search: the best plan that fits the chips' HBM, how far it may be from the optimum, and the best
distinct runners-up.

First without regard to memory; then the point of the program that needs most HBM is added as a budget row
and the search repeated, until the best plan fits at every point.  Each repetition is a relaxation, so its
bound holds for the whole problem. Runners-up differ in what they communicate, not in the names of axes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.cost.reshard import reshard_collectives
from autoshard.cost.roofline import stream_seconds
from autoshard.search.budget import solve_with_budgets
from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.candidates import factor_shards
from autoshard.search.diversity import HEAVY, distinct_solutions, heavy_einsums
from autoshard.search.errors import NotWorthError, SearchError
from autoshard.search.followers import Followers, fold_followers
from autoshard.search.memory import MemoryModel, Peak
from autoshard.search.network import Network
from autoshard.search.problem import REST_PRICE, Problem

DEFAULT_GAP = 0.01
"""Relative distance to the proven bound at which the search may stop."""
_MAX_ROWS = 40
_ROUNDING = 1e-9
_DEARER = (1.0, 2.0, 8.0)
"""Prices of memory for runners-up, as multiples of those that the best plan is found at."""
_SPARE = 2
"""Runners-up asked for, as a multiple of those wanted: some do not fit."""
_NOTABLE = 0.005
"""Share of the step from which on a collective makes two plans different."""


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
class Outcome:
    """What a search found: candidates, best first, and a lower bound on the step time of plans that fit."""

    candidates: tuple[Candidate, ...]
    bound_seconds: float
    method: str

    @property
    def gap(self) -> float:
        """Relative distance of the best candidate to the bound."""
        best = self.candidates[0].seconds
        return max(0.0, best - self.bound_seconds) / best if best else 0.0


def search_plans(
    problem: Problem,
    limit_bytes: float,
    *,
    top_k: int = 1,
    gap: float = DEFAULT_GAP,
    time_limit_seconds: float | None = None,
    worth_seconds: float = float("inf"),
    on_step: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Find the best plans that fit.

    Args:
        problem: The decision problem.
        limit_bytes: HBM per chip that a program may use.
        top_k: Number of distinct plans wanted.
        gap: Relative distance to the optimum that is good enough.
        time_limit_seconds: Limit of each solve; then the best found and its bound.
        worth_seconds: Step time above which plans are of no use: the search ends as soon as it is proven that
            all are slower.
        on_step: Told in words what is being done.

    Raises:
        BudgetError: No plan fits; carries the least use and the limit.
        NotWorthError: All plans take longer than `worth_seconds`.
    """
    memory, followers = MemoryModel(problem), fold_followers(problem)
    rows: list[BudgetRow] = []
    limits: list[float] = []
    while True:
        best = solve_with_budgets(
            followers.network, rows, limits, gap=gap, time_limit_seconds=time_limit_seconds
        )
        bound_seconds = max(0.0, best.bound - most_rest_seconds(problem, limit_bytes))
        if bound_seconds > worth_seconds:
            raise NotWorthError(bound_seconds, worth_seconds)
        labels = followers.expand(best.labels)
        peak = memory.peak(labels)
        on_step(f"{best.value * 1e3:.4g} ms, {peak.nbytes / 2**30:.2f} GiB per chip")
        if peak.nbytes <= limit_bytes * (1 + _ROUNDING):
            break
        if len(rows) == _MAX_ROWS:
            raise SearchError(
                f"the plan still needs too much memory at op {peak.point} after {_MAX_ROWS} points of the "
                "program were made constraints; try another slice or mesh"
            )
        row, constant = memory.row(peak.point)
        rows.append(followers.row(row))
        limits.append(limit_bytes - constant)
    first = Candidate(labels, _step_seconds(problem, labels), peak)
    networks = _priced_networks(followers.network, rows, best.prices)
    others = _runners_up(problem, followers, networks, memory, first, limit_bytes, top_k - 1)
    candidates = sorted((first, *others), key=lambda candidate: candidate.seconds)
    return Outcome(tuple(candidates), min(bound_seconds, candidates[0].seconds), best.method)


def _step_seconds(problem: Problem, labels: Sequence[int]) -> float:
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


def _priced_networks(network: Network, rows: Sequence[BudgetRow], prices: Sequence[float]) -> list[Network]:
    """The network with memory at the prices of the best plan, then dearer, so that more of its plans fit."""
    if not any(prices):
        return [network]
    return [priced(network, rows, [price * factor for price in prices]) for factor in _DEARER]


def _runners_up(
    problem: Problem,
    followers: Followers,
    networks: Sequence[Network],
    memory: MemoryModel,
    best: Candidate,
    limit_bytes: float,
    count: int,
) -> list[Candidate]:
    """The best distinct plans after the best one.

    Memory is priced in `networks`, ever dearer; what does not fit is dropped.
    """
    if count <= 0:
        return []
    notable = _NOTABLE * best.seconds
    seen = {signature(problem, best.labels, notable)}
    found: list[Candidate] = []
    for network in networks:
        for labels in distinct_solutions(problem, followers, network, best.labels, _SPARE * (count + 1)):
            mark = signature(problem, labels, notable)
            peak = memory.peak(labels)
            if mark in seen or peak.nbytes > limit_bytes:
                continue
            seen.add(mark)
            found.append(Candidate(labels, _step_seconds(problem, labels), peak))
        if len(found) >= count:
            break
    return sorted(found, key=lambda c: c.seconds)[:count]


def signature(problem: Problem, labels: Sequence[int], notable_seconds: float) -> Hashable:
    """What a plan does, blind to the names of axes.

    That is how it cuts the heavy einsums, and its notable collectives by value, kind, group size and bytes.
    """
    parts: list[tuple[object, ...]] = []
    for number in heavy_einsums(problem, labels)[:HEAVY]:
        variable = problem.variables[number]
        op = problem.graph.ops[variable.subject]
        shards = factor_shards(variable.codes[[labels[number]]], len(op.factors), problem.mesh)[0]
        parts.append((op.index, "strategy", tuple(int(n) for n in shards)))
    for edge in problem.edges:
        have, want = edge.source_layouts[labels[edge.source]], edge.target_layouts[labels[edge.target]]
        if not (have != want).any():
            continue
        value = problem.graph.values[edge.value]
        for collective in reshard_collectives(have, want, value.nbytes, problem.mesh, value.shape):
            if collective.seconds * edge.trips >= notable_seconds:
                size = int(
                    np.prod([problem.mesh.shape[problem.mesh.names.index(a)] for a in collective.axes])
                )
                parts.append((edge.value, collective.kind, size, round(collective.bytes_per_chip)))
    return tuple(sorted(parts, key=repr))
