"""Time of the collectives of a partitioned program, on the torus of the plan's mesh.

Shardy may split a mesh axis into parts (``"x":(1)2`` is the major half of x). Parts of a torus axis are
axes of their own with longer strides, so a collective over a part is priced on a mesh that has it as one. A
permute is routed chip by chip (`autoshard.permute_routing`). A reshard that Shardy left open is priced as
the collectives that `autoshard.cost.reshard` does it by; these are marked as derived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np

from autoshard.compiled.replica_groups import axes_of_groups, varying_axes
from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.compiler_habits import all_reduced_scatters
from autoshard.cost.layouts import REPLICATED, UNREDUCED, Layouts
from autoshard.cost.reshard import reshard_collectives
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.partitioner.partitioned import AxisPart, Sharding, Tensor
from autoshard.partitioner.propagation import RESHARD, Found
from autoshard.permute_routing import permute_seconds


@dataclass(frozen=True, slots=True)
class PropagatedCollective:
    """A collective of a partitioned program; bytes and seconds are for one execution, on one chip.

    Attributes:
        kind: `all-gather`, `reduce-scatter`, `all-reduce`, `all-to-all` or `collective-permute`.
        axes: the mesh axes over which it runs; a part of one as ``x:(before)size``.
        bytes_per_chip: all-gather: output; others: input.
        trips: how often it runs.
        seconds: its time when nothing else uses the links.
        op_name: path of the JAX operation, empty where unknown.
        line: ``FILE:LINE`` of the user's code, empty where unknown.
        derived: whether only the change of sharding is Shardy's, and the collective is ours.
    """

    kind: str
    axes: tuple[str, ...]
    bytes_per_chip: float
    trips: int
    seconds: float
    op_name: str
    line: str
    derived: bool = False

    @property
    def total_bytes(self) -> float:
        """Bytes per chip of all its runs."""
        return self.bytes_per_chip * self.trips


def priced(found: Sequence[Found], mesh: TorusMesh) -> tuple[PropagatedCollective, ...]:
    """Price what a partitioned program moves.

    Args:
        found: as `autoshard.partitioner.propagation.propagated` lists it.
        mesh: the mesh of the program's shardings, axes in its order.
    """
    return tuple(each for one in found for each in _priced(one, mesh))


def _priced(found: Found, mesh: TorusMesh) -> Iterator[PropagatedCollective]:
    if found.kind == RESHARD:
        yield from _derived(found, mesh)
    elif found.kind == Kind.COLLECTIVE_PERMUTE:
        pairs = found.pairs or permute_pairs(found.source, found.target, mesh)
        axes = tuple(mesh.names[axis] for axis in varying_axes(pairs, mesh)) if pairs else ()
        seconds, _ = permute_seconds(pairs, found.bytes_per_chip, mesh)
        if axes:
            yield _collective(found, found.kind, axes, found.bytes_per_chip, seconds)
    else:
        finer, names = _axes_of(found, mesh)
        kind = _compiled_kind(found, mesh)
        indices = tuple(map(finer.names.index, names))
        seconds = collective_seconds(Kind(kind), found.bytes_per_chip, indices, finer)
        yield _collective(found, kind, names, found.bytes_per_chip, seconds)


def _collective(
    found: Found, kind: str, axes: tuple[str, ...], nbytes: float, seconds: float, *, derived: bool = False
) -> PropagatedCollective:
    return PropagatedCollective(
        kind, axes, nbytes, found.trips, float(seconds), found.op_name, found.line, derived
    )


def _axes_of(found: Found, mesh: TorusMesh) -> tuple[TorusMesh, tuple[str, ...]]:
    """The mesh that has what a collective runs over as whole axes, and their names."""
    if found.groups:
        exact = axes_of_groups(found.groups, mesh)
        indices = varying_axes(found.groups, mesh) if exact is None else exact
        return mesh, tuple(mesh.names[index] for index in indices)
    finer = split_mesh(mesh, found.axes)
    covered = {name for part in found.axes for name in _covered(part, finer)}
    return finer, tuple(name for name in finer.names if name in covered)


def _compiled_kind(found: Found, mesh: TorusMesh) -> str:
    """The kind as the compiler makes it: some scatters become all-reduces."""
    if found.kind != Kind.REDUCE_SCATTER or not found.source.sharding or not found.target.sharding:
        return found.kind
    finer, (source, target) = _layouts(found, mesh)
    summed = np.where((source == REPLICATED) & (target != REPLICATED), UNREDUCED, source)
    habit = all_reduced_scatters(
        summed[None], target[None], found.source.shape, round(found.source.itemsize), finer
    )
    return Kind.ALL_REDUCE.value if habit[0, 0] else found.kind


def _derived(found: Found, mesh: TorusMesh) -> Iterator[PropagatedCollective]:
    """The collectives of a reshard, by our own rule; a new order of the axes of a dim counts as none."""
    finer, (source, target) = _layouts(found, mesh)
    nbytes = prod(found.source.shape) * found.source.itemsize
    for each in reshard_collectives(source, target, nbytes, finer, found.source.shape):
        yield _collective(found, each.kind.value, each.axes, each.bytes_per_chip, each.seconds, derived=True)


def _layouts(found: Found, mesh: TorusMesh) -> tuple[TorusMesh, tuple[Layouts, Layouts]]:
    """A mesh whose axes are split as found needs it, and the layouts before and after."""
    finer = split_mesh(mesh, [*_parts(found.source.sharding), *_parts(found.target.sharding)])
    return finer, (_layout(found.source, finer), _layout(found.target, finer))


def _parts(sharding: Sharding | None) -> list[AxisPart]:
    return [part for parts in sharding or () for part in parts]


def _layout(tensor: Tensor, finer: TorusMesh) -> Layouts:
    """Which dim each axis of the finer mesh splits."""
    layout = np.full(len(finer.axes), REPLICATED, dtype=np.int8)
    for dim, parts in enumerate(tensor.sharding or ()):
        for part in parts:
            layout[[finer.names.index(name) for name in _covered(part, finer)]] = dim
    return layout


def part_name(part: AxisPart, mesh: TorusMesh) -> str:
    """Return how a part of an axis is called: the axis' name where it is all of it."""
    whole = mesh.shape[mesh.names.index(part.name)]
    return part.name if part.size == whole else f"{part.name}:({part.before}){part.size}"


def split_mesh(mesh: TorusMesh, parts: Sequence[AxisPart]) -> TorusMesh:
    """Return the mesh in which every part begins and ends an axis."""
    axes: list[MeshAxis] = []
    for axis in mesh.axes:
        mine = [part for part in parts if part.name == axis.name]
        cuts = sorted({1, axis.size, *(p.before for p in mine), *(p.before * p.size for p in mine)})
        for before, after in pairwise(cuts):
            part = AxisPart(axis.name, before, after // before)
            stride = axis.stride * (axis.size // after)
            axes.append(MeshAxis(part_name(part, mesh), part.size, axis.torus_dim, stride))
        if axis.size == 1:
            axes.append(axis)
    return replace(mesh, axes=tuple(axes))


def _covered(part: AxisPart, finer: TorusMesh) -> list[str]:
    """Names of the axes of the finer mesh that a part consists of."""
    names, before = list[str](), 1
    for axis in finer.axes:
        if axis.name.partition(":")[0] != part.name:
            continue
        if part.before <= before < part.before * part.size or axis.size == 1:
            names.append(axis.name)
        before *= axis.size
    return names


def permute_pairs(source: Tensor, target: Tensor, mesh: TorusMesh) -> tuple[tuple[int, int], ...]:
    """Return who sends its shard to whom so that a tensor's shards go from one sharding to another.

    Chips with the same shard are matched in their order in the mesh. Nothing is returned where the two
    shardings have different numbers of shards: that is no permute.
    """
    before, after = (_shards(tensor, mesh) for tensor in (source, target))
    if sorted(before) != sorted(after):
        return ()
    senders = sorted(range(len(before)), key=lambda chip: (before[chip], chip))
    receivers = sorted(range(len(after)), key=lambda chip: (after[chip], chip))
    return tuple(zip(senders, receivers, strict=True))


def _shards(tensor: Tensor, mesh: TorusMesh) -> list[tuple[int, ...]]:
    """Which shard each chip of the mesh has, as its index along each dim."""
    places = dict(zip(mesh.names, np.indices(mesh.shape).reshape(len(mesh.shape), -1), strict=True))
    sizes = dict(zip(mesh.names, mesh.shape, strict=True))
    indices = []
    for parts in tensor.sharding or ():
        index = np.zeros(mesh.n_chips, dtype=np.int64)
        for part in parts:
            after = sizes[part.name] // (part.before * part.size)
            index = index * part.size + places[part.name] // after % part.size
        indices.append(index)
    return [tuple(int(index[chip]) for index in indices) for chip in range(mesh.n_chips)]
