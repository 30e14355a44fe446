"""Which dims a plan pads: those that the chips do not divide over which they are split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.torus import TorusMesh
from autoshard.search.graph import Op


@dataclass(frozen=True, slots=True)
class Padded:
    """A padded dim.

    Attributes:
        name: Its letter in an einsum, else where it is in the result, such as "dim 2".
        size: Its elements.
        padded: Elements of all blocks together.
        axes: Mesh axes that split it, as indices, in the order of the mesh.
    """

    name: str
    size: int
    padded: int
    axes: tuple[int, ...]


def padded_dims(
    names: Sequence[str], sizes: Sequence[int], codes: npt.NDArray[np.int8], mesh: TorusMesh
) -> tuple[Padded, ...]:
    """The dims (or factors) that are padded.

    Args:
        names: What each of N dims is called.
        sizes: The size of each.
        codes: [A] for each mesh axis the dim that it splits, or a negative number.
        mesh: The mesh of A axes.
    """
    return tuple(_padded(names, sizes, codes, mesh))


def _padded(
    names: Sequence[str], sizes: Sequence[int], codes: npt.NDArray[np.int8], mesh: TorusMesh
) -> Iterator[Padded]:
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        axes = tuple(int(axis) for axis in np.flatnonzero(codes == number))
        chips = math.prod(mesh.shape[axis] for axis in axes)
        if size % chips:
            yield Padded(name, size, -(-size // chips) * chips, axes)


def factor_names(op: Op) -> tuple[str, ...]:
    """What to call each factor of an op: its letter, or else the dim of the result or an operand it is in."""
    return tuple(factor.letter or _place(op, number) for number, factor in enumerate(op.factors))


def _place(op: Op, factor: int) -> str:
    tensors = (*((dims, "") for dims in op.result_dims), *((dims, " read") for dims in op.operand_dims))
    for dims, what in tensors:
        for number, dim in enumerate(dims):
            if factor in dim:
                return f"dim {number}{what}"
    return ""
