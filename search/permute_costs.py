"""What permutes cost on the edges of a problem, once every label has an order of axes.

`Orders` (`autoshard.search.ordering`) prices one plan under all orders; here all labels at both ends of an
edge are priced at once, as a matrix like those of reshards. What a dim looks like under a label is numbered;
whether two looks need a permute is worked out once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.layouts import local_fraction
from autoshard.search.network import BoolArray, FloatArray, IntArray
from autoshard.search.ordering import MOST_ORDERS
from autoshard.search.permute_rules import Change, Layout, compatible, exchanged, moved_alike
from autoshard.search.places import Axes, Place, Places, axes_by_part
from autoshard.search.problem import Edge, Problem

AxesByPart = dict[int, Axes]
"""Orders by part of a variable."""
_Look = tuple[Axes, int, Layout]
"""A dim at one end of an edge: its axes, how many of its places have several, the tensor's layout."""
_UNKNOWN = -1


class PermuteCosts:
    """Time per step of the permutes on an edge, under all labels of both ends."""

    def __init__(
        self, problem: Problem, origin: Sequence[IntArray], orders: Sequence[Sequence[AxesByPart]]
    ) -> None:
        self.problem, self.places = problem, Places(problem)
        self.axes = [
            [{**axes_by_part(code), **chosen} for code, chosen in zip(each.codes[at], own, strict=True)]
            for each, at, own in zip(problem.variables, origin, orders, strict=True)
        ]
        self.within, self.between = _Pairs(_permutes_within), _Pairs(_permutes_between)

    def on(self, edge: Edge) -> FloatArray | None:
        """[K, J] the time; None where no labels need any."""
        count = exchanged(edge.source_layouts, edge.target_layouts).astype(np.float64)
        before, after = ([*map(tuple, each.tolist())] for each in (edge.source_layouts, edge.target_layouts))
        sources = [self.looks(edge.source, have, before) for have in self.places.source(edge)]
        targets = [self.looks(edge.target, want, after) for want in self.places.target(edge)]
        for (here, left), (there, right) in itertools.product(enumerate(sources), enumerate(targets)):
            if here == there:
                count += self.within.needed(left, right)
            elif _have_several(left) and _have_several(right):
                count += self.between.needed(left, right)
        return count * self.seconds(edge) if count.any() else None

    def looks(self, variable: int, places: Sequence[Place], layouts: Sequence[Layout]) -> list[_Look]:
        """What a dim looks like under each label of a variable."""
        return [(*self.look(variable, label, places), layout) for label, layout in enumerate(layouts)]

    def look(self, variable: int, label: int, places: Sequence[Place]) -> tuple[Axes, int]:
        """The axes of a dim, major first, and how many of its places have several."""
        there = [self.axes[variable][label].get(place.part, ()) for place in places]
        return tuple(itertools.chain(*there)), sum(len(axes) > 1 for axes in there)

    def seconds(self, edge: Edge) -> FloatArray:
        """[K, J] time per step of permuting the smaller local part of what is on an edge."""
        mesh = self.problem.mesh
        shape = self.problem.graph.values[edge.value].shape
        have = local_fraction(edge.source_layouts, mesh, shape)
        want = local_fraction(edge.target_layouts, mesh, shape)
        nbytes = self.problem.graph.values[edge.value].nbytes * np.minimum(have[:, None], want[None, :])
        axes = tuple(range(len(mesh.axes)))
        return edge.trips * collective_seconds(Kind.COLLECTIVE_PERMUTE, nbytes, axes, mesh)


class _Pairs:
    """Whether a permute is needed from one look to another, each pair worked out once."""

    def __init__(self, needs_permute: Callable[[_Look, _Look], bool]) -> None:
        self.needs_permute = needs_permute
        self.numbers: dict[_Look, int] = {}
        self.known = np.full((64, 64), _UNKNOWN, dtype=np.int8)

    def needed(self, left: Sequence[_Look], right: Sequence[_Look]) -> BoolArray:
        """``[K, J]`` of all looks on the one side and all on the other."""
        rows, columns = self.numbered(left), self.numbered(right)
        at = np.ix_(rows, columns)
        for i, j in np.argwhere(self.known[at] == _UNKNOWN):
            pair = rows[i], columns[j]
            if self.known[pair] == _UNKNOWN:
                self.known[pair] = self.needs_permute(left[i], right[j])
        found: BoolArray = self.known[at] == 1
        return found

    def numbered(self, looks: Sequence[_Look]) -> IntArray:
        """The numbers of looks; the table grows with them."""
        numbers = [self.numbers.setdefault(look, len(self.numbers)) for look in looks]
        while len(self.numbers) > len(self.known):
            self.known = np.pad(self.known, (0, len(self.known)), constant_values=_UNKNOWN)
        return np.array(numbers, dtype=np.intp)


def _permutes_within(left: _Look, right: _Look) -> bool:
    (have, several, before), (want, others, after) = left, right
    return several + others <= MOST_ORDERS and not compatible(have, want, Change(before, after))


def _permutes_between(left: _Look, right: _Look) -> bool:
    (have, several, _), (want, others, _) = left, right
    return several + others <= MOST_ORDERS and not moved_alike(have, want)


def _have_several(looks: Sequence[_Look]) -> bool:
    """Whether a dim has several axes under some label."""
    return any(len(axes) > 1 for axes, _, _ in looks)
