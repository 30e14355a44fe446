"""Named mesh axes laid on the torus of a slice.

A mesh axis is a whole torus dim or a factor of one. The slice's chips form an array of shape
``[slices, *topology]``, x slowest; an axis is described by the torus dim on which it lies, its size, and its
stride: the distance in chips, along that dim, of neighbours on the axis. Splitting dim x of 8 chips into
``x0`` of 2 and ``x1`` of 4 gives ``x0`` stride 4 (major) and ``x1`` stride 1. Coarser meshes need no axes of
their own: one tensor dim may be sharded over several axes.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from autoshard.cost.errors import SliceError
from autoshard.cost.slices import Slice

DCN_DIM = -1
_DIM_NAMES = "xyzw"


@dataclass(frozen=True, slots=True)
class MeshAxis:
    """One named axis.

    Attributes:
        name: Its name in `PartitionSpec`s.
        size: Chips along it.
        torus_dim: Index in `Slice.topology`, or `DCN_DIM` for the axis across slices.
        stride: Distance of neighbours, in chips along the torus dim (1 for the axis across slices).
    """

    name: str
    size: int
    torus_dim: int
    stride: int


@dataclass(frozen=True, slots=True)
class TorusMesh:
    """All chips of a slice under named axes, major axis first.

    Raises:
        SliceError: If the axes on a torus dim do not multiply to its size.
    """

    slice: Slice
    axes: tuple[MeshAxis, ...]

    def __post_init__(self) -> None:
        for dim in (DCN_DIM, *range(len(self.slice.topology))):
            expected = self.slice.num_slices if dim == DCN_DIM else self.slice.topology[dim]
            found = [axis.size for axis in self.axes if axis.torus_dim == dim]
            if math.prod(found) != expected:
                where = "across slices" if dim == DCN_DIM else f"on torus dim {dim}"
                raise SliceError(
                    f"mesh on {self.slice.name}: the axes {where} have sizes {found}, expected sizes that "
                    f"multiply to {expected}; `native_mesh` makes a mesh that fits"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    @property
    def n_chips(self) -> int:
        """Chips of the mesh."""
        return math.prod(self.shape)


def native_mesh(slice: Slice) -> TorusMesh:
    """The mesh with one axis per torus dim of more than one chip.

    Axes are named x, y, z after their dims, with a leading ``dcn`` if there are several slices. A single chip
    has one axis ``x`` of size 1.
    """
    return _mesh(slice, tuple((size,) for size in slice.topology))


def mesh_factorisations(slice: Slice, max_axes: int = 4) -> tuple[TorusMesh, ...]:
    """All meshes whose axes are ordered factors of the torus dims: the native one first, then by axis count.

    Args:
        slice: The slice.
        max_axes: Largest number of axes, the one across slices included; the native mesh is always given.

    Returns:
        Meshes in a fixed order. Factors of dim x are named x0, x1, ...; x0 has the largest stride.
    """
    splits = itertools.product(*(_ordered_factors(size) for size in slice.topology))
    meshes = sorted((_mesh(slice, split) for split in splits), key=lambda mesh: len(mesh.axes))
    return tuple(m for i, m in enumerate(meshes) if i == 0 or len(m.axes) <= max_axes)


@cache
def _ordered_factors(size: int) -> tuple[tuple[int, ...], ...]:
    """All tuples of factors above 1 that multiply to size, the undivided one first."""
    split = [
        (first, *rest)
        for first in range(2, size)
        if size % first == 0
        for rest in _ordered_factors(size // first)
    ]
    return ((size,), *split)


def _mesh(slice: Slice, split: tuple[tuple[int, ...], ...]) -> TorusMesh:
    dcn = (MeshAxis("dcn", slice.num_slices, DCN_DIM, 1),) if slice.num_slices > 1 else ()
    ici = tuple(axis for dim, factors in enumerate(split) for axis in _dim_axes(dim, factors))
    return TorusMesh(slice, dcn + ici or (MeshAxis("x", 1, 0, 1),))


def _dim_axes(dim: int, factors: tuple[int, ...]) -> Iterator[MeshAxis]:
    if factors == (1,):
        return
    name = _DIM_NAMES[dim]
    for i, size in enumerate(factors):
        numbered = name if len(factors) == 1 else f"{name}{i}"
        yield MeshAxis(numbered, size, dim, math.prod(factors[i + 1 :]))
