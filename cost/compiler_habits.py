"""What the TPU compiler makes of a collective that it was asked for, where that changes the bytes.

All of it was read out of programs that libtpu 0.0.42.1 compiled.

A scatter whose tiles do not come out even. The TPU keeps arrays in tiles of 128 lanes along the minor dim,
16-bit values in pairs. A reduce-scatter over the minor dim of bfloat16 stays one where each shard is a
multiple of 256; where it is an odd multiple of 128 (128, 384, 640, 1152) the compiler all-reduces the whole
tensor and takes a slice: twice the bytes. A shard that is no multiple of 128 is scattered if another dim is
a better minor one, which is then moved there: where that dim, rounded up to lanes, grows by less than the
shard does. Where none is better, as with 64 sequences and shards of 288 (128 / 64 > 384 / 288), all is
all-reduced. Tried: ``[B, K_x] x [K_x, E] -> [B, E_x]`` on 4 chips of v4, v5e, v5p and v6e, all alike,
float32 like bfloat16 but for the pairs.

Tiles have 8 rows, 16 for packed values, along the second minor dim. That is the last of the other dims, or
one that wastes less of the rows where the last is small (of ``[64, 1, E]`` the first). Over that dim, too,
only whole tiles are scattered: shards of a multiple of 16 rows for bfloat16, of 8 for float32; and where no
other dim is left beside it, shards that fill at least two thirds of their rows, rounded up to 16. So the
residual stream of a decode step, ``[B, 1, E]``, is scattered over its sequences only if each chip gets 11 or
more. All other dims are scattered freely. Tried: 70 shapes of two to four dims on 4 chips of v4, some on v6e;
of ``[4, 4, E]`` alone the rule says what is not so. Not in the rule: tensors of a few KiB are always
all-reduced.

A scatter over all chips. Over every chip of a slice at once the compiler all-reduces and takes a slice,
whatever the shape; over all but one axis it scatters. Small slices are scattered whole: 2x2, 2x4 and 4x8.
Tried: ``[1024, K_xyz] x [K_xyz, 16384] -> [1024, 16384_xyz]`` on 11 slices of v4 and v5p from 2x2x1 to 8x8x8
and on 12 of v5e and v6e from 2x2 to 16x16; lines were not, and are taken to scatter, as are the slices of a
multislice.

A scatter beside idle mesh axes. Where an axis neither splits a tensor nor is summed over, the partitioner is
asked for the sum first and for scatters and slices after it (`autoshard.search.stages`). Mostly that stays an
all-reduce and a slice: of ``[512, 1, K_x] x [K_x, E] -> [512_x, 1, E]`` on v4:4x8x8 always, of
``[512, 64, K_x] x [K_x, 4096]`` only where something is sliced, too.

A scatter onto two dims at once is an all-reduce. Tried: ``[1024, B, K_xy] x [K_xy, 8192]`` with B 1, 8 and
16, scattered over any two dims, on v4:4x4x4, v5p:4x4x4, v5e:2x4, v5e:4x8 and v6e:4x4.

A scatter onto a dim that has to be padded is an all-reduce of the whole, see `autoshard.cost.padding`.

A gather of two dims at once. Where one constraint asks for a weight whole that is sharded over two of its
dims, the compiler gathers the shards as a list and puts them in order by copies that take longer than the
gather; from 64 chips on it writes its shard into zeros and all-reduces them, twice the bytes. Asked dim by
dim it gathers, without copies, and dim by dim is how the search asks. Tried: bfloat16 ``[4096, 4096]`` on 4
to 64 chips of v4 and on 64 of v5p, with and without a scan around it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.layouts import REPLICATED, UNREDUCED, Bools, Layouts
from autoshard.cost.tiles import LANES, ROWS, rounding_waste
from autoshard.cost.torus import TorusMesh

_PACKED_BYTES = 2
_PACKED_ROWS = 16
_MOST_ROW_WASTE = 1.5
_SCATTERED_WHOLE = frozenset({(2, 2), (2, 4), (4, 8)})
"""Topologies, dims of size 1 left out, on which a scatter over all chips stays one."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def scatter_becomes_all_reduce(
    minor_shard_elements: int | Integers, other_waste: float | Floats, itemsize: int, chip: Chip
) -> Bools:
    """Whether a reduce-scatter over the minor dim is compiled as an all-reduce of the whole.

    Args:
        minor_shard_elements: Size of the minor dim on one chip once it is scattered; any shape.
        other_waste: The least `lane_waste` of the tensor's other dims on one chip, infinite where it has
            none; any shape that broadcasts.
        itemsize: Bytes of an element of what is reduced.
        chip: The chip; only TPU compilers have the habit.

    Returns:
        Whether neither the minor dim nor another can be scattered in whole tiles; of the broadcast shape.
    """
    shard = np.asarray(minor_shard_elements, dtype=np.int64)
    tiles, rest = np.divmod(shard, LANES)
    odd: Bools = (rest == 0) & (tiles % 2 == 1) & (itemsize == _PACKED_BYTES)
    stays: Bools = (rest != 0) & (lane_waste(shard) <= np.asarray(other_waste))
    return (odd | stays) & (chip.kind == "tpu")


def lane_waste(elements: int | Integers) -> Floats:
    """How much a dim of that size grows, as a factor, when it is rounded up to lanes."""
    return rounding_waste(elements, LANES)


def all_reduced_scatters(
    source: Layouts, target: Layouts, shape: tuple[int, ...], itemsize: int, mesh: TorusMesh
) -> Bools:
    """Which reshards have a reduce-scatter that is compiled as an all-reduce.

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
    reduced = np.zeros((len(source), len(target)), dtype=np.bool_)
    if minor < 0 or mesh.slice.chip.kind != "tpu" or not (source == UNREDUCED).any():
        return reduced
    shards = _local_shape(source, target, shape, mesh)
    whole = _local_shape(source, np.full((1, source.shape[1]), REPLICATED, source.dtype), shape, mesh)
    scattered = np.zeros(reduced.shape, dtype=np.intp)
    for dim in range(len(shape)):
        onto = _scatters_onto(dim, source, target)
        if not onto.any():
            continue
        scattered += onto
        if dim == minor:
            others = np.min([lane_waste(shard) for shard in shards[:minor]], axis=0, initial=np.inf)
            habit = scatter_becomes_all_reduce(shards[minor], others, itemsize, mesh.slice.chip)
        else:
            habit = _breaks_rows(dim, shards[dim], whole[:minor], itemsize)
        reduced |= onto & habit
    reduced |= scattered > 1
    reduced |= _scatters_over_all(source, target, mesh)
    return reduced | _scatters_beside_idle_axes(source, target, mesh)


def _scatters_over_all(source: Layouts, target: Layouts, mesh: TorusMesh) -> Bools:
    """``[K, J]`` whether every chip of a slice takes part in a scatter that is then none."""
    topology = tuple(sorted(size for size in mesh.slice.topology if size > 1))
    if len(topology) < 2 or topology in _SCATTERED_WHOLE or mesh.slice.num_slices > 1:
        return np.zeros((len(source), len(target)), dtype=np.bool_)
    scattered = (source == UNREDUCED)[:, None, :] & (target >= 0)[None, :, :]
    idle = np.array(mesh.shape) == 1
    every: Bools = (scattered | idle).all(axis=2)
    return every


def _scatters_beside_idle_axes(source: Layouts, target: Layouts, mesh: TorusMesh) -> Bools:
    """``[K, J]`` whether a sum is scattered while an axis neither splits the tensor nor is summed over."""
    idle = ((source == REPLICATED) & (np.array(mesh.shape) > 1)).any(axis=1)
    scattered = ((source == UNREDUCED)[:, None, :] & (target >= 0)[None, :, :]).any(axis=2)
    beside: Bools = idle[:, None] & scattered
    return beside


def _scatters_onto(dim: int, source: Layouts, target: Layouts) -> Bools:
    """``[K, J]`` whether a mesh axis goes from partial sums to that dim."""
    onto: Bools = ((source == UNREDUCED)[:, None, :] & (target == dim)[None, :, :]).any(axis=2)
    return onto


def _breaks_rows(dim: int, shard: Integers, whole: Sequence[Integers], itemsize: int) -> Bools:
    """``[K, J]`` whether a scatter over a dim that is not the minor one leaves no whole tiles.

    Args:
        dim: Which.
        shard: ``[K, J]`` its size on one chip once it is scattered.
        whole: ``[K, 1]`` sizes of all dims but the minor one before that.
        itemsize: Bytes of an element.
    """
    sizes = np.stack(whole)
    waste = np.where(sizes > 1, rounding_waste(sizes, ROWS), np.inf)
    second = len(whole) - 1 - np.argmin(waste[::-1], axis=0)
    alone = (np.delete(sizes, dim, axis=0) == 1).all(axis=0)
    ragged = np.where(
        alone, rounding_waste(shard, _PACKED_ROWS) > _MOST_ROW_WASTE, shard % _tile_rows(itemsize) != 0
    )
    breaks: Bools = (second == dim) & ragged
    return breaks


def _tile_rows(itemsize: int) -> int:
    return _PACKED_ROWS if itemsize == _PACKED_BYTES else ROWS


def _local_shape(source: Layouts, target: Layouts, shape: tuple[int, ...], mesh: TorusMesh) -> list[Integers]:
    """``[K, J]`` sizes of each dim on one chip, after scatters and before axes move or are gathered.

    A target that is replicated gives those before the scatters.
    """
    shards = []
    for dim, elements in enumerate(shape):
        chips = np.ones((len(source), len(target)), dtype=np.int64)
        for axis, size in enumerate(mesh.shape):
            before, onto = source[:, axis][:, None], target[:, axis][None, :] == dim
            splits = (before == dim) | onto & ((before == UNREDUCED) | (before == REPLICATED))
            chips *= np.where(splits, size, 1)
        shards.append(-(-elements // chips))
    return shards
