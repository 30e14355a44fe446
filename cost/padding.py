"""Padding: what it costs to split a dim that the chips do not divide.

Of a dim of D elements over n chips every chip has a block of ``ceil(D / n)``: XLA pads the dim to
``n * ceil(D / n)``, and the last chips hold less, or nothing. 25 heads over 8 chips are 4 heads a chip: 32/25
of the work, of the bytes in memory, and of the bytes on the links. JAX wants the arguments and results of a
program to divide; what is computed within it need not.

What the TPU compiler makes of it, read out of programs that it compiled (libtpu 0.0.51, v5e:2x4 and v4:4x4x4;
25 heads over 4 and 8 chips, 48 over 64, a vocabulary of 50257 over 8, forward, backward and in a scan):

* a whole dim is sliced without communication; all-gathers and all-to-alls move padded blocks; contractions
  and reductions over a padded dim mask it, and end in the usual all-reduce;
* a reduce-scatter onto a padded dim becomes an all-reduce of the whole, and a slice;
* blocks of another length on the same dim begin at other elements: from 25 heads over 4 chips (7 each) to 8
  (4 each), from merged dims ``[1600]`` over 8 (200 each) to 25 heads of 64 over 8 (256 each), neighbours
  exchange halos in several collective-permutes; axes that come from two other dims at once are not
  exchanged at all, the whole tensor is gathered. `moves_blocks` says where;
* out of a weight or cache of a layer in a loop, whole on every chip, an even block is read in place, a padded
  one only once the whole has been copied: a weight ``[1600, 25, 64]`` over 8 chips in 26.8 us instead of 6
  for 24 heads, a cache of 6 sequences in 117 us instead of 21 for 8. Outside of a loop it is read in place: a
  table of 50257 rows takes as long as one of 50264. `cuts_whole` says where.
"""

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, UNREDUCED, Bools, Layouts, padding_of_dims
from autoshard.cost.torus import TorusMesh


def reshard_padding(
    source: Layouts, target: Layouts, shape: tuple[int, ...], mesh: TorusMesh
) -> npt.NDArray[np.float64] | None:
    """How many times a tensor's bytes its reshards move: both layouts' paddings at once.

    A sum that is scattered onto a padded dim is all-reduced as it is.

    Args:
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        shape: Sizes of the tensor's dims; left empty, nothing is padded.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J]``, at least 1; None where every layout divides every dim.
    """
    before, after = padding_of_dims(source, shape, mesh), padding_of_dims(target, shape, mesh)
    if not (before > 1).any() and not (after > 1).any():
        return None
    whole = scattered_onto_padding(source, target, shape, mesh)
    ratio = np.ones((len(source), len(target)))
    for dim in range(len(shape)):
        padded = np.maximum(before[:, dim][:, None], after[:, dim][None, :])
        ratio *= np.where(whole[:, :, dim], before[:, dim][:, None], padded)
    return ratio


def scattered_onto_padding(
    source: Layouts, target: Layouts, shape: tuple[int, ...], mesh: TorusMesh
) -> Bools:
    """Which reshards scatter a sum onto a dim that has to be padded.

    Args:
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J, rank]``.
    """
    onto = np.zeros((len(source), len(target), len(shape)), dtype=np.bool_)
    padded = padding_of_dims(target, shape, mesh) > 1
    for dim in np.flatnonzero(padded.any(axis=0)):
        summed = (source == UNREDUCED)[:, None, :] & (target == dim)[None, :, :]
        onto[:, :, dim] = summed.any(axis=2) & padded[:, dim]
    return onto


def moves_blocks(source: Layouts, target: Layouts, shape: tuple[int, ...], mesh: TorusMesh) -> Bools | None:
    """Which reshards the compiler does not do by one collective per change, for a dim that is padded.

    A padded dim has to be whole on one side of a reshard, or to keep its axes; and its axes have to come
    from one place, or go to one: from another dim, or from no dim.

    Args:
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J]``; None where every layout divides every dim.
    """
    before, after = padding_of_dims(source, shape, mesh) > 1, padding_of_dims(target, shape, mesh) > 1
    if not before.any() and not after.any():
        return None
    moved = np.zeros((len(source), len(target)), dtype=np.bool_)
    closed = np.where(source == UNREDUCED, np.int8(REPLICATED), source)
    for dim in np.flatnonzero(before.any(axis=0) | after.any(axis=0)):
        padded = before[:, dim][:, None] | after[:, dim][None, :]
        moved |= padded & _rearranges(closed, target, int(dim))
    return moved


def cuts_whole(source: Layouts, target: Layouts, shape: tuple[int, ...], mesh: TorusMesh) -> Bools | None:
    """Which reshards cut blocks of a padded dim out of a tensor that is whole along an axis.

    Args:
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        shape: Sizes of the tensor's dims.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J]``; None where every layout divides every dim.
    """
    padded = padding_of_dims(target, shape, mesh) > 1
    if not padded.any():
        return None
    cut = np.zeros((len(source), len(target)), dtype=np.bool_)
    for dim in np.flatnonzero(padded.any(axis=0)):
        whole = (source == REPLICATED)[:, None, :] & (target == dim)[None, :, :]
        cut |= whole.any(axis=2) & padded[:, dim]
    return cut


def _rearranges(source: Layouts, target: Layouts, dim: int) -> Bools:
    """[K, J] whether a dim gets other axes than it had, or axes from or to several places."""
    had, has = source == dim, target == dim
    same = (had[:, None, :] == has[None, :, :]).all(axis=2)
    leaving = ~has.any(axis=1)[None, :] & _agree(had, target)
    arriving = ~had.any(axis=1)[:, None] & _agree(has, source).T
    rearranged: Bools = ~(same | leaving | arriving)
    return rearranged


def _agree(on_dim: Bools, others: Layouts) -> Bools:
    """[K, J] whether the axes `on_dim` [K, A] of a layout all do one thing in the other [J, A]."""
    entries = others.astype(np.int16)
    least = np.where(on_dim[:, None, :], entries[None, :, :], np.int16(127)).min(axis=2)
    most = np.where(on_dim[:, None, :], entries[None, :, :], np.int16(-127)).max(axis=2)
    agree: Bools = least >= most
    return agree
