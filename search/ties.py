"""Values that share one layout, gathered into classes with one canonical rank.

A scanned stack [layers, b, e] and the slice [b, e] that an iteration sees have one layout: that of the
slice, the stacked dim staying unsharded.  A loop's carry has one layout before, inside and after the loop; a
donated argument and the result in its buffer have one layout.  The member of lowest rank is the
representative, and every other member maps its dims.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from autoshard.cost.layouts import REPLICATED, UNREDUCED, Layouts
from autoshard.search.graph import Graph

_Neighbours = dict[int, list[tuple[int, tuple[int, ...], bool]]]
"""For each tied value: another one, the tie's dims, and whether that other one is the outer value."""


@dataclass(frozen=True, slots=True)
class TieClass:
    """Values with one layout.

    Attributes:
        representative: The member whose dims are the canonical ones.
        dims: For each member, its dim behind each canonical dim.
    """

    representative: int
    dims: dict[int, tuple[int, ...]]

    def layouts_of(self, value: int, canonical: Layouts) -> Layouts:
        """Translate canonical layouts [K, A] into those of a member."""
        table = np.array(
            [*self.dims[value], UNREDUCED, REPLICATED], dtype=np.int8
        )  # the codes -2 and -1 wrap
        return table[canonical]


def tie_classes(graph: Graph) -> dict[int, TieClass]:
    """Return the class of every tied value; members of a class share the object."""
    neighbours: _Neighbours = {}
    for tie in graph.ties:
        neighbours.setdefault(tie.outer, []).append((tie.inner, tie.dims, False))
        neighbours.setdefault(tie.inner, []).append((tie.outer, tie.dims, True))
    classes: dict[int, TieClass] = {}
    for value in neighbours:
        if value not in classes:
            members = _component(value, neighbours)
            root = min(members, key=lambda v: (len(graph.values[v].shape), v))
            found = _class_of(root, graph, neighbours)
            classes |= dict.fromkeys(found.dims, found)
    return classes


def _component(start: int, neighbours: _Neighbours) -> set[int]:
    seen, queue = {start}, deque([start])
    while queue:
        for other, _, _ in neighbours[queue.popleft()]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def _class_of(root: int, graph: Graph, neighbours: _Neighbours) -> TieClass:
    dims = {root: tuple(range(len(graph.values[root].shape)))}
    queue = deque([root])
    while queue:
        value = queue.popleft()
        for other, mapping, outward in neighbours[value]:
            if other in dims:
                continue
            if outward:
                dims[other] = tuple(mapping[d] for d in dims[value])
            else:
                dims[other] = tuple(mapping.index(d) for d in dims[value])
            queue.append(other)
    return TieClass(root, dims)
