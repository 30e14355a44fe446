"""Permutations of labels under which a network is the same, as a torus is under swapping equal axes.

A symmetry g maps an assignment x to g(x), g(x)_i = g[i][x_i], at the same cost. Let a set S of assignments,
a product of label sets, be mapped onto itself by every g in H. Then every y in S whose label y_i lies in
the orbit {g[i][a]} of a is the image of an assignment of S with label a, so a search through S for
assignments that differ by more than a symmetry may drop the whole orbit but a (Gent & Smith, *Symmetry
breaking in constraint programming*, ECAI 2000).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search.network import BoolArray, FloatArray, IntArray, Network

Symmetry = tuple[IntArray, ...]


def checked_symmetries(network: Network, symmetries: Iterable[Sequence[ArrayLike]]) -> tuple[Symmetry, ...]:
    """The symmetries as index arrays, after checking them against the network.

    Args:
        network: the costs.
        symmetries: for each, one permutation [K_i] of the labels per variable: label a becomes `g[i][a]`.

    Raises:
        ValueError: not one permutation per variable, or the costs change by more than rounding.
    """
    result = []
    for number, symmetry in enumerate(symmetries):
        g = tuple(np.asarray(permutation, dtype=np.intp) for permutation in symmetry)
        if [sorted(p.tolist()) for p in g] != [list(range(size)) for size in network.sizes]:
            raise ValueError(f"symmetry {number}: expected one permutation of its labels per variable")
        _require_invariance(network, g, number)
        result.append(g)
    return tuple(result)


def _require_invariance(network: Network, g: Symmetry, number: int) -> None:
    for i, vector in enumerate(network.unary):
        if not _is_same(vector[g[i]], vector):
            raise ValueError(f"symmetry {number} changes the unary costs of {network.names[i]}")
    for (i, j), matrix in network.pairwise.items():
        if not _is_same(matrix[np.ix_(g[i], g[j])], matrix):
            pair = f"{network.names[i]} -- {network.names[j]}"
            raise ValueError(f"symmetry {number} changes the pairwise costs of {pair}")


def _is_same(a: FloatArray, b: FloatArray) -> bool:
    if np.array_equal(a, b):
        return True
    finite = b[np.isfinite(b)]
    return np.allclose(a, b, rtol=1e-9, atol=1e-12 * float(np.abs(finite).max(initial=0.0)))


def orbit(group: Iterable[Symmetry], i: int, label: int) -> list[int]:
    """A label of variable `i` and its images."""
    return sorted({label, *(int(g[i][label]) for g in group)})


def preserving(group: Iterable[Symmetry], i: int, mask: BoolArray) -> tuple[Symmetry, ...]:
    """The symmetries that map the label set `mask` [K_i] of variable `i` onto itself."""
    return tuple(g for g in group if np.array_equal(mask[g[i]], mask))


def symmetrised(group: Iterable[Symmetry], bounds: Sequence[FloatArray]) -> list[FloatArray]:
    """Label bounds [K_i] raised to the best bound of any image: what holds for one holds for all."""
    result = [vector.copy() for vector in bounds]
    for g in group:
        for i, vector in enumerate(bounds):
            result[i] = np.maximum(result[i], vector[g[i]])
    return result
