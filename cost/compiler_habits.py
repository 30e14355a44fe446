"""What the TPU compiler makes of a collective that it was asked for, where that changes the bytes.

All of it was read out of programs that libtpu 0.0.42.1 compiled.

A scatter whose tiles do not come out even. The TPU keeps 16-bit values in tiles of 128 lanes, in pairs. A
reduce-scatter over the minor dim of bfloat16 stays one where each shard is a multiple of 256; where it is an
odd multiple of 128 (128, 384, 640, 1152) the compiler all-reduces the whole tensor and takes a slice: twice
the bytes. A shard that is no multiple of 128 is scattered, after that dim is made the second minor one.
float32 is always scattered. Tried: ``[512, K_x] x [K_x, E] -> [512, E_x]`` on 4 chips of v4, v5e, v5p and
v6e, all alike. Not in the rule: shards of the second minor dim of bfloat16 have to be a multiple of 16 in the
same way, and tensors of a few KiB are always all-reduced. A scatter onto a dim that has to be padded, of any
type, is an all-reduce of the whole as well: 25 heads over 4 and 8 chips of v5e, a vocabulary of 50257 over 8.

A gather of two dims at once. Where one constraint asks for a weight whole that is sharded over two of its
dims, the compiler gathers the shards as a list and puts them in order by copies that take longer than the
gather; from 64 chips on it writes its shard into zeros and all-reduces them, twice the bytes. Asked dim by
dim it gathers, without copies, and dim by dim is how the search asks. Tried: bfloat16 ``[4096, 4096]`` on 4
to 64 chips of v4 and on 64 of v5p, with and without a scan around it.
"""

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.layouts import REPLICATED, UNREDUCED, Bools, Layouts, padding_of_dims
from autoshard.cost.torus import TorusMesh

_LANES = 128
_PACKED_BYTES = 2


def scatter_becomes_all_reduce(
    minor_shard_elements: int | npt.NDArray[np.int64], itemsize: int, chip: Chip
) -> Bools:
    """Whether a reduce-scatter over the minor dim is compiled as an all-reduce of the whole.

    Args:
        minor_shard_elements: Size of the minor dim on one chip once it is scattered; any shape.
        itemsize: Bytes of an element of what is reduced.
        chip: The chip; only TPU compilers have the habit.

    Returns:
        Of the shape of `minor_shard_elements`: whether that is an odd number of whole tiles, in pairs.
    """
    tiles, rest = np.divmod(np.asarray(minor_shard_elements, dtype=np.int64), _LANES)
    odd: Bools = (rest == 0) & (tiles % 2 == 1)
    return odd & _packs(itemsize, chip)


def all_reduced_scatters(
    source: Layouts, target: Layouts, shape: tuple[int, ...], itemsize: int, mesh: TorusMesh
) -> Bools:
    """Which reshards have a reduce-scatter that is compiled as an all-reduce: see the module's text.

    A scatter comes before axes move or are gathered (`autoshard.cost.reshard`): the minor dim is then split
    by the axes that split it before, and by those that are scattered or sliced onto it.

    Args:
        source: ``[K, A]`` layouts before.
        target: ``[J, A]`` layouts after.
        shape: Sizes of the tensor's dims.
        itemsize: Bytes of an element.
        mesh: The mesh of A axes.

    Returns:
        ``[K, J]``.
    """
    minor = len(shape) - 1
    padded = scattered_onto_padding(source, target, shape, mesh)
    scattered = np.zeros((len(source), len(target)), dtype=np.bool_)
    if minor < 0 or not _packs(itemsize, mesh.slice.chip):
        return np.asarray(padded.any(axis=2))
    shards = np.ones(scattered.shape, dtype=np.int64)
    for axis, size in enumerate(mesh.shape):
        before, after = source[:, axis][:, None], target[:, axis][None, :]
        onto = after == minor
        scattered |= (before == UNREDUCED) & onto
        splits = (before == minor) | onto & ((before == UNREDUCED) | (before == REPLICATED))
        shards *= np.where(splits, size, 1)
    odd = scattered & scatter_becomes_all_reduce(shape[minor] // shards, itemsize, mesh.slice.chip)
    return odd | padded.any(axis=2)


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


def _packs(itemsize: int, chip: Chip) -> bool:
    """Whether a compiler puts elements of that size into tiles in pairs."""
    return chip.kind == "tpu" and itemsize == _PACKED_BYTES
