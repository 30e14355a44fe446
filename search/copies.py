"""Bytes of the copies that a reshard makes of a tensor on each chip.

A tensor that changes its layout exists twice while it does: as it leaves and as it arrives. An all-to-all
holds a third copy. It takes a list of blocks, one for each chip, so the compiler first writes the tensor with
the dim that is to be split outermost, and what comes back has the blocks of the other dim outermost, to be
put in order after that. Weights of 8 bits that a loop reads in smaller parts than they are stored in are cut
before the loop, where the compiler changes their tiles, too, and the parts of all iterations stay until its
end; wider ones are cut where they are read. Read out of programs that libtpu 0.0.42.1 compiled: caches and
stacked weights that move a mesh axis from one dim to another, or are stored whole.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, Layouts, local_fraction
from autoshard.cost.torus import TorusMesh

Floats = npt.NDArray[np.float64]


class Side(StrEnum):
    """Which copy: what is resharded, what comes of it, the blocks of an all-to-all, or a part."""

    LEAVING = "leaving"
    ARRIVING = "arriving"
    SENT = "sent"
    CUT = "cut"


def copied_bytes(
    nbytes: float, shape: tuple[int, ...], source: Layouts, target: Layouts, side: Side, mesh: TorusMesh
) -> Floats:
    """Bytes per chip of one copy under each pair of layouts.

    Args:
        nbytes: Bytes of the whole tensor.
        shape: Sizes of its dims.
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        side: Which copy.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J]``, 0 where there is none.
    """
    have, want = source[:, None, :], target[None, :, :]
    if side is Side.SENT:
        sends = ((have >= 0) & (want >= 0) & (have != want)).any(axis=2)
        sharded = np.where((have == REPLICATED) & (want >= 0), want, have)
        return np.where(sends, nbytes * _local(sharded, mesh, shape), 0.0)
    if side is Side.CUT:
        kept = (have == want) | ((have == REPLICATED) & (want >= 0))
        return np.where(
            kept.all(axis=2) & (have != want).any(axis=2),
            nbytes * _local(np.broadcast_to(want, (len(source), *want.shape[1:])), mesh, shape),
            0.0,
        )
    local = nbytes * local_fraction(source if side is Side.LEAVING else target, mesh, shape)
    return np.where((have != want).any(axis=2), local[:, None] if side is Side.LEAVING else local[None], 0.0)


def _local(layouts: Layouts, mesh: TorusMesh, shape: tuple[int, ...]) -> Floats:
    """``[K, J]`` share of a tensor that a chip holds under ``[K, J, A]`` layouts."""
    flat = layouts.reshape(-1, layouts.shape[-1])
    return local_fraction(flat, mesh, shape).reshape(layouts.shape[:-1])
