"""The k best assignments that differ in what matters to the caller.

Labels that no assignment up to a cost T uses are dropped first, T a little above the optimum; what is found
up to T is then exact, and T rises only when it must.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search.errors import NoSolutionError
from autoshard.search.network import Network
from autoshard.search.order import elimination_order
from autoshard.search.ranking import Ranking
from autoshard.search.reduction import Reduced
from autoshard.search.shrink import shrink
from autoshard.search.solution import Solution
from autoshard.search.solver import solve
from autoshard.search.symmetry import Symmetry, checked_symmetries

_ROUNDING = 1e-9
_SLACKS = (0.02, 0.004, 0.0008, 0.00016)  # T above the optimum, relative: down until networks are cheap,
_WIDER_SLACKS = (0.1, 0.5, np.inf)  # and up when k assignments do not lie below; the last allows everything
_CHEAP_OPERATIONS = 3e6


def k_best(
    network: Network,
    k: int,
    *,
    signature: Callable[[tuple[int, ...]], Hashable],
    keys: Sequence[int],
    symmetries: Sequence[Sequence[ArrayLike]] = (),
    accept: Callable[[tuple[int, ...]], bool] | None = None,
    node_limit: int = 2000,
) -> list[Solution]:
    """The k cheapest assignments with different signatures, cheapest first.

    Guaranteed: the first is an optimum; signatures are distinct; each assignment is the cheapest of its
    signature; no signature that is missing has an assignment cheaper than the last one returned. Fewer than k
    come back when there are no more, or when `node_limit` is spent, which leaves out the most expensive only.

    Args:
        network: the costs.
        k: how many, at least 1.
        signature: what makes two assignments different; may depend on the labels of `keys` only, and must not
            change under `symmetries`.
        keys: the variables that the signature looks at.
        symmetries: label permutations that leave the network's costs alone, each one permutation [K_i] per
            variable (label a of variable i becomes `symmetry[i][a]`). Copies under them are not searched,
            which saves a factor of their number. They are checked.
        accept: leaves out assignments for which it is false; it may look at the labels of `keys` only. What
            is guaranteed is then guaranteed among the accepted. None accepts all.
        node_limit: networks to solve at most; without `accept` at least what the first assignment needs.

    Raises:
        NoSolutionError: every assignment costs +inf, or all those of finite cost were not accepted.
        ValueError: k below 1, an unknown key, or a symmetry that is none.
    """
    n = network.n_variables
    if k < 1 or not all(0 <= key < n for key in keys):
        raise ValueError(f"expected k >= 1 and keys among {n} variables, got k = {k}, keys = {list(keys)}")
    group = checked_symmetries(network, symmetries)
    found: dict[Hashable, Solution] = {}
    for reduced, threshold in _narrowed(network, group):
        ranking = Ranking(reduced, network.sizes, keys, group)
        nearer = _distinct(network, ranking, k, signature, accept, threshold, node_limit)
        found = max(found, nearer, key=len)  # either is the beginning of the whole list
        node_limit -= ranking.solved
        if ranking.is_exhausted and np.isinf(threshold) and not found:
            raise NoSolutionError("no assignment is possible: each is forbidden or not accepted")
        if len(found) == k or (node_limit <= 0 and (found or accept)):
            break
    return list(found.values())


def _narrowed(network: Network, group: Sequence[Symmetry]) -> Iterator[tuple[Reduced, float]]:
    """The network on more and more labels, each time with the cost T up to which nothing is missing."""
    best = solve(network)
    weight = _weight(network, best.labels) or 1.0
    nested: list[tuple[Reduced, float]] = []
    reduced = None
    for slack in _SLACKS:
        threshold = best.value + slack * weight
        reduced = shrink(network, threshold + _ROUNDING * weight, group, reduced)
        nested.append((reduced, threshold))
        if elimination_order(reduced.network).operations <= _CHEAP_OPERATIONS:
            break
    yield from reversed(nested)
    for slack in _WIDER_SLACKS:
        threshold = best.value + slack * weight
        yield shrink(network, threshold + _ROUNDING * weight, group), threshold


def _weight(network: Network, labels: Sequence[int]) -> float:
    """The absolute values of an assignment's costs, summed: its value where no cost is negative."""
    unary = sum(abs(float(vector[labels[i]])) for i, vector in enumerate(network.unary))
    return unary + sum(abs(float(m[labels[i], labels[j]])) for (i, j), m in network.pairwise.items())


def _distinct(
    network: Network,
    ranking: Ranking,
    k: int,
    signature: Callable[[tuple[int, ...]], Hashable],
    accept: Callable[[tuple[int, ...]], bool] | None,
    threshold: float,
    node_limit: int,
) -> dict[Hashable, Solution]:
    """The first k of a ranking with different signatures and at a cost of at most `threshold`."""
    found: dict[Hashable, Solution] = {}
    while len(found) < k and ranking.bound <= threshold and not ranking.is_exhausted:
        if ranking.solved >= node_limit and (found or accept):
            break
        labels = ranking.step()
        if labels is not None and (accept is None or accept(labels)):
            value = network.value(labels)
            found.setdefault(signature(labels), Solution(labels, value, value, "k best"))
    return found
