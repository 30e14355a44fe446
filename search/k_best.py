"""The k best assignments that differ in what matters to the caller.

Labels that no good assignment uses are dropped first: with T the bound up to which labels are kept, every
assignment that costs at most T survives, so what is found up to T is exact; T rises only when it must.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search.errors import NoSolutionError
from autoshard.search.label_bounds import label_bounds, quick_label_bounds
from autoshard.search.network import FloatArray, Network
from autoshard.search.order import elimination_order
from autoshard.search.ranking import Ranking
from autoshard.search.reduction import Reduced, reduce
from autoshard.search.solution import Solution
from autoshard.search.symmetry import Symmetry, checked_symmetries, symmetrised
from autoshard.search.threshold import affordable_threshold, within

_SWEEPS = 8
_QUICK_OPERATIONS = (1e6, 1e7)  # table entries allowed to networks narrowed by quick label bounds
_OPERATIONS = (1e6, 1e7, 1e8, np.inf)  # and by thorough ones; the last must allow everything


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
    """The network on more and more labels, each time with the cost up to which nothing is missing."""
    whole = reduce(network)
    quick = quick_label_bounds(whole.network, _SWEEPS)
    yield from _within_bounds(network, whole, quick, group, _QUICK_OPERATIONS)
    yield from _within_bounds(network, whole, label_bounds(whole.network), group, _OPERATIONS)


def _within_bounds(
    network: Network,
    whole: Reduced,
    found: Sequence[FloatArray],
    group: Sequence[Symmetry],
    operations: Sequence[float],
) -> Iterator[tuple[Reduced, float]]:
    """The network on the labels whose bound is at most a threshold, for each number of operations allowed."""
    bounds = [np.full(size, np.inf) for size in network.sizes]
    for vector, kept, least in zip(bounds, whole.kept, found, strict=True):
        vector[kept] = least
    bounds = symmetrised(group, bounds)
    possible = reduce(network, dict(enumerate(np.isfinite(vector) for vector in bounds)))
    finite = [vector[kept] for vector, kept in zip(bounds, possible.kept, strict=True)]
    order = elimination_order(possible.network)
    thresholds = {affordable_threshold(finite, order, most) for most in operations}
    for threshold in sorted(each for each in thresholds if each is not None):
        masks = dict(enumerate(within(bounds, threshold)))
        complete = all(vector.max() <= threshold for vector in finite)
        try:
            yield reduce(network, masks), np.inf if complete else threshold
        except NoSolutionError:
            continue


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
