"""Which chips a compiled collective joins: replica groups, and the mesh axes that they span.

XLA writes the groups of a collective in three ways, all of which list partition ids:

* ``{{0,1},{2,3}}`` plainly; ``{}`` is all partitions in one group;
* ``[4,2]<=[2,4]T(1,0)``: ids 0..7 in an array of shape [2,4], transposed by (1,0), reshaped to 4 groups of 2;
* ``mesh['a'=4,'b'=16] {'b'}``: ids in an array with named axes, grouped over the axes in braces. An axis may
  be a part of one, ``'b':(2)4``: split b into 2, 4 and the rest, and take the 4; a device order may follow
  the mesh, as a list, ``[4,2]<=[2,4]T(1,0)`` or, for short, ``[2,4]T(1,0)``.

Partition id k is the k-th device of the mesh, so groups map back to mesh axes: see `axes_of_groups`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from autoshard.cost.torus import TorusMesh
from autoshard.errors import CompileError

Groups = tuple[tuple[int, ...], ...]
_Ids = np.ndarray[Any, np.dtype[np.int64]]

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_ORDER = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\((?P<order>.*?)\))? \{(?P<grouped>[^{}]*)\}")
_MESH_AXIS = re.compile(r"'?([^',=]+)'?=(\d+)")
_GROUPED_AXIS = re.compile(r"'?(?P<name>[^',:]+)'?(?::\((?P<before>\d+)\)(?P<size>\d+))?")
_BRACES = re.compile(r"\{([\d,\s]*)\}")


def parse_groups(text: str, n_partitions: int) -> Groups:
    """Return the groups of partition ids that a `replica_groups` attribute lists.

    Args:
        text: the attribute's value, in any of the three syntaxes.
        n_partitions: partitions of the module, which an empty list stands for.

    Raises:
        CompileError: the text is in no known syntax.
    """
    text = text.strip()
    if match := _MESH.fullmatch(text):
        return _as_groups(_mesh_groups(match))
    if match := _IOTA.fullmatch(text):
        shape = _numbers(match[1])
        return _as_groups(_transposed_iota(match[2], match[3]).reshape(shape))
    if text.startswith("{"):
        groups = tuple(tuple(_numbers(inner)) for inner in _BRACES.findall(text[1:-1]))
        return groups or (tuple(range(n_partitions)),)
    raise CompileError(f"`{text[:120]}` are replica groups in a syntax that is not known here.")


def parse_pairs(text: str) -> tuple[tuple[int, int], ...]:
    """Return the (source, target) partition ids of a `source_target_pairs` attribute."""
    pairs = (_numbers(inner) for inner in _BRACES.findall(text.strip()[1:-1]))
    return tuple((source, target) for source, target in pairs)


def axes_of_groups(groups: Groups, mesh: TorusMesh) -> tuple[int, ...] | None:
    """Return the mesh axes that the groups span, when they are exactly those of some axes.

    Args:
        groups: groups of partition ids.
        mesh: the mesh whose k-th place is partition k.

    Returns:
        Indices in `mesh.axes`, rising; () for groups of one chip. None when the groups are not the chips that
        differ in certain axes and agree in the rest; `varying_axes` then names all axes concerned.
    """
    axes = varying_axes(groups, mesh)
    expected = prod(mesh.axes[axis].size for axis in axes)
    if any(len(set(group)) != expected for group in groups):
        return None
    return axes


def varying_axes(groups: Sequence[Sequence[int]], mesh: TorusMesh) -> tuple[int, ...]:
    """Return the indices of the mesh axes along which some group has chips at different places, rising."""
    varying: set[int] = set()
    for group in groups:
        places = np.stack(np.unravel_index(np.asarray(group, dtype=np.int64), mesh.shape))
        varying.update(np.flatnonzero((places != places[:, :1]).any(axis=1)).tolist())
    return tuple(sorted(varying))


def _mesh_groups(match: re.Match[str]) -> _Ids:
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(match["axes"])}
    parts = [part for part in _GROUPED_AXIS.finditer(match["grouped"]) if part["name"].strip()]
    ids = _device_order(match["order"], prod(sizes.values()))
    shape, dim_of_part = list[int](), dict[int, int]()
    for name, size in sizes.items():
        for factor, part in _split_axis(
            size, {i: part for i, part in enumerate(parts) if part["name"] == name}
        ):
            if part is not None:
                dim_of_part[part] = len(shape)
            shape.append(factor)
    members = [dim_of_part[part] for part in range(len(parts))]
    rest = [dim for dim in range(len(shape)) if dim not in members]
    return ids.reshape(shape).transpose(rest + members).reshape(-1, prod(shape[dim] for dim in members))


def _split_axis(size: int, parts: dict[int, re.Match[str]]) -> list[tuple[int, int | None]]:
    """Return the factors of an axis, major first, each with the number of the part that takes it."""
    factors, position = list[tuple[int, int | None]](), 1
    for number, part in sorted(parts.items(), key=lambda item: int(item[1]["before"] or 1)):
        before, taken = int(part["before"] or 1), int(part["size"] or size)
        factors += [(before // position, None), (taken, number)]
        position = before * taken
    return [
        (factor, part)
        for factor, part in (*factors, (size // position, None))
        if factor > 1 or part is not None
    ]


def _device_order(text: str | None, n_partitions: int) -> _Ids:
    if not text:
        return np.arange(n_partitions, dtype=np.int64)
    if match := _IOTA.fullmatch(text.strip()):
        return _transposed_iota(match[2], match[3])
    if (match := _ORDER.fullmatch(text.strip())) and prod(_numbers(match[1])) == n_partitions:
        return _transposed_iota(match[1], match[2])
    return np.asarray(_numbers(re.sub(r"[{}\[\]\s]", "", text)), dtype=np.int64)


def _transposed_iota(dims_text: str, order_text: str | None) -> _Ids:
    dims = _numbers(dims_text)
    order = _numbers(order_text) if order_text else list(range(len(dims)))
    return np.arange(prod(dims), dtype=np.int64).reshape(dims).transpose(order).reshape(-1)


def _as_groups(ids: _Ids) -> Groups:
    return tuple(tuple(group) for group in ids.tolist())


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]
