"""Time of a collective over mesh axes laid on a torus.

Every collective is linear in its bytes: ``seconds = latency + bytes * seconds_per_byte``. With D the bytes
per chip (all-gather: output; reduce-scatter, all-reduce, all-to-all: input; permute: sent), n the chips of a
group and W the bandwidth into one chip:

* all-gather, reduce-scatter: ``D (n-1)/n / W`` (arXiv:2211.05102, App. A.1); all-reduce is both in turn.
* all-to-all: bounded by the bisection. Over k chips of a line, ``floor(k^2/4)/k D`` bytes cross the middle
  link; a ring has two middles and half of that on each. Several torus dims are used at once, so the slowest
  dim decides. For a ring this is 1/4 of the all-gather of the same array, as in the scaling book.
* ragged all-to-all: an all-to-all of the D bytes that a chip really sends. The caller counts them, and the
  receivers are taken to get equal parts; where some get more, it takes longer.
* collective-permute: each chip sends D to its neighbour on each axis; the slowest axis decides.

Bandwidth. The paper divides by one number (270e9 B/s for v4), the sum of all six links; here W is the sum
over the torus dims that the group spans: two links per dim that is a ring, one link per dim that is a line
(its end chips have only one). One ring through all chips of a group keeps two links of each busy; links
beyond these two need several rings at once, which published collectives reach only in part: they count by
``joint_dim_fraction`` (see the chip table). Dims of very different bandwidth cannot all be kept busy: for
every set S of dims, the n/n_S chips that agree in S lack ``D (1 - 1/n_S)`` between them, which must come
over their links in S, so the time is at least ``D (1 - 1/n_S) / (n/n_S W_S)``. Mixing the orders in which
dims are gathered reaches the largest of these bounds. Parts of a torus dim:

* axes of one dim that continue each other act as one axis; otherwise they take turns, least bandwidth first;
* neighbours at stride s are s links apart, and s interleaved groups share every link: W is divided by s;
* a ring stays a ring for an axis of any stride that goes all the way around; a shorter axis is a line.

Behind a switch every group has one chip's full bandwidth. Over the data-center network each chip has its
share of its host's bandwidth, since the chips of a host run the same collective at once, each in a group of
its own. With other axes the collective is hierarchical and its stages add up: for all-gather, reduce-scatter
and all-reduce the chips of a slice share what crosses, 1/n_ici of D each (scatter in the slice, cross, gather
in the slice); of an all-to-all everything for other slices crosses; a permute crosses and needs no stage in
the slice. GPUs of several NVLink domains are such slices.

Latency is ``collective_base_seconds + hop_seconds * hops``. Hops are the links that the last byte passes:
``s (k-1)`` on a line, ``s floor(k/2)`` on a ring, summed over torus dims, twice for all-reduce, 1 behind a
switch. What the TPU compiler makes of a collective is in `autoshard.cost.compiler_habits`.
"""

import enum
import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import overload

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.torus import DCN_DIM, MeshAxis, TorusMesh

_RING_LINKS = 2.0
"""Links of a chip that one ring in both directions uses."""

Floats = npt.NDArray[np.float64]
Axes = tuple[int, ...]


class Kind(enum.StrEnum):
    """The collectives that plans use."""

    ALL_GATHER = "all-gather"
    REDUCE_SCATTER = "reduce-scatter"
    ALL_REDUCE = "all-reduce"
    ALL_TO_ALL = "all-to-all"
    RAGGED_ALL_TO_ALL = "ragged-all-to-all"
    COLLECTIVE_PERMUTE = "collective-permute"


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a plan.

    Attributes:
        kind: Which.
        axes: Names of the mesh axes over which it runs.
        bytes_per_chip: All-gather: output; reduce-scatter, all-reduce, all-to-alls: input; permute: sent.
        seconds: Its time when nothing else uses the links.
    """

    kind: Kind
    axes: tuple[str, ...]
    bytes_per_chip: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Law:
    """A time linear in bytes: ``latency_seconds + bytes * seconds_per_byte``."""

    latency_seconds: float
    seconds_per_byte: float


_NOTHING = Law(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Axes of one torus dim that act as one: k chips at a stride, on a ring or a line."""

    size: int
    stride: int
    ring: bool

    @property
    def links(self) -> float:
        """Links into one chip that are its group's alone."""
        return (2.0 if self.ring else 1.0) / self.stride

    @property
    def hops(self) -> int:
        """Links that the last byte passes."""
        return self.stride * (self.size // 2 if self.ring else self.size - 1)

    @property
    def crossing(self) -> float:
        """Share of a chip's bytes that one middle link carries in an all-to-all."""
        return self.size**2 // 4 / self.size * self.stride / (2.0 if self.ring else 1.0)


@overload
def collective_seconds(kind: Kind, bytes_per_chip: float, axes: Axes, mesh: TorusMesh) -> float: ...
@overload
def collective_seconds(kind: Kind, bytes_per_chip: Floats, axes: Axes, mesh: TorusMesh) -> Floats: ...
def collective_seconds(
    kind: Kind, bytes_per_chip: float | Floats, axes: Axes, mesh: TorusMesh
) -> float | Floats:
    """Time of one collective when nothing else uses the links.

    Args:
        kind: Which collective.
        bytes_per_chip: All-gather: output; reduce-scatter, all-reduce, all-to-alls: input; permute: sent.
        axes: Indices in ``mesh.axes``; all of them form one group. No axes, or axes of size 1, cost nothing.
        mesh: The mesh.

    Returns:
        Seconds, of the shape of ``bytes_per_chip``.
    """
    law = collective_law(kind, axes, mesh)
    return law.latency_seconds + bytes_per_chip * law.seconds_per_byte


@cache
def collective_law(kind: Kind, axes: Axes, mesh: TorusMesh) -> Law:
    """The linear law of a collective over some axes, see `collective_seconds`."""
    on_slice, across = stage_laws(kind, axes, mesh)
    return Law(
        on_slice.latency_seconds + across.latency_seconds, on_slice.seconds_per_byte + across.seconds_per_byte
    )


@cache
def stage_laws(kind: Kind, axes: Axes, mesh: TorusMesh) -> tuple[Law, Law]:
    """The stages of a collective, which add up to `collective_law`: in each slice, and between slices."""
    kind = Kind.ALL_TO_ALL if kind is Kind.RAGGED_ALL_TO_ALL else kind
    used = [mesh.axes[i] for i in axes if mesh.axes[i].size > 1]
    in_slice = [axis for axis in used if axis.torus_dim != DCN_DIM]
    n_chips = math.prod(axis.size for axis in in_slice)
    n_slices = math.prod(axis.size for axis in used) // n_chips
    chip = mesh.slice.chip
    across = _dcn_law(kind, n_slices, n_chips, chip) if n_slices > 1 else _NOTHING
    if n_slices > 1 and kind is Kind.COLLECTIVE_PERMUTE:
        return _NOTHING, across
    return _ici_law(kind, _segments(in_slice, mesh), chip), across


def _segments(axes: list[MeshAxis], mesh: TorusMesh) -> list[list[_Segment]]:
    """The segments of each torus dim that the axes use."""
    dims = sorted({axis.torus_dim for axis in axes})
    return [_dim_segments([axis for axis in axes if axis.torus_dim == dim], mesh) for dim in dims]


def _dim_segments(axes: list[MeshAxis], mesh: TorusMesh) -> list[_Segment]:
    """The axes of one torus dim, those that continue each other joined."""
    dim = axes[0].torus_dim
    if mesh.slice.chip.wrap_rule == "switch":
        return [_Segment(math.prod(axis.size for axis in axes), 1, False)]
    joined: list[tuple[int, int]] = []
    for axis in sorted(axes, key=lambda axis: axis.stride):
        if joined and joined[-1][0] * joined[-1][1] == axis.stride:
            joined[-1] = (joined[-1][0] * axis.size, joined[-1][1])
        else:
            joined.append((axis.size, axis.stride))
    wraps, around = mesh.slice.wraps[dim], mesh.slice.topology[dim]
    return [_Segment(size, stride, wraps and size * stride == around) for size, stride in joined]


def _ici_law(kind: Kind, dims: list[list[_Segment]], chip: Chip) -> Law:
    if not dims:
        return _NOTHING
    switched = chip.wrap_rule == "switch"
    per_link = _switched_load(kind, dims) if switched else _torus_load(kind, dims, chip.joint_dim_fraction)
    hops = 1 if switched else sum(segment.hops for segments in dims for segment in segments)
    rounds = 2 if kind is Kind.ALL_REDUCE else 1
    latency_seconds = chip.collective_base_seconds + chip.hop_seconds * hops * rounds
    return Law(latency_seconds, per_link / chip.link_bytes_per_second)


def _torus_load(kind: Kind, dims: list[list[_Segment]], joint_dim_fraction: float) -> float:
    """Bytes that the busiest link carries, per byte of the collective."""
    if kind is Kind.ALL_TO_ALL:
        return max(sum(segment.crossing for segment in segments) for segments in dims)
    if kind is Kind.COLLECTIVE_PERMUTE:
        return max(float(segment.stride) for segments in dims for segment in segments)
    sizes_and_links = [(_n_chips(segments), _dim_links(segments)) for segments in dims]
    return (2 if kind is Kind.ALL_REDUCE else 1) * _gather_load(sizes_and_links, joint_dim_fraction)


def _gather_load(dims: list[tuple[int, float]], joint_dim_fraction: float) -> float:
    """The all-gather's bound of every set of torus dims, each a number of chips and links into a chip."""
    n_chips = math.prod(size for size, _ in dims)
    sets = (some for count in range(1, len(dims) + 1) for some in itertools.combinations(dims, count))
    return max(_cut_load(n_chips, some, joint_dim_fraction) for some in sets)


def _cut_load(n_chips: int, dims: tuple[tuple[int, float], ...], joint_dim_fraction: float) -> float:
    """Share of D that each of the dims' links carries at least."""
    size = math.prod(size for size, _ in dims)
    links = sum(links for _, links in dims)
    in_ring = min(links, _RING_LINKS)
    return (size - 1) / n_chips / (in_ring + joint_dim_fraction * (links - in_ring))


def _n_chips(segments: list[_Segment]) -> int:
    return math.prod(segment.size for segment in segments)


def _dim_links(segments: list[_Segment]) -> float:
    """Links of one torus dim into a chip; segments that take turns gather least bandwidth first."""
    n_chips = _n_chips(segments)
    per_link, gathered = 0.0, 1
    for segment in sorted(segments, key=lambda segment: segment.links):
        per_link += gathered * (segment.size - 1) / n_chips / segment.links
        gathered *= segment.size
    return (n_chips - 1) / n_chips / per_link


def _switched_load(kind: Kind, dims: list[list[_Segment]]) -> float:
    """Bytes that one chip's port carries, per byte of the collective."""
    n_chips = dims[0][0].size
    if kind is Kind.COLLECTIVE_PERMUTE:
        return 1.0
    return (2 if kind is Kind.ALL_REDUCE else 1) * (n_chips - 1) / n_chips


def _dcn_law(kind: Kind, n_slices: int, n_chips: int, chip: Chip) -> Law:
    """The stage between slices of a collective over n_slices groups of n_chips."""
    through = (n_slices - 1) / n_slices
    share = {
        Kind.ALL_GATHER: through / n_chips,
        Kind.REDUCE_SCATTER: through / n_chips,
        Kind.ALL_REDUCE: 2 * through / n_chips,
        Kind.ALL_TO_ALL: through,
        Kind.COLLECTIVE_PERMUTE: 1.0,
    }[kind]
    return Law(chip.dcn_base_seconds, share / chip.dcn_bytes_per_second)
