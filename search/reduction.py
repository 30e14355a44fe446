"""Cutting a network down to the labels that can still occur.

Arc consistency (Mackworth 1977): a label goes when its unary cost is infinite or when some neighbour has no
label left that it may stand beside; repeated to the fixed point. What remains has a finite entry in every
row and column of every pairwise matrix, which the message passing of `bounds` relies on. A variable with
one label left is no decision: its pairwise costs move into its neighbours' unary costs, and the graph gets
sparser. A pair whose entries are all zero is dropped.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.errors import NoSolutionError
from autoshard.search.network import BoolArray, FloatArray, IntArray, Network, Pair


@dataclass(frozen=True, slots=True)
class Reduced:
    """A network without its dead labels, and the way back.

    Attributes:
        network: same variables, fewer labels; all unary costs finite; every pair arc consistent.
        kept: per variable, the original label of each label of `network`, ascending.
    """

    network: Network
    kept: tuple[IntArray, ...]

    def original(self, labels: Sequence[int]) -> tuple[int, ...]:
        """The original labels of an assignment of `network`."""
        return tuple(int(kept[label]) for kept, label in zip(self.kept, labels, strict=True))

    def masks(self, sizes: Sequence[int]) -> list[BoolArray]:
        """Which of the original labels are kept: vectors [K_i] for the original label counts `sizes`."""
        masks = [np.zeros(size, np.bool_) for size in sizes]
        for mask, kept in zip(masks, self.kept, strict=True):
            mask[kept] = True
        return masks

    def further(self, masks: Sequence[BoolArray]) -> "Reduced":
        """Drop more labels: `masks[i]` [labels of `network`] says which to keep.

        Raises:
            NoSolutionError: nothing is left.
        """
        again = reduce(self.network, dict(enumerate(masks)))
        kept = tuple(mine[chosen] for mine, chosen in zip(self.kept, again.kept, strict=True))
        return Reduced(again.network, kept)


def reduce(network: Network, allowed: Mapping[int, BoolArray] | None = None) -> Reduced:
    """Remove the labels that no finite assignment can use, as far as arc consistency sees.

    Args:
        network: any network.
        allowed: boolean vectors [K_i] by variable, labels to consider; variables left out keep all.

    Raises:
        NoSolutionError: some variable has no label left; names it.
    """
    masks = [np.isfinite(vector) for vector in network.unary]
    for i, mask in (allowed or {}).items():
        masks[i] = masks[i] & mask
    _make_consistent(network, masks)
    kept = tuple(np.flatnonzero(mask) for mask in masks)
    return Reduced(_cut(network, kept), kept)


def _make_consistent(network: Network, masks: list[BoolArray]) -> None:
    """Shrink `masks` in place to the arc-consistent fixed point."""
    support = _finite_entries(network)
    for i, mask in enumerate(masks):
        _require_a_label(network, i, mask)
    queue = deque(range(network.n_variables))
    waiting = set(queue)
    while queue:
        j = queue.popleft()
        waiting.discard(j)
        for i, finite in support[j]:
            mask = masks[i] & finite[masks[j]].any(axis=0)
            if mask.sum() == masks[i].sum():
                continue
            masks[i] = mask
            _require_a_label(network, i, mask)
            if i not in waiting:
                waiting.add(i)
                queue.append(i)


def _finite_entries(network: Network) -> Mapping[int, list[tuple[int, BoolArray]]]:
    """For each variable j: neighbours i and which pairs [K_j, K_i] are allowed, where not all are."""
    support: dict[int, list[tuple[int, BoolArray]]] = defaultdict(list)
    for (i, j), matrix in network.pairwise.items():
        finite = np.isfinite(matrix)
        if not finite.all():
            support[i].append((j, finite))
            support[j].append((i, np.ascontiguousarray(finite.T)))
    return support


def _require_a_label(network: Network, i: int, mask: BoolArray) -> None:
    if not mask.any():
        name = network.names[i]
        message = f"no assignment is possible: {name} has no allowed label left of its {network.size(i)}"
        raise NoSolutionError(f"{message}; allow more labels for it or its neighbours", name)


def _cut(network: Network, kept: Sequence[IntArray]) -> Network:
    """The network of the kept labels; a pair with a single-label end becomes a unary cost, zeros nothing."""
    unary = [vector[labels] for vector, labels in zip(network.unary, kept, strict=True)]
    pairwise: dict[Pair, FloatArray] = {}
    for (i, j), matrix in network.pairwise.items():
        part = matrix[np.ix_(kept[i], kept[j])]
        if part.shape[1] == 1:
            unary[i] = unary[i] + part[:, 0]
        elif part.shape[0] == 1:
            unary[j] = unary[j] + part[0]
        elif part.any():
            pairwise[i, j] = part
    return Network.of(network.names, unary, pairwise)
