"""Resources that an assignment uses, linear in its labels, and networks that charge for them.

A row gives each label, and where wanted each pair of labels, a use (bytes of HBM, say); a budget demands
that the uses of an assignment sum to at most a limit. Charging a price per unit, lambda >= 0, turns a
budget into costs:

    priced(x) = value(x) + sum_r lambda_r * use_r(x).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search.network import FloatArray, IntArray, Network, Pair


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One resource.

    Attributes:
        name: for messages.
        unary: use vectors [K_i] by variable; variables left out use nothing.
        pairwise: use matrices [K_i, K_j] by pair, in either orientation.
    """

    name: str
    unary: Mapping[int, ArrayLike]
    pairwise: Mapping[Pair, ArrayLike] = field(default_factory=dict)

    def use(self, labels: Sequence[int]) -> float:
        """What an assignment uses."""
        own = sum(float(np.asarray(vector)[labels[i]]) for i, vector in self.unary.items())
        return own + sum(
            float(np.asarray(matrix)[labels[i], labels[j]]) for (i, j), matrix in self.pairwise.items()
        )

    def checked(self, network: Network) -> "BudgetRow":
        """The row with float64 arrays, after checking it against a network.

        Raises:
            ValueError: unknown variable, wrong shape, or a use that is not finite.
        """
        sizes = dict(enumerate(network.sizes))
        unary = {i: self._array(vector, (sizes.get(i, -1),)) for i, vector in self.unary.items()}
        pairwise = {
            (i, j): self._array(matrix, (sizes.get(i, -1), sizes.get(j, -1)))
            for (i, j), matrix in self.pairwise.items()
        }
        return BudgetRow(self.name, unary, pairwise)

    def _array(self, use: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
        array = np.asarray(use, dtype=np.float64)
        if -1 in shape:
            raise ValueError(f"budget {self.name}: names a variable that the network does not have")
        if array.shape != shape:
            raise ValueError(f"budget {self.name}: expected uses of shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"budget {self.name}: uses must be finite; forbid a label by its cost instead")
        return array

    def cut(self, kept: Sequence[IntArray]) -> "BudgetRow":
        """The row for the labels `kept[i]` of each variable only."""
        unary = {i: np.asarray(vector)[kept[i]] for i, vector in self.unary.items()}
        pairwise = {
            (i, j): np.asarray(matrix)[np.ix_(kept[i], kept[j])] for (i, j), matrix in self.pairwise.items()
        }
        return BudgetRow(self.name, unary, pairwise)

    def least(self) -> float:
        """A quick lower bound on any assignment's use: the sum of the least entries."""
        arrays = [*self.unary.values(), *self.pairwise.values()]
        return sum(float(np.asarray(array).min()) for array in arrays)


def priced(network: Network, rows: Sequence[BudgetRow], prices: Sequence[float]) -> Network:
    """The network with every use charged at its row's price per unit."""
    result = network.copy()
    for row, price in zip(rows, prices, strict=True):
        if price:
            for i, vector in row.unary.items():
                result.add_unary(i, np.asarray(vector) * price)
            for (i, j), matrix in row.pairwise.items():
                result.add_pairwise(i, j, np.asarray(matrix) * price)
    return result
