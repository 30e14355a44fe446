"""The best plan with the permutes that its orders of axes need.

The search minimises the cost of layouts; orders are chosen after it, and what permutes cost comes on top. So
the best layouts need not be the best plan. Where permutes leave more than the gap between a plan and its
bound, the labels that some plan of at most a given time, permutes included, may use are few: all others have
a bound above it (`autoshard.search.shrink`). Over those the problem is written out with orders
(`autoshard.search.ordered`) and solved again. What is found is the best plan of all to within the gap, and
all that was left out takes longer than the time given: both bound what any plan takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from autoshard.search.budget_rows import priced
from autoshard.search.budget_search import Best, BudgetSearch, Candidate, most_rest_seconds, step_seconds
from autoshard.search.errors import BudgetError, NoSolutionError, SearchError, TimeLimitError
from autoshard.search.followers import fold_followers
from autoshard.search.ordered import ordered
from autoshard.search.ordering import Orders
from autoshard.search.reduction import Reduced
from autoshard.search.shrink import shrink

MOST_LABELS = 20_000
"""Labels of all leaders together, orders written out, beyond which permutes are left to the order alone."""
_SHARES = (0.25, 1.0)
"""How far above the bound plans are searched, as shares of the way to the best known plan: most often the
optimum is near the bound, and the fewer plans there are the faster it is found."""
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
    best = replace(best, candidate=with_permutes(search, best.candidate.labels))
    for share in _SHARES:
        seconds, bound = best.candidate.seconds, best.bound_seconds
        if bound >= (1 - search.gap) * seconds:
            break
        most = bound + share * (seconds - bound)
        better = _among(search, best, most, limit_bytes)
        best = better or best
        if better is None or better.bound_seconds < most:
            break  # what takes longer than `most` is not what bounds it
    return best


def decided_alike(
    search: BudgetSearch, plain: Candidate, decided: Iterable[int], limit_bytes: float
) -> Candidate:
    """Return a plan, or a faster one that decides some variables alike, permutes included.

    A plan that was found without regard to permutes is searched again with the rest of it free, where its
    permutes take more than the gap.

    Args:
        search: What found it.
        plain: The plan, within the limit, with its permutes.
        decided: The variables that keep their labels.
        limit_bytes: HBM per chip that a plan may use.
    """
    if plain.permute_seconds <= search.gap * plain.seconds:
        return plain
    network = search.problem.network
    kept = {number: np.arange(network.size(number)) == plain.labels[number] for number in decided}
    problem = replace(search.problem, network=network.restricted(kept))
    try:
        other = search.within(problem, fold_followers(problem))
        found = best_with_permutes(other, other.best(limit_bytes), limit_bytes).candidate
    except (BudgetError, NoSolutionError, SearchError, TimeLimitError):  # the plan that is known will do
        return plain
    return min(plain, found, key=lambda candidate: candidate.seconds)


def _among(search: BudgetSearch, best: Best, most_seconds: float, limit_bytes: float) -> Best | None:
    """The best plan known once those of at most `most_seconds` are searched; None where that is too much."""
    try:
        kept = _worth(search, best, most_seconds, limit_bytes).kept
        written = ordered(search.problem, search.followers, kept, MOST_LABELS)
        if written is None:
            return None
        found = search.within(written.problem, written.followers).best(limit_bytes)
    except (BudgetError, NoSolutionError):  # proof that nothing of at most `most_seconds` fits
        least = min(most_seconds, best.candidate.seconds)
        return replace(best, bound_seconds=max(best.bound_seconds, least))
    except (SearchError, TimeLimitError):
        return None
    other = with_permutes(search, written.original(found.candidate.labels))
    winner = min(best.candidate, other, key=lambda candidate: candidate.seconds)
    bound = max(best.bound_seconds, min(found.bound_seconds, most_seconds))
    return replace(best, candidate=winner, bound_seconds=min(bound, winner.seconds), method=found.method)


def _worth(search: BudgetSearch, best: Best, most_seconds: float, limit_bytes: float) -> Reduced:
    """The labels of leaders that plans within the limit use which take at most `most_seconds`.

    Memory at the prices of the best plan is part of the cost: what a plan may pay for it is known.
    """
    rows = list(zip(search.rows, search.constants, best.prices, strict=False))
    network = search.followers.network
    if any(best.prices):
        network = priced(network, [row for row, _, _ in rows], list(best.prices))
    paid = sum(price * (limit_bytes - constant) for _, constant, price in rows)
    most = most_seconds + most_rest_seconds(search.problem, limit_bytes)
    return shrink(network, most + paid + _ROUNDING * (abs(most) + abs(paid)))
