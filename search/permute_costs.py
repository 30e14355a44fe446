"""What permutes cost on the edges of a problem, once every label has an order of axes.

`Orders` (`autoshard.search.ordering`) prices one plan under all orders; here all labels at both ends of an
edge are priced at once, as a matrix like those of reshards.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence

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
_Side = tuple[Axes, int, Layout]
"""A dim at one end of an edge: its axes, how many of its places have several, the tensor's layout."""


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
        self.known: dict[Hashable, BoolArray] = {}

    def on(self, edge: Edge) -> FloatArray | None:
        """[K, J] the time; None where no labels need any."""
        count = exchanged(edge.source_layouts, edge.target_layouts).astype(np.float64)
        before, after = ([*map(tuple, each.tolist())] for each in (edge.source_layouts, edge.target_layouts))
        sources = [self.sides(edge.source, have, before) for have in self.places.source(edge)]
        targets = [self.sides(edge.target, want, after) for want in self.places.target(edge)]
        for (here, (left, rows)), (there, (right, columns)) in itertools.product(
            enumerate(sources), enumerate(targets)
        ):
            if here == there or (_crowded(left) and _crowded(right)):
                count += self.mismatches(left, right, here == there)[np.ix_(rows, columns)]
        return count * self.seconds(edge) if count.any() else None

    def sides(
        self, variable: int, places: Sequence[Place], layouts: Sequence[Layout]
    ) -> tuple[tuple[_Side, ...], IntArray]:
        """What a dim looks like under the labels of a variable: each look once, and [K] which one it is."""
        numbers: dict[_Side, int] = {}
        looks = [
            numbers.setdefault((*self.look(variable, label, places), layout), len(numbers))
            for label, layout in enumerate(layouts)
        ]
        return tuple(numbers), np.array(looks, dtype=np.intp)

    def look(self, variable: int, label: int, places: Sequence[Place]) -> tuple[Axes, int]:
        """The axes of a dim, major first, and how many of its places have several."""
        there = [self.axes[variable][label].get(place.part, ()) for place in places]
        return tuple(itertools.chain(*there)), sum(len(axes) > 1 for axes in there)

    def mismatches(self, left: tuple[_Side, ...], right: tuple[_Side, ...], is_one_dim: bool) -> BoolArray:
        """Which looks need a permute, as far as `Orders` says so."""
        if (left, right, is_one_dim) not in self.known:
            self.known[left, right, is_one_dim] = np.array(
                [
                    [
                        crowded + others <= MOST_ORDERS
                        and not (
                            compatible(have, want, Change(before, after))
                            if is_one_dim
                            else moved_alike(have, want)
                        )
                        for want, others, after in right
                    ]
                    for have, crowded, before in left
                ],
                dtype=np.bool_,
            ).reshape(len(left), len(right))
        return self.known[left, right, is_one_dim]

    def seconds(self, edge: Edge) -> FloatArray:
        """[K, J] time per step of permuting the smaller local part of what is on an edge."""
        mesh = self.problem.mesh
        shape = self.problem.graph.values[edge.value].shape
        have = local_fraction(edge.source_layouts, mesh, shape)
        want = local_fraction(edge.target_layouts, mesh, shape)
        nbytes = self.problem.graph.values[edge.value].nbytes * np.minimum(have[:, None], want[None, :])
        axes = tuple(range(len(mesh.axes)))
        return edge.trips * collective_seconds(Kind.COLLECTIVE_PERMUTE, nbytes, axes, mesh)


def _crowded(sides: Iterable[_Side]) -> bool:
    """Whether a dim has several axes under some label."""
    return any(len(axes) > 1 for axes, _, _ in sides)
