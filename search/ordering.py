"""The order of several mesh axes within one tensor dim, chosen after the layouts.

A dim sharded by x and y may be cut first by x or first by y.  The layouts do not say; the compiler cares:
axes that leave a dim should be its minor ones, and so on (`autoshard.search.permute_rules`), anything else
needs a permute of the data first.  Orders are labels of a second, small cost network: one
variable per factor of an op and per dim of an anchored value that carries two or more axes; a mismatch costs
a collective-permute of the local tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.layouts import UNREDUCED, Bools, local_fraction
from autoshard.search.graph import Op
from autoshard.search.network import Network
from autoshard.search.permute_rules import Change, compatible, exchanged, moved_alike, permuted
from autoshard.search.places import Axes, Place, Places, axes_by_part
from autoshard.search.problem import Edge, Problem
from autoshard.search.solver import solve

Floats = npt.NDArray[np.float64]
Spec = tuple[Axes, ...]
"""For each dim of a tensor its mesh axes (as indices), major first."""


_Orders = dict[Place, Axes]
MOST_ORDERS = 2
"""That meet in a dim: where merged dims meet there are more, and these are left as they fall."""


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Two orders on an edge that must suit each other: those of places before and of places after.

    Attributes:
        places: Of both, those whose orders are to be chosen.
        have: At the source.
        want: At the target.
        is_one_dim: Whether they are the same dim; axes move from one to the other where they are not.
    """

    places: list[Place]
    have: list[Place]
    want: list[Place]
    is_one_dim: bool


_Slot = int | Axes
"""A part of a dim: the number of an order that is to be chosen, or axes in an order that is given."""


@lru_cache(maxsize=1 << 14)
def _permutes_by_order(
    options: tuple[tuple[Axes, ...], ...],
    have: tuple[_Slot, ...],
    want: tuple[_Slot, ...],
    change: Change,
    is_one_dim: bool,
) -> Bools:
    """Whether a permute is needed where two dims meet, under all choices of the orders there."""
    found = [
        _permutes(_filled(have, orders), _filled(want, orders), change, is_one_dim)
        for orders in itertools.product(*options)
    ]
    return np.array(found, dtype=np.bool_).reshape([len(option) for option in options])


def _filled(slots: Sequence[_Slot], orders: Sequence[Axes]) -> Axes:
    """The axes of a dim, major first, under chosen orders."""
    parts = (orders[slot] if isinstance(slot, int) else slot for slot in slots)
    return tuple(itertools.chain.from_iterable(parts))


def _permutes(have: Axes, want: Axes, change: Change, is_one_dim: bool) -> bool:
    """Whether a permute is needed from one order to another."""
    return not (compatible(have, want, change) if is_one_dim else moved_alike(have, want))


@dataclass(frozen=True, slots=True)
class Permute:
    """A permute that the best orders of a plan still need, on an edge.

    Attributes:
        edge: Position of the edge in `Problem.edges`.
        axes: The axes whose order changes.
        bytes_per_chip: What each chip sends, each of the edge's trips.
        seconds: Time of one.
    """

    edge: int
    axes: Axes
    bytes_per_chip: float
    seconds: float


def orders_of(problem: Problem, specs: Mapping[int, Spec]) -> dict[tuple[int, int], Axes]:
    """Write the specs of anchored values as orders that a problem can fix."""
    fixed: dict[tuple[int, int], Axes] = {}
    for value, spec in specs.items():
        if value not in problem.value_variable:
            continue
        tied = problem.classes.get(value)
        for dim, axes in enumerate(spec):
            if len(axes) > 1:
                part = dim if tied is None else tied.dims[value].index(dim)
                fixed[problem.value_variable[value], part] = axes
    return fixed


class Orders:
    """Chosen orders of a plan; turns labels into ordered specs.

    Attributes:
        permute_seconds: Time per step of the permutes that the best orders still need.
        permutes: These permutes, one for each dim that needs one.
    """

    def __init__(self, problem: Problem, labels: Sequence[int]) -> None:
        """Choose the orders for the plan given by `labels`."""
        self._problem, self._labels, self._places = problem, labels, Places(problem)
        self._held = [
            axes_by_part(variable.codes[label])
            for variable, label in zip(problem.variables, labels, strict=True)
        ]
        self._chosen: _Orders = {}
        self.permute_seconds = 0.0
        self._domains: dict[Place, list[Axes]] = {}
        self._choose()
        self.permutes = tuple(self._needed()) if self.permute_seconds > 0 else ()

    def spec_of_operand(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of an operand as the op's strategy wants it."""
        return self._spec(self._places.op(op, op.operand_dims[position]))

    def spec_of_result(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of a result as the op's strategy leaves it."""
        return self._spec(self._places.op(op, op.result_dims[position]))

    def spec_of_value(self, value: int) -> Spec:
        """Ordered axes of each dim of an anchored value."""
        return self._spec(self._places.value(value))

    def _spec(self, dims: Sequence[Sequence[Place]]) -> Spec:
        return tuple(self._axes(places, self._chosen) for places in dims)

    def _axes(self, places: Sequence[Place], orders: _Orders) -> Axes:
        """The axes of one dim, major first, under some orders; mesh order where there is none."""
        return tuple(axis for place in places for axis in orders.get(place) or self._axes_at(place))

    def _axes_at(self, place: Place) -> Axes:
        """The axes at a place in mesh order."""
        return self._held[place.variable].get(place.part, ())

    # The network of orders.

    def _choose(self) -> None:
        network = Network()
        self._domains = domains = {place: self._possible(place) for place in self._crowded()}
        numbers = {place: network.add_variable(len(orders), str(place)) for place, orders in domains.items()}
        for edge in self._problem.edges:
            change = self._change(edge)
            if _exchanges(change):
                self.permute_seconds += self._price(edge)
            for places, cost in self._mismatches(edge, change):
                if not places:
                    self.permute_seconds += float(cost)
                elif len(places) == 1:
                    network.add_unary(numbers[places[0]], cost)
                else:
                    network.add_pairwise(numbers[places[0]], numbers[places[1]], cost)
        if domains:
            solution = solve(network)
            self.permute_seconds += solution.value
            labels = dict(zip(domains, solution.labels, strict=True))
            self._chosen = {place: orders[labels[place]] for place, orders in domains.items()}

    def _possible(self, place: Place) -> list[Axes]:
        """The orders that the axes at a place may have: one where the user fixed it."""
        fixed = self._problem.orders.get((place.variable, place.part))
        return list(itertools.permutations(self._axes_at(place))) if fixed is None else [fixed]

    def _crowded(self) -> list[Place]:
        """The places with two or more axes."""
        return [
            Place(number, part)
            for number, held in enumerate(self._held)
            for part in sorted(held)
            if len(held[part]) > 1
        ]

    def _meetings(self, edge: Edge, change: Change) -> Iterator[_Meeting]:
        """Where orders meet on an edge: in each dim, and between the dims that axes leave and come to."""
        before, after = self._places.source(edge), self._places.target(edge)
        moved = {*change.moved}
        dims = range(len(before))
        for here, there in itertools.product(dims, dims) if len(moved) > 1 else zip(dims, dims, strict=True):
            have, want = before[here], after[there]
            if here != there and len(moved.intersection(self._held_at(have), self._held_at(want))) < 2:
                continue
            places = list(dict.fromkeys(place for place in (*have, *want) if place in self._domains))
            if len(places) <= MOST_ORDERS:
                yield _Meeting(places, have, want, is_one_dim=here == there)

    def _mismatches(self, edge: Edge, change: Change) -> Iterator[tuple[list[Place], Floats]]:
        """The places that decide, and the time of permutes by their orders, where there may be any."""
        for meeting in self._meetings(edge, change):
            options = tuple(tuple(self._domains[place]) for place in meeting.places)
            have, want = (self._slots(places, meeting) for places in (meeting.have, meeting.want))
            needed = _permutes_by_order(options, have, want, change, meeting.is_one_dim)
            if needed.any():
                yield meeting.places, np.where(needed, self._price(edge), 0.0)

    def _slots(self, dim: Sequence[Place], meeting: _Meeting) -> tuple[_Slot, ...]:
        """The parts of a dim at a meeting."""
        numbers = {place: number for number, place in enumerate(meeting.places)}
        return tuple(numbers[place] if place in numbers else self._axes_at(place) for place in dim)

    def _needed(self) -> Iterator[Permute]:
        """The permutes under the chosen orders."""
        for number, edge in enumerate(self._problem.edges):
            change = self._change(edge)
            for meeting in self._meetings(edge, change):
                have, want = (self._axes(places, self._chosen) for places in (meeting.have, meeting.want))
                if _permutes(have, want, change, meeting.is_one_dim):
                    yield self._permute(number, self._permuted(meeting, change))
            if _exchanges(change):
                yield self._permute(number, change.moved)

    def _permute(self, number: int, axes: Axes) -> Permute:
        """A permute on an edge."""
        edge = self._problem.edges[number]
        return Permute(number, axes, self._local_bytes(edge), self._price(edge) / max(edge.trips, 1))

    def _permuted(self, meeting: _Meeting, change: Change) -> Axes:
        """The axes whose order changes there."""
        have, want = self._axes(meeting.have, self._chosen), self._axes(meeting.want, self._chosen)
        if meeting.is_one_dim:
            return permuted(have, want, change)
        return tuple(sorted({*have} & {*want}))

    def _change(self, edge: Edge) -> Change:
        """What happens to the layout of what is on an edge."""
        return Change(
            tuple(edge.source_layouts[self._labels[edge.source]].tolist()),
            tuple(edge.target_layouts[self._labels[edge.target]].tolist()),
        )

    def _held_at(self, places: Sequence[Place]) -> Iterator[int]:
        """The axes of a dim in any order."""
        return itertools.chain.from_iterable(map(self._axes_at, places))

    def _price(self, edge: Edge) -> float:
        """Time per step of permuting the smaller local part of what is on an edge."""
        axes = tuple(range(len(self._problem.mesh.axes)))
        nbytes = self._local_bytes(edge)
        return edge.trips * collective_seconds(Kind.COLLECTIVE_PERMUTE, nbytes, axes, self._problem.mesh)

    def _local_bytes(self, edge: Edge) -> float:
        """Bytes of the smaller local part of what is on an edge."""
        mesh = self._problem.mesh
        have = edge.source_layouts[self._labels[edge.source]]
        want = edge.target_layouts[self._labels[edge.target]]
        value = self._problem.graph.values[edge.value]
        return value.nbytes * float(local_fraction(np.stack([have, want]), mesh, value.shape).min())


def _exchanges(change: Change) -> bool:
    """Whether two dims of a tensor exchange axes."""
    before, after = (np.array([layout], np.int8) for layout in (change.before, change.after))
    return len(change.moved) > 1 and bool(exchanged(before, after).any())


def unreduced_axes(layout: npt.NDArray[np.int8]) -> Axes:
    """The axes over which a layout leaves a sum open."""
    return tuple(int(axis) for axis in np.flatnonzero(layout == UNREDUCED))
