"""How much memory an array takes more than its elements: the TPU keeps arrays in tiles.

A tile has 128 lanes along the minor dim and 8 rows along the second minor one, fewer where that dim is
shorter (1, 2 or 4); dims are rounded up to whole tiles. Which dims these two are is the compiler's choice,
and it takes those that waste least:

    waste = min over pairs of dims (m, r) of ceil(m / 128) * 128 / m * ceil(r / rows) * rows / r

Read out of programs that libtpu 0.0.42.1 compiled for v4: ``bf16[2^18, 16, 64]`` lies with the first dim
minor and takes no more than its elements, ``bf16[2^20, 5]`` takes 8 / 5 of them, and a stack of a loop,
``bf16[105, 64, 20, 32, 160]``, takes 256 / 160 of them: the dim that the loop walks along (105, which would
waste less) is never one of the two.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

LANES = 128
ROWS = 8

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def rounding_waste(elements: int | Integers, multiple: int) -> Floats:
    """How much dims of that size grow, as a factor, when they are rounded up to a multiple."""
    size = np.maximum(np.asarray(elements, dtype=np.float64), 1.0)
    waste: Floats = np.ceil(size / multiple) * multiple / size
    return waste


def tile_waste(sizes: Integers, walked: Collection[int] = ()) -> Floats:
    """How many times its elements an array takes in memory.

    Args:
        sizes: ``[K, rank]`` sizes of the dims on one chip.
        walked: Dims along which a loop slices the array.

    Returns:
        ``[K]``: 1 where some pair of dims fills its tiles; for arrays of fewer than two dims that no loop
        walks along, too, whose tiles are lines.
    """
    free = [dim for dim in range(sizes.shape[1]) if dim not in walked]
    if len(free) < 2:
        return np.ones(len(sizes))
    lanes = rounding_waste(sizes[:, free], LANES)
    rows = np.where(
        sizes[:, free] >= ROWS, rounding_waste(sizes[:, free], ROWS), _short_waste(sizes[:, free])
    )
    both = lanes[:, :, None] * rows[:, None, :]
    both[:, range(len(free)), range(len(free))] = np.inf
    least: Floats = both.min(axis=(1, 2))
    return least


def _short_waste(sizes: Integers) -> Floats:
    """How much dims shorter than a tile's rows grow: to the next of 1, 2, 4 and 8."""
    size = np.clip(sizes, 1, ROWS).astype(np.float64)
    waste: Floats = 2.0 ** np.ceil(np.log2(size)) / size
    return waste
