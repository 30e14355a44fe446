"""The search: the best plan that fits the chips' HBM, how far it may be from the optimum, and the best
distinct runners-up.

The best plan within a limit of memory is found by `autoshard.search.budget_search`. Runners-up differ in what
they communicate, not in the names of axes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.cost.reshard import reshard_collectives
from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.budget_search import Best, BudgetSearch
from autoshard.search.budget_search import Candidate as Candidate
from autoshard.search.candidates import factor_shards
from autoshard.search.diversity import HEAVY, distinct_solutions, heavy_einsums
from autoshard.search.errors import NotWorthError
from autoshard.search.network import Network
from autoshard.search.order_search import best_with_permutes, decided_alike, with_permutes
from autoshard.search.problem import Problem

DEFAULT_GAP = 0.01
"""Relative distance to the proven bound at which the search may stop."""
_DEARER = (1.0, 2.0, 8.0)
"""Prices of memory for runners-up, as multiples of those that the best plan is found at."""
_SPARE = 2
"""Runners-up asked for, as a multiple of those wanted: some do not fit."""
NOTABLE = 0.005
"""Share of the step from which on a collective makes two plans different."""


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
    search = BudgetSearch(
        problem, gap=gap, time_limit_seconds=time_limit_seconds, worth_seconds=worth_seconds, on_step=on_step
    )
    layouts = search.best(limit_bytes)
    best = best_with_permutes(search, layouts, limit_bytes)
    if best.bound_seconds > worth_seconds:
        raise NotWorthError(best.bound_seconds, worth_seconds)
    found = [best.candidate, *runners_up(search, layouts, limit_bytes, top_k - 1)]
    if layouts.candidate.labels != best.candidate.labels:
        found.append(with_permutes(search, layouts.candidate.labels))
    candidates = _first(search, found, top_k)
    return Outcome(candidates, min(best.bound_seconds, candidates[0].seconds), best.method)


def _first(search: BudgetSearch, candidates: Sequence[Candidate], count: int) -> tuple[Candidate, ...]:
    """The fastest of some candidates that differ in what they do."""
    ranked = sorted(candidates, key=lambda candidate: candidate.seconds)
    notable = NOTABLE * ranked[0].seconds
    kept: dict[Hashable, Candidate] = {}
    for candidate in ranked:
        kept.setdefault(signature(search.problem, candidate.labels, notable), candidate)
    return tuple(kept.values())[:count]


def _priced_networks(network: Network, rows: Sequence[BudgetRow], prices: Sequence[float]) -> list[Network]:
    """The network with memory at the prices of the best plan, then dearer, so that more of its plans fit."""
    if not any(prices):
        return [network]
    known = rows[: len(prices)]
    return [priced(network, known, [price * factor for price in prices]) for factor in _DEARER]


def runners_up(search: BudgetSearch, best: Best, limit_bytes: float, count: int) -> list[Candidate]:
    """At most `count` of the best distinct plans within a limit after the best one.

    Memory is priced ever dearer; what does not fit is dropped. Each has the rest that suits its heavy einsums
    with permutes included.
    """
    if count <= 0:
        return []
    problem, first = search.problem, best.candidate
    notable = NOTABLE * first.seconds
    seen = {signature(problem, first.labels, notable)}
    found: list[Candidate] = []
    for network in _priced_networks(search.followers.network, search.rows, best.prices):
        spare = _SPARE * (count + 1)
        for labels in distinct_solutions(problem, search.followers, network, first.labels, spare):
            mark = signature(problem, labels, notable)
            peak = search.memory.peak(labels)
            if mark in seen or peak.nbytes > limit_bytes:
                continue
            seen.add(mark)
            found.append(with_permutes(search, labels))
        if len(found) >= count:
            break
    found.sort(key=lambda candidate: candidate.seconds)
    heavy = heavy_einsums(problem, first.labels)[:HEAVY]
    return [decided_alike(search, candidate, heavy, limit_bytes) for candidate in found[:count]]


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
