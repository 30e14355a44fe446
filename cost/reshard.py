"""Time to bring a tensor from one layout to another.

Per mesh axis, the pair of entries says what happens (source -> target):

* the same: nothing;
* replicated -> dim: each chip keeps its slice, free;
* unreduced -> dim: reduce-scatter; unreduced -> replicated: all-reduce;
* dim i -> dim j: all-to-all; dim -> replicated: all-gather;
* anything else -> unreduced: impossible, infinite.

A sum that stays open over one axis goes as it is, or sliced: no partitioner can be told to move, gather or
close other axes of it meanwhile, so that is impossible, too.

A reduce-scatter that the compiler makes an all-reduce (`autoshard.cost.compiler_habits`) is priced as one.
What a layout pads is moved padded (`autoshard.cost.padding`).

Axes with the same transition act together as one collective and use the links of all their torus dims, but
what is gathered from several dims is gathered dim by dim, those split over the fewest axes first: the TPU
compiler has no all-gather of two dims. The stages run in the order reduce-scatter, all-reduce, slice,
all-to-all, all-gather. All stages are linear in the tensor's bytes, so a
pair of layouts has one linear law (`reshard_law`), which does not depend on the tensor and can be kept. But
for gathers of several dims it depends only on the transition of each axis, so the laws of a mesh are one
table. A layout does not say in which order several axes split one dim; a reshard that would have to change
that order is priced as if it had not to.
"""

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Collective, Floats, Kind, collective_law, collective_seconds
from autoshard.cost.compiler_habits import all_reduced_scatters
from autoshard.cost.errors import LayoutError
from autoshard.cost.layouts import REPLICATED, UNREDUCED, Bools, Layouts
from autoshard.cost.padding import reshard_padding, scattered_onto_padding
from autoshard.cost.torus import TorusMesh


class _Change(enum.IntEnum):
    """What a reshard does on one mesh axis: an octal digit of the table's index."""

    NOTHING = 0  # stays replicated or unreduced
    KEEP = 1  # stays sharded
    SLICE = 2
    REDUCE_SCATTER = 3
    ALL_REDUCE = 4
    ALL_TO_ALL = 5
    ALL_GATHER = 6
    IMPOSSIBLE = 7


_STAGES = {
    _Change.REDUCE_SCATTER: Kind.REDUCE_SCATTER,
    _Change.ALL_REDUCE: Kind.ALL_REDUCE,
    _Change.ALL_TO_ALL: Kind.ALL_TO_ALL,
    _Change.ALL_GATHER: Kind.ALL_GATHER,
}


@dataclass(frozen=True, slots=True)
class ReshardLaw:
    """``latency_seconds + nbytes * seconds_per_byte`` of each pair of layouts, nbytes of the whole tensor.

    Attributes:
        latency_seconds: ``[K, J]``; infinite where the reshard is impossible.
        seconds_per_byte: ``[K, J]``.
    """

    latency_seconds: Floats
    seconds_per_byte: Floats

    def seconds(self, nbytes: float | Floats) -> Floats:
        """``[K, J]`` seconds for a tensor of that many bytes in all, padding included."""
        return self.latency_seconds + nbytes * self.seconds_per_byte


def reshard_seconds(
    source: Layouts, target: Layouts, nbytes: float, mesh: TorusMesh, shape: tuple[int, ...] = ()
) -> Floats:
    """Time of every reshard from one of K layouts to one of J.

    Args:
        source: ``[K, A]``.
        target: ``[J, A]``.
        nbytes: Bytes of the whole tensor, not of a shard.
        mesh: The mesh of A axes.
        shape: Sizes of the tensor's dims; left out, nothing is known of how it falls into tiles and blocks.

    Returns:
        ``[K, J]`` seconds, infinite where an axis that is not unreduced would have to become so.
    """
    padding = reshard_padding(source, target, shape, mesh)
    moved = nbytes if padding is None else nbytes * padding
    seconds = reshard_law(source, target, mesh).seconds(moved)
    reduced = _all_reduced(source, target, shape, _itemsize(nbytes, shape), mesh)
    if not reduced.any():
        return seconds
    return np.where(reduced, reshard_law(source, target, mesh, Kind.ALL_REDUCE).seconds(moved), seconds)


def reshard_law(
    source: Layouts, target: Layouts, mesh: TorusMesh, scatter: Kind = Kind.REDUCE_SCATTER
) -> ReshardLaw:
    """The linear laws of `reshard_seconds`, for use with tensors of many sizes.

    Args:
        source: ``[K, A]``.
        target: ``[J, A]``.
        mesh: The mesh of A axes.
        scatter: What a reduce-scatter is compiled as (`autoshard.cost.compiler_habits`).
    """
    changes = _changes(1 + max(int(source.max(initial=-1)), int(target.max(initial=-1))))
    before, after = source.astype(np.intp) - UNREDUCED, target.astype(np.intp) - UNREDUCED
    index = np.zeros((len(source), len(target)), dtype=np.intp)
    for axis in range(len(mesh.axes)):
        index += changes[before[:, axis]][:, after[:, axis]] << (3 * axis)
    table = _table(mesh, scatter)
    latency, per_byte = _several_gathers(source, target, mesh)
    latency[_changes_while_open(source, target)] = np.inf
    return ReshardLaw(
        table.latency_seconds.take(index) + latency, table.seconds_per_byte.take(index) + per_byte
    )


def reshard_collectives(
    source: Layouts, target: Layouts, nbytes: float, mesh: TorusMesh, shape: tuple[int, ...] = ()
) -> tuple[Collective, ...]:
    """The collectives of one reshard, in order.

    Args:
        source: ``[A]``.
        target: ``[A]``.
        nbytes: Bytes of the whole tensor, not of a shard.
        mesh: The mesh of A axes.
        shape: As in `reshard_seconds`.

    Returns:
        One collective per stage that moves bytes; their seconds add up to `reshard_seconds`.

    Raises:
        LayoutError: If an axis that is not unreduced would have to become so.
    """
    changes = [_change(int(before), int(after)) for before, after in zip(source, target, strict=True)]
    if _Change.IMPOSSIBLE in changes:
        axis = mesh.names[changes.index(_Change.IMPOSSIBLE)]
        raise LayoutError(
            f"mesh axis {axis!r} cannot become unreduced: only an einsum leaves partial sums; expected a "
            "target that shards or replicates the axis, or a source that is unreduced over it"
        )
    if _changes_while_open(source[None], target[None]).any():
        raise LayoutError(
            "a sum that stays open cannot be moved, gathered or partly summed meanwhile; expected a target "
            "that closes it whole, or one that only slices it"
        )
    sharded = [axis for axis, before in enumerate(source) if before >= 0]
    padding = reshard_padding(source[None], target[None], shape, mesh)
    local = nbytes / _size(sharded, mesh) * (1.0 if padding is None else float(padding[0, 0]))
    itemsize = _itemsize(nbytes, shape)
    all_reduced = _all_reduced(source[None], target[None], shape, itemsize, mesh)[0, 0]
    collectives = []
    for kind, axes in _steps(source, changes, mesh):
        if kind is None:
            local /= _size(axes, mesh)
            continue
        local = local * _size(axes, mesh) if kind is Kind.ALL_GATHER else local
        names = tuple(mesh.names[axis] for axis in axes)
        compiled = Kind.ALL_REDUCE if kind is Kind.REDUCE_SCATTER and all_reduced else kind
        seconds = collective_seconds(compiled, local, axes, mesh)
        collectives.append(Collective(compiled, names, local, seconds))
        local = local / _size(axes, mesh) if kind is Kind.REDUCE_SCATTER else local
    return tuple(collectives)


def _changes_while_open(source: Layouts, target: Layouts) -> Bools:
    """``[K, J]`` whether a sum stays open over one axis while another is moved, gathered or summed over."""
    changes = np.zeros((len(source), len(target)), dtype=np.bool_)
    rows, columns = ((each == UNREDUCED).any(axis=1) for each in (source, target))
    before, after = source[rows][:, None, :], target[columns][None, :, :]
    stays = ((before == UNREDUCED) & (after == UNREDUCED)).any(axis=2)
    changes[np.ix_(rows, columns)] = stays & ((before != REPLICATED) & (before != after)).any(axis=2)
    return changes


def _all_reduced(
    source: Layouts, target: Layouts, shape: tuple[int, ...], itemsize: int, mesh: TorusMesh
) -> Bools:
    """[K, J] which reshards have a reduce-scatter that is compiled as an all-reduce."""
    padded = scattered_onto_padding(source, target, shape, mesh).any(axis=2)
    habit: Bools = all_reduced_scatters(source, target, shape, itemsize, mesh) | padded
    return habit


def _steps(
    source: Layouts, changes: Sequence[_Change], mesh: TorusMesh
) -> Iterator[tuple[Kind | None, tuple[int, ...]]]:
    """The stages, each with its axes; slicing is no collective, so of no kind."""
    wide = [axis for axis, size in enumerate(mesh.shape) if size > 1]
    axes_of = {change: tuple(axis for axis in wide if changes[axis] is change) for change in _Change}
    for change in _STAGES:
        if axes_of[change] and change is not _Change.ALL_GATHER:
            yield _STAGES[change], axes_of[change]
        if change is _Change.ALL_REDUCE:
            yield None, axes_of[_Change.SLICE]
    yield from _gathers(source, axes_of[_Change.ALL_GATHER], mesh)


def _gathers(
    source: Layouts, gathered: Sequence[int], mesh: TorusMesh
) -> Iterator[tuple[Kind, tuple[int, ...]]]:
    """One gather per dim, each with its axes."""
    per_dim: dict[int, list[int]] = {}
    for axis in gathered:
        if mesh.shape[axis] > 1:
            per_dim.setdefault(int(source[axis]), []).append(axis)
    for _, axes in sorted(per_dim.items(), key=lambda item: (len(item[1]), item[0])):
        yield Kind.ALL_GATHER, tuple(axes)


def _change(before: int, after: int) -> _Change:
    if before == after:
        return _Change.KEEP if before >= 0 else _Change.NOTHING
    if after == UNREDUCED:
        return _Change.IMPOSSIBLE
    if before == REPLICATED:
        return _Change.SLICE
    if before == UNREDUCED:
        return _Change.ALL_REDUCE if after == REPLICATED else _Change.REDUCE_SCATTER
    return _Change.ALL_GATHER if after == REPLICATED else _Change.ALL_TO_ALL


@cache
def _changes(rank: int) -> npt.NDArray[np.intp]:
    """The change between any two entries of layouts of up to rank dims, counted from `UNREDUCED`."""
    entries = range(UNREDUCED, rank)
    return np.array([[_change(before, after) for after in entries] for before in entries], dtype=np.intp)


@lru_cache(maxsize=256)
def _table(mesh: TorusMesh, scatter: Kind) -> ReshardLaw:
    """The laws of a mesh by the changes of its axes, ``[8**A]``, axis a being octal digit a."""
    n_axes = len(mesh.axes)
    digits = np.arange(8**n_axes)[:, None] >> 3 * np.arange(n_axes) & 7
    subsets = [_bits(mask) for mask in range(1 << n_axes)]
    n_chips = np.array([_size(axes, mesh) for axes in subsets], dtype=np.float64)
    changed = {change: (digits == change) @ (1 << np.arange(n_axes)) for change in _Change}
    share = 1.0 / n_chips[changed[_Change.KEEP]]  # of the tensor, on each chip
    share /= np.prod([n_chips[changed[c]] for c in (_Change.ALL_TO_ALL, _Change.ALL_GATHER)], axis=0)
    latency = np.where(changed[_Change.IMPOSSIBLE] > 0, np.inf, 0.0)
    per_byte = np.zeros_like(latency)
    for change, kind in _STAGES.items():
        compiled = scatter if kind is Kind.REDUCE_SCATTER else kind
        laws = [collective_law(compiled, axes, mesh) for axes in subsets]
        axes = changed[change]
        share = share * n_chips[axes] if kind is Kind.ALL_GATHER else share
        latency += np.array([law.latency_seconds for law in laws])[axes]
        per_byte += share * np.array([law.seconds_per_byte for law in laws])[axes]
        share = share / n_chips[axes] if kind is Kind.REDUCE_SCATTER else share
        share = share / n_chips[changed[_Change.SLICE]] if kind is Kind.ALL_REDUCE else share
    return ReshardLaw(latency, per_byte)


def _several_gathers(source: Layouts, target: Layouts, mesh: TorusMesh) -> tuple[Floats, Floats]:
    """[K, J] latency and time per byte to add where several dims are gathered: the table has one gather."""
    latency, per_byte = np.zeros((2, len(source), len(target)))
    wide = [axis for axis, size in enumerate(mesh.shape) if size > 1]
    kept = 1.0 / np.where(target >= 0, np.array(mesh.shape, dtype=np.float64), 1.0).prod(axis=1)
    for row, before in enumerate(source):
        split = [axis for axis in wide if before[axis] >= 0]
        if len({int(before[axis]) for axis in split}) < 2:
            continue
        gathered = (target[:, split] == REPLICATED) @ (1 << np.array(split, dtype=np.intp))
        more_latency, more_per_byte = _differences(tuple(before.tolist()), mesh)
        latency[row], per_byte[row] = more_latency[gathered], more_per_byte[gathered] * kept
    return latency, per_byte


@lru_cache(maxsize=4096)
def _differences(before: tuple[int, ...], mesh: TorusMesh) -> tuple[Floats, Floats]:
    """`_gather_difference` for each set of axes, as bits, that are gathered of a layout; 0 for one step."""
    latency, per_byte = np.zeros((2, 1 << len(before)))
    split = [axis for axis, dim in enumerate(before) if dim >= 0]
    layout = np.array(before, dtype=np.int8)
    for mask in range(len(latency)):
        if all(axis in split for axis in _bits(mask)):
            steps = tuple(axes for _, axes in _gathers(layout, _bits(mask), mesh))
            if len(steps) > 1:
                latency[mask], per_byte[mask] = _gather_difference(steps, mesh)
    return latency, per_byte


@lru_cache(maxsize=4096)
def _gather_difference(steps: tuple[tuple[int, ...], ...], mesh: TorusMesh) -> tuple[float, float]:
    """How much more latency, and time per byte that is gathered in the end, steps take than one gather."""
    joint = collective_law(Kind.ALL_GATHER, tuple(sorted(axis for axes in steps for axis in axes)), mesh)
    latency, per_byte, share = -joint.latency_seconds, -joint.seconds_per_byte, 1.0
    for axes in reversed(steps):
        law = collective_law(Kind.ALL_GATHER, axes, mesh)
        latency += law.latency_seconds
        per_byte += share * law.seconds_per_byte
        share /= _size(axes, mesh)
    return latency, per_byte


def _itemsize(nbytes: float, shape: tuple[int, ...]) -> int:
    return round(nbytes / math.prod(shape)) if math.prod(shape) else 0


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def _size(axes: tuple[int, ...] | list[int], mesh: TorusMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)
