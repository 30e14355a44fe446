"""A cost-function network: variables with finitely many labels, unary and pairwise costs.

The cost of an assignment x is a sum over variables and over pairs of variables,

    value(x) = sum_i unary_i[x_i] + sum_ij pairwise_ij[x_i, x_j],

and infinity forbids a label or a pair of labels. The sharding problem has this shape: a variable is an op
(its labels are strategies) or a tensor (its labels are layouts), and a pairwise cost is a reshard. The name
and the algebra are those of Cooper et al., *Soft arc consistency revisited*, Artificial Intelligence 2010.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
Pair = tuple[int, int]


def _costs(cost: ArrayLike, shape: tuple[int, ...], what: str) -> FloatArray:
    """A private float64 copy of `cost`, checked."""
    array = np.array(cost, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{what}: expected costs of shape {shape}, got {array.shape}")
    if np.isnan(array).any() or np.isneginf(array).any():
        raise ValueError(f"{what}: costs must be numbers or +inf (forbidden); found NaN or -inf")
    array.setflags(write=False)
    return array


class Network:
    """A sum of unary and pairwise costs to be minimised; built up by `add_*`, then handed to a solver."""

    __slots__ = ("_names", "_pairwise", "_unary")

    def __init__(self) -> None:
        self._names: list[str] = []
        self._unary: list[FloatArray] = []
        self._pairwise: dict[Pair, FloatArray] = {}

    def add_variable(self, labels: int | ArrayLike, name: str = "") -> int:
        """Add a variable.

        Args:
            labels: how many labels it has, or its unary cost vector [K].
            name: for messages only; need not be unique.

        Returns:
            The variable's index, counting from 0.

        Raises:
            ValueError: no labels, or costs that are NaN or -inf.
        """
        index = len(self._unary)
        name = name or f"variable {index}"
        unary = np.zeros(max(labels, 0)) if isinstance(labels, int) else np.asarray(labels, np.float64)
        if unary.ndim != 1 or unary.size == 0:
            raise ValueError(f"{name}: expected one label or more, or their costs [K], got {labels!r}")
        self._unary.append(_costs(unary, unary.shape, name))
        self._names.append(name)
        return index

    def add_unary(self, i: int, cost: ArrayLike) -> None:
        """Add `cost[K_i]` to the unary cost of variable `i`.

        Raises:
            ValueError: unknown variable, wrong shape, NaN or -inf.
        """
        self._known(i)
        vector = self._unary[i] + _costs(cost, (self.size(i),), self._names[i])
        vector.setflags(write=False)
        self._unary[i] = vector

    def add_pairwise(self, i: int, j: int, cost: ArrayLike) -> None:
        """Add `cost[K_i, K_j]` between two variables, to what is already there in either orientation.

        Raises:
            ValueError: unknown variable, `i == j`, wrong shape, NaN or -inf.
        """
        self._known(i)
        self._known(j)
        if i == j:
            raise ValueError(f"{self._names[i]}: a pairwise cost needs two variables; use add_unary for one")
        what = f"{self._names[i]} -- {self._names[j]}"
        matrix = _costs(cost, (self.size(i), self.size(j)), what)
        pair, matrix = ((i, j), matrix) if i < j else ((j, i), np.ascontiguousarray(matrix.T))
        if pair in self._pairwise:
            matrix = self._pairwise[pair] + matrix
        matrix.setflags(write=False)
        self._pairwise[pair] = matrix

    def _known(self, i: int) -> None:
        if not 0 <= i < len(self._unary):
            raise ValueError(f"unknown variable {i}: the network has {len(self._unary)}, counted from 0")

    @property
    def n_variables(self) -> int:
        """How many variables there are."""
        return len(self._unary)

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names."""
        return tuple(self._names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many labels each variable has."""
        return tuple(vector.size for vector in self._unary)

    @property
    def unary(self) -> Sequence[FloatArray]:
        """Unary cost vectors [K_i], read-only."""
        return tuple(self._unary)

    @property
    def pairwise(self) -> Mapping[Pair, FloatArray]:
        """Pairwise cost matrices [K_i, K_j] by (i, j) with i < j, read-only."""
        return dict(self._pairwise)

    def size(self, i: int) -> int:
        """How many labels variable `i` has."""
        return self._unary[i].size

    def value(self, labels: Sequence[int]) -> float:
        """Cost of one assignment, +inf if it is forbidden.

        Raises:
            ValueError: not one label per variable, or a label out of range.
        """
        if len(labels) != self.n_variables:
            raise ValueError(f"expected {self.n_variables} labels, got {len(labels)}")
        for name, size, label in zip(self._names, self.sizes, labels, strict=True):
            if not 0 <= label < size:
                raise ValueError(f"{name}: label {label} is out of range, it has {size} labels")
        unary = sum(float(vector[label]) for vector, label in zip(self._unary, labels, strict=True))
        return unary + sum(float(matrix[labels[i], labels[j]]) for (i, j), matrix in self._pairwise.items())

    def copy(self) -> "Network":
        """A network that can be added to without touching this one; the arrays are shared."""
        return Network.of(self._names, self._unary, self._pairwise)

    def restricted(self, allowed: Mapping[int, BoolArray]) -> "Network":
        """The same network with every label that `allowed[i][label]` denies at cost +inf.

        Args:
            allowed: boolean vectors [K_i] by variable; variables left out keep all labels.

        Raises:
            ValueError: unknown variable or wrong shape.
        """
        unary = list(self._unary)
        for i, mask in allowed.items():
            self._known(i)
            if np.shape(mask) != (self.size(i),):
                raise ValueError(f"{self._names[i]}: expected a mask of shape ({self.size(i)},)")
            unary[i] = np.where(mask, unary[i], np.inf)
        return Network.of(self._names, unary, self._pairwise)

    def subnetwork(self, variables: Iterable[int]) -> "Network":
        """The network of `variables` alone, renumbered in that order; costs between them are kept."""
        position = {variable: at for at, variable in enumerate(variables)}
        pairwise: dict[Pair, FloatArray] = {}
        for (i, j), matrix in self._pairwise.items():
            if i in position and j in position:
                a, b = position[i], position[j]
                pairwise[min(a, b), max(a, b)] = matrix if a < b else np.ascontiguousarray(matrix.T)
        return Network.of([self._names[i] for i in position], [self._unary[i] for i in position], pairwise)

    @classmethod
    def of(
        cls, names: Iterable[str], unary: Iterable[FloatArray], pairwise: Mapping[Pair, FloatArray]
    ) -> "Network":
        """A network of arrays that are already checked; the arrays are shared, not copied.

        Args:
            names: one per variable.
            unary: cost vectors [K_i].
            pairwise: cost matrices [K_i, K_j] by (i, j), i < j.
        """
        result = cls()
        result._names = list(names)
        result._unary = list(unary)
        result._pairwise = dict(pairwise)
        return result
