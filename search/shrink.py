"""Dropping the labels that no assignment up to a given cost uses.

Dual ascent and pruning take turns, each making the other stronger and cheaper; when elimination has become
cheap, exact min-marginals finish the work.
"""

from collections.abc import Sequence

import numpy as np

from autoshard.search.bounds import DualAscent, Potentials, expanded, sliced
from autoshard.search.elimination import Elimination
from autoshard.search.network import FloatArray, Network
from autoshard.search.order import elimination_order
from autoshard.search.reduction import Reduced, reduce
from autoshard.search.symmetry import Symmetry, symmetrised
from autoshard.search.threshold import within

_CHEAP_OPERATIONS, _MOST_OPERATIONS = 2e7, 3e8
_SWEEPS, _ROUNDS = 6, 15
_PROGRESS = 0.02


def shrink(
    network: Network, threshold: float, group: Sequence[Symmetry] = (), start: Reduced | None = None
) -> Reduced:
    """The network without the labels that are provably in no assignment of cost at most `threshold`.

    Args:
        network: any network.
        threshold: cost up to which every assignment must survive, with something added for rounding errors.
        group: symmetries of the network; the labels kept are mapped onto themselves by them.
        start: what an earlier call with a higher threshold left.

    Raises:
        NoSolutionError: no assignment costs that little; names a variable that lost all labels.
    """
    reduced = start or reduce(network)
    potentials: Potentials = {}
    for _ in range(_ROUNDS):
        if elimination_order(reduced.network).operations <= _CHEAP_OPERATIONS:
            break
        dual = DualAscent(reduced.network, sliced(potentials, reduced))
        before = dual.bound
        for _ in range(_SWEEPS):
            dual.sweep()
        fewer = _pruned(network, reduced, dual.label_bounds, threshold, group)
        potentials = expanded(dual.potentials, reduced, network.sizes)
        stuck = dual.bound - before <= _PROGRESS * (threshold - dual.bound)
        stuck = stuck and _labels(fewer) > (1 - _PROGRESS) * _labels(reduced)
        reduced = fewer
        if stuck:
            break
    order = elimination_order(reduced.network)
    if order.operations > _MOST_OPERATIONS:
        return reduced
    marginals = Elimination(reduced.network, order).min_marginals()
    return _pruned(network, reduced, marginals, threshold, group)


def _pruned(
    network: Network,
    reduced: Reduced,
    bounds: Sequence[FloatArray],
    threshold: float,
    group: Sequence[Symmetry],
) -> Reduced:
    """Keep the labels whose bound, or the best bound of an image, is at most the threshold."""
    full = [np.full(size, np.inf) for size in network.sizes]
    for vector, kept, bound in zip(full, reduced.kept, bounds, strict=True):
        vector[kept] = bound
    masks = within(symmetrised(group, full), threshold)
    return reduced.further([mask[kept] for mask, kept in zip(masks, reduced.kept, strict=True)])


def _labels(reduced: Reduced) -> int:
    return sum(reduced.network.sizes)
