"""Lower bounds by moving costs between the terms of a network (dual ascent), and labels they rule out.

Adding a vector phi to one end of a pairwise cost and subtracting it from that variable's unary cost changes
no assignment's value. If after many such moves every term has minimum zero, the constant taken out is a
lower bound, and constant + unary_i[a] bounds every assignment with x_i = a. The moves are those of
sequential tree-reweighted message passing in the form of Kolmogorov, *Reweighted message passing
revisited*, PAMI 2015: visit the variables in order; collect all that the incident pairs can give; hand on
equal shares to the pairs ahead. The bound never falls; on a chain it is exact after one sweep. Here
every term is brought to minimum zero at once, so the bound is the constant itself and holds at every
moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.network import FloatArray, Network, Pair
from autoshard.search.reduction import Reduced

Potentials = Mapping[Pair, tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class _End:
    """One pair as seen from one of its variables."""

    other: int
    matrix: FloatArray  # [K_other, K_mine]
    mine: FloatArray  # phi at my end [K_mine], changed in place
    theirs: FloatArray  # phi at the other end [K_other]


class DualAscent:
    """A reparametrisation of a network that gets better with every sweep.

    Attributes:
        bound: proven lower bound on every assignment.
        label_bounds: vectors [K_i]: proven lower bounds on every assignment with that label.
        labels: the best assignment met by rounding, None as long as all rounding ran into forbidden pairs.
        value: its cost, +inf as long as there is none.
    """

    __slots__ = ("_ends", "_network", "_unary", "bound", "label_bounds", "labels", "potentials", "value")

    def __init__(self, network: Network, start: Potentials | None = None) -> None:
        """Start from the network's own costs, or from the potentials of an earlier ascent.

        Args:
            network: reduced (`reduction.reduce`): finite unary costs, arc consistent.
            start: by pair (i, j), the vectors [K_i] and [K_j] to move; pairs left out start at zero.
        """
        self._network = network
        self._unary = [vector.copy() for vector in network.unary]
        self._ends: list[list[_End]] = [[] for _ in self._unary]
        self.potentials: dict[Pair, tuple[FloatArray, FloatArray]] = {}
        self.bound = 0.0
        self.labels: tuple[int, ...] | None = None
        self.value = np.inf
        for pair, matrix in network.pairwise.items():
            self._open(pair, matrix, (start or {}).get(pair))
        for vector in self._unary:
            least = float(vector.min())
            vector -= least
            self.bound += least
        self.label_bounds = [self.bound + vector for vector in self._unary]

    def _open(self, pair: Pair, matrix: FloatArray, start: tuple[FloatArray, FloatArray] | None) -> None:
        """Take one pair in, brought to minimum zero."""
        i, j = pair
        zero = (np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1]))
        phi_i, phi_j = (vector.copy() for vector in start or zero)
        self._unary[i] -= phi_i
        self._unary[j] -= phi_j
        least = float((matrix + phi_i[:, None] + phi_j).min())
        phi_i -= least
        self.bound += least
        self._ends[i].append(_End(j, np.ascontiguousarray(matrix.T), phi_i, phi_j))
        self._ends[j].append(_End(i, np.ascontiguousarray(matrix), phi_j, phi_i))
        self.potentials[pair] = (phi_i, phi_j)

    def sweep(self) -> None:
        """Visit all variables once forward and once backward; round on the way."""
        n = len(self._unary)
        for visit, ahead in ((range(n), 1), (range(n - 1, -1, -1), -1)):
            labels: list[int] | None = [-1] * n
            for i in visit:
                labels = self._visit(i, ahead, labels)
            if labels is not None:
                self._offer(tuple(labels))

    def _visit(self, i: int, ahead: int, labels: list[int] | None) -> list[int] | None:
        """Collect at variable `i`, tighten the bound, hand on; returns the rounding, extended by `i`."""
        ends = self._ends[i]
        gifts = [(end.matrix + end.theirs[:, None]).min(axis=0) + end.mine for end in ends]
        forward = [(end.other - i) * ahead > 0 for end in ends]
        labels = self._rounded(i, labels, gifts, forward)
        total = sum(gifts, self._unary[i])
        for end, gift in zip(ends, gifts, strict=True):
            end.mine[:] -= gift
        self.label_bounds[i] = np.maximum(self.label_bounds[i], self.bound + total)
        least = float(total.min())
        self.bound += least
        self._hand_on(i, total - least, forward)
        return labels

    def _hand_on(self, i: int, total: FloatArray, forward: Sequence[bool]) -> None:
        n_forward = sum(forward)
        share = total / max(n_forward, len(forward) - n_forward, 1)
        for end, is_forward in zip(self._ends[i], forward, strict=True):
            if is_forward:
                end.mine[:] += share
        self._unary[i] = total - n_forward * share

    def _rounded(
        self, i: int, labels: list[int] | None, gifts: Sequence[FloatArray], forward: Sequence[bool]
    ) -> list[int] | None:
        """Give `i` the label that looks best beside the labels already given; None at a dead end."""
        if labels is None:
            return None
        score = self._unary[i].copy()
        for end, gift, is_forward in zip(self._ends[i], gifts, forward, strict=True):
            given = labels[end.other]
            score += gift if is_forward else end.matrix[given] + end.theirs[given] + end.mine
        best = int(np.argmin(score))
        if np.isinf(score[best]):
            return None
        labels[i] = best
        return labels

    def _offer(self, labels: tuple[int, ...]) -> None:
        value = self._network.value(labels)
        if value < self.value:
            self.labels, self.value = labels, value


def expanded(potentials: Potentials, reduced: Reduced, sizes: Sequence[int]) -> Potentials:
    """Potentials of a reduced network as vectors over all labels, zero where a label is gone."""

    def expand(i: int, vector: FloatArray) -> FloatArray:
        full = np.zeros(sizes[i])
        full[reduced.kept[i]] = vector
        return full

    return {(i, j): (expand(i, mine), expand(j, theirs)) for (i, j), (mine, theirs) in potentials.items()}


def sliced(potentials: Potentials, reduced: Reduced) -> Potentials:
    """Potentials over all labels cut to the labels of a reduced network."""
    kept = reduced.kept
    return {(i, j): (mine[kept[i]], theirs[kept[j]]) for (i, j), (mine, theirs) in potentials.items()}
