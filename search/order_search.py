"""The best plan with the permutes that its orders of axes need.

The search minimises the cost of layouts; orders are chosen after it, and what permutes cost comes on top. So
the best layouts need not be the best plan. Where permutes leave more than the gap between a plan and its
bound, the labels that some plan as fast as this one, permutes included, may use are few: all others have a
bound above it (`autoshard.search.shrink`). Over those the problem is written out with orders
(`autoshard.search.ordered`) and solved again. What is found is the best plan of all to within the gap, and
its bound holds for all.
"""

from __future__ import annotations

from dataclasses import replace

from autoshard.search.budget_rows import priced
from autoshard.search.budget_search import Best, BudgetSearch, Candidate, most_rest_seconds, step_seconds
from autoshard.search.errors import BudgetError, TimeLimitError
from autoshard.search.ordered import ordered
from autoshard.search.ordering import Orders
from autoshard.search.reduction import Reduced
from autoshard.search.shrink import shrink

MOST_LABELS = 20_000
"""Labels of all leaders together, orders written out, beyond which permutes are left to the order alone."""
_ROUNDING = 1e-9


def with_permutes(search: BudgetSearch, labels: tuple[int, ...]) -> Candidate:
    """A plan with the time of its permutes under the best orders."""
    permutes = Orders(search.problem, labels).permute_seconds
    seconds = step_seconds(search.problem, labels) + permutes
    return Candidate(labels, seconds, search.memory.peak(labels), permutes)


def best_with_permutes(search: BudgetSearch, best: Best, limit_bytes: float) -> Best:
    """Return the best plan within a limit, permutes included, and its bound.

    Args:
        search: What found `best`.
        best: The plan with the best layouts within the limit.
        limit_bytes: HBM per chip that a plan may use.
    """
    known = with_permutes(search, best.candidate.labels)
    best = replace(best, candidate=known)
    if not known.permute_seconds or best.bound_seconds >= (1 - search.gap) * known.seconds:
        return best
    kept = _worth(search, best, limit_bytes).kept
    written = ordered(search.problem, search.followers, kept, MOST_LABELS)
    if written is None:
        return best
    inner = search.within(written.problem, written.followers)
    try:
        found = inner.best(limit_bytes)
    except (BudgetError, TimeLimitError):
        return best
    other = with_permutes(search, written.original(found.candidate.labels))
    bound = max(best.bound_seconds, min(found.bound_seconds, known.seconds))
    winner = min(known, other, key=lambda candidate: candidate.seconds)
    return replace(best, candidate=winner, bound_seconds=min(bound, winner.seconds), method=found.method)


def _worth(search: BudgetSearch, best: Best, limit_bytes: float) -> Reduced:
    """The labels of leaders that plans within the limit use which are as fast as the best known one.

    Memory at the prices of the best plan is part of the cost: what a plan may pay for it is known.
    """
    rows = list(zip(search.rows, search.constants, best.prices, strict=False))
    network = search.followers.network
    if any(best.prices):
        network = priced(network, [row for row, _, _ in rows], list(best.prices))
    paid = sum(price * (limit_bytes - constant) for _, constant, price in rows)
    most = best.candidate.seconds + most_rest_seconds(search.problem, limit_bytes)
    return shrink(network, most + paid + _ROUNDING * (abs(most) + abs(paid)))
