"""Layouts: how a tensor lies on a mesh, as small integer vectors.

On a mesh of A axes a layout is an int8 vector of length A. Entry a says what mesh axis a does to the tensor:
0, 1, ... shards that tensor dim, `REPLICATED` leaves it whole, `UNREDUCED` means that every chip along the
axis holds a partial sum. Many layouts are an int8 array ``[K, A]``. Several axes may shard one dim; their
order within the dim is the mesh's. A dim that its chips do not divide is padded to whole blocks of
``ceil(size / chips)`` (`autoshard.cost.padding`).
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoshard.cost.torus import TorusMesh

REPLICATED = -1
UNREDUCED = -2

PADDING_LIMIT = 2.0
"""A padded tensor has less than this many times its elements: beyond, fewer chips do the same work."""

Layouts = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]


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


def padding_of_dims(layouts: Layouts, shape: tuple[int, ...], mesh: TorusMesh) -> npt.NDArray[np.float64]:
    """How many times its elements each dim has once it is padded to whole blocks.

    Args:
        layouts: ``[K, A]``.
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.

    Returns:
        ``[K, rank]``: ``ceil(size / chips) * chips / size``, 1 where the chips divide the dim or it is empty.
    """
    sizes = np.asarray(shape, dtype=np.int64)
    chips = shard_counts(layouts, len(shape), mesh)
    padded: npt.NDArray[np.float64] = -(-sizes // chips) * chips / np.maximum(sizes, 1)
    return np.where(sizes > 0, padded, 1.0)


def local_fraction(layouts: Layouts, mesh: TorusMesh, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
    """Share of the tensor that one chip holds, padding included.

    An unreduced axis divides nothing: each chip along it holds a summand of full size.

    Args:
        layouts: ``[K, A]``.
        mesh: The mesh of A axes.
        shape: Sizes of the tensor's dims; left out, the layouts are taken to divide them.

    Returns:
        ``[K]``: 1 / the product of the sizes of the axes that shard any dim, times the padding.
    """
    sizes = np.asarray(mesh.shape, dtype=np.float64)
    fraction: npt.NDArray[np.float64] = 1.0 / np.where(np.asarray(layouts) >= 0, sizes, 1.0).prod(axis=1)
    return fraction * padding_of_dims(layouts, shape, mesh).prod(axis=1) if shape else fraction


def enumerate_layouts(
    shape: tuple[int, ...], mesh: TorusMesh, *, unreduced: bool = False, padded: bool = False
) -> Layouts:
    """All layouts that divide every dim of a tensor evenly, and on demand those that pad some.

    An axis of size 1 does nothing and stays replicated, so no two of the layouts are the same.

    Args:
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.
        unreduced: Whether axes may also leave the tensor unreduced.
        padded: Whether dims may be padded, to less than `PADDING_LIMIT` times the elements in all.

    Returns:
        ``[K, A]`` in a fixed order, the fully replicated one first.
    """
    entries = (REPLICATED, *range(len(shape)), *((UNREDUCED,) if unreduced else ()))
    per_axis = [entries if size > 1 else (REPLICATED,) for size in mesh.shape]
    layouts = np.array(list(itertools.product(*per_axis)), dtype=np.int8)
    kept: Layouts = layouts[fits(shard_counts(layouts, len(shape), mesh), shape, padded=padded)]
    return kept


def fits(
    chips: npt.NDArray[np.int64], sizes: Sequence[int] | npt.NDArray[np.int64], *, padded: bool
) -> Bools:
    """Whether sizes may be split over so many chips.

    Args:
        chips: ``[K, N]`` over how many chips each of N sizes is split.
        sizes: The N sizes.
        padded: Whether they may be padded, to less than `PADDING_LIMIT` times the product of all.

    Returns:
        ``[K]``.
    """
    whole = np.asarray(sizes, dtype=np.int64)
    even: Bools = (whole % chips == 0).all(axis=1)
    if not padded or even.all():
        return even
    ratio = (-(-whole // chips) * chips / np.maximum(whole, 1)).prod(axis=1)
    within: Bools = even | (ratio < PADDING_LIMIT)
    return within
