"""Time of a compiled collective-permute: pairs are routed over the torus, and the busiest link decides.

A permute that the compiler inserts need not be one step along a mesh axis: reordering the axes of a sharded
dim moves shards between far chips. Each pair is routed dim by dim, x first, the shorter way round a ring; a
link in one direction carries the bytes of every pair routed over it: ``seconds = base + hop * longest + bytes
* load / link bandwidth``. Pairs in different slices go through the data-center network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoshard.cost.torus import TorusMesh
from autoshard.topology import chip_coordinates

Link = tuple[int, int]
"""A torus dim (-1: DCN) and a direction, +1 or -1."""

_Ints = np.ndarray[Any, np.dtype[np.int64]]


def permute_seconds(
    pairs: Sequence[tuple[int, int]], bytes_per_chip: float, mesh: TorusMesh
) -> tuple[float, frozenset[Link]]:
    """Return the seconds of a permute when nothing else uses the links, and the links' dims and directions.

    Args:
        pairs: (source, target) places in the mesh; a pair of equals moves nothing.
        bytes_per_chip: bytes that each source sends.
        mesh: the mesh whose k-th place is partition k.
    """
    chip = mesh.slice.chip
    coordinates = chip_coordinates(mesh.axes).reshape(4, -1)
    sources, targets = (coordinates[:, ids] for ids in np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T)
    if (sources == targets).all():
        return 0.0, frozenset()
    if (sources[0] != targets[0]).any():
        return chip.dcn_base_seconds + bytes_per_chip / chip.dcn_bytes_per_second, frozenset(
            {(-1, 1), (-1, -1)}
        )
    load, longest, links = _route(sources[1:], targets[1:], mesh)
    if chip.wrap_rule == "switch":
        load, longest = 1, 1
    seconds = chip.collective_base_seconds + chip.hop_seconds * longest
    return seconds + bytes_per_chip * load / chip.link_bytes_per_second, links


def _route(sources: _Ints, targets: _Ints, mesh: TorusMesh) -> tuple[int, int, frozenset[Link]]:
    """Return the pairs over the busiest link, the hops of the longest route, and the directions used."""
    place, load, links = sources.copy(), 0, set[Link]()
    hops = np.zeros(place.shape[1], dtype=np.int64)
    for dim, (size, wraps) in enumerate(zip(mesh.slice.topology, mesh.slice.wraps, strict=True)):
        steps = _steps(targets[dim] - place[dim], size, wraps)
        hops += np.abs(steps)
        for sign in (1, -1):
            busiest = _busiest(place, dim, np.clip(steps * sign, 0, None), sign, mesh.slice.topology)
            load = max(load, busiest)
            links |= {(dim, sign)} if busiest else set()
        place[dim] = targets[dim]
    return load, int(hops.max()), frozenset(links)


def _steps(distance: _Ints, size: int, wraps: bool) -> _Ints:
    if not wraps:
        return distance
    around = distance % size
    return np.where(around * 2 > size, around - size, around)


def _busiest(place: _Ints, dim: int, steps: _Ints, sign: int, topology: Sequence[int]) -> int:
    """Return how many routes share the busiest link along one dim in one direction."""
    sizes = (*topology, 1, 1)[:3]
    carried = np.zeros(sizes, dtype=np.int64)
    for step in range(int(steps.max(initial=0))):
        moving = steps > step
        at = [place[other][moving] for other in range(3)]
        at[dim] = (at[dim] + sign * step) % topology[dim]
        np.add.at(carried, tuple(at), 1)
    return int(carried.max())
