"""Layouts: how a tensor lies on a mesh, as small integer vectors.

On a mesh of A axes a layout is an int8 vector of length A. Entry a says what mesh axis a does to the tensor:
0, 1, ... shards that tensor dim, `REPLICATED` leaves it whole, `UNREDUCED` means that every chip along the
axis holds a partial sum. Many layouts are an int8 array ``[K, A]``. Several axes may shard one dim; their
order within the dim is the mesh's.
"""

import itertools

import numpy as np
import numpy.typing as npt

from autoshard.cost.torus import TorusMesh

REPLICATED = -1
UNREDUCED = -2

Layouts = npt.NDArray[np.int8]


def shard_counts(layouts: Layouts, rank: int, mesh: TorusMesh) -> npt.NDArray[np.int64]:
    """Number of shards of each tensor dim.

    Args:
        layouts: ``[K, A]``.
        rank: Number of dims of the tensor.
        mesh: The mesh of A axes.

    Returns:
        ``[K, rank]``: the product of the sizes of the axes that shard each dim.
    """
    shards = np.asarray(layouts)[:, :, None] == np.arange(rank)
    sizes = np.asarray(mesh.shape, dtype=np.int64)[:, None]
    counts: npt.NDArray[np.int64] = np.where(shards, sizes, np.int64(1)).prod(axis=1)
    return counts


def local_fraction(layouts: Layouts, mesh: TorusMesh) -> npt.NDArray[np.float64]:
    """Share of the tensor that one chip holds.

    An unreduced axis divides nothing: each chip along it holds a summand of full size.

    Args:
        layouts: ``[K, A]``.
        mesh: The mesh of A axes.

    Returns:
        ``[K]``: 1 / the product of the sizes of the axes that shard any dim.
    """
    sizes = np.asarray(mesh.shape, dtype=np.float64)
    fraction: npt.NDArray[np.float64] = 1.0 / np.where(np.asarray(layouts) >= 0, sizes, 1.0).prod(axis=1)
    return fraction


def enumerate_layouts(shape: tuple[int, ...], mesh: TorusMesh, *, unreduced: bool = False) -> Layouts:
    """All layouts that divide every dim of a tensor evenly.

    An axis of size 1 does nothing and stays replicated, so no two of the layouts are the same.

    Args:
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.
        unreduced: Whether axes may also leave the tensor unreduced.

    Returns:
        ``[K, A]`` in a fixed order, the fully replicated one first.
    """
    entries = (REPLICATED, *range(len(shape)), *((UNREDUCED,) if unreduced else ()))
    per_axis = [entries if size > 1 else (REPLICATED,) for size in mesh.shape]
    layouts = np.array(list(itertools.product(*per_axis)), dtype=np.int8)
    divides = np.asarray(shape, dtype=np.int64) % shard_counts(layouts, len(shape), mesh) == 0
    even: Layouts = layouts[divides.all(axis=1)]
    return even
