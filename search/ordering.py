"""The order of several mesh axes within one tensor dim, chosen after the layouts.

A dim sharded by x and y may be cut first by x or first by y.  The layouts do not say; the compiler cares:
gathering the *minor* axes of a dim, moving them to another dim, or scattering over new minor axes, is one
collective, anything else needs a permute of the data first.  So along every edge the axes that stay on a dim
should be its major ones, in the same order on both sides; and as axes move before others are gathered
(`autoshard.cost.reshard`), those that move should be minor to those that are gathered, and nothing should
come to a dim that something is gathered from.  Orders are labels of a second, small cost network: one
variable per factor of an op and per dim of an anchored value that carries two or more axes; a mismatch costs
a collective-permute of the local tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.layouts import UNREDUCED, local_fraction
from autoshard.search.graph import Op
from autoshard.search.network import Network
from autoshard.search.places import Axes, Place, Places, axes_by_part
from autoshard.search.problem import Edge, Problem
from autoshard.search.solver import solve

Floats = npt.NDArray[np.float64]
Spec = tuple[Axes, ...]
"""For each dim of a tensor its mesh axes (as indices), major first."""


_Orders = dict[Place, Axes]


@dataclass(frozen=True, slots=True)
class Sharding:
    """The axes that shard some dim of a tensor before and after a reshard.

    Attributes:
        before: At its source.
        after: At its target.
    """

    before: Collection[int]
    after: Collection[int]


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
        self.permutes = tuple(self._needed())

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
            for places, cost in self._mismatches(edge):
                if len(places) == 1:
                    network.add_unary(numbers[places[0]], cost)
                else:
                    network.add_pairwise(numbers[places[0]], numbers[places[1]], cost)
        if domains:
            solution = solve(network)
            self.permute_seconds = solution.value
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

    def _meetings(self, edge: Edge) -> Iterator[tuple[list[Place], list[Place], list[Place]]]:
        """For each dim on an edge the places that decide, and all at its source and at its target.

        More than two orders meet in one dim only where merged dims meet; these are left as they fall.
        """
        for have, want in zip(self._places.source(edge), self._places.target(edge), strict=True):
            places = list(dict.fromkeys(place for place in (*have, *want) if place in self._domains))
            if len(places) in (1, 2):
                yield places, have, want

    def _mismatches(self, edge: Edge) -> Iterator[tuple[list[Place], Floats]]:
        """For each dim the places that decide and the time of permutes under each of their orders."""
        for places, have, want in self._meetings(edge):
            options, sharding = [self._domains[place] for place in places], self._sharding(edge)
            cost = np.array(
                [
                    self._permutes(have, want, dict(zip(places, orders, strict=True)), sharding)
                    for orders in itertools.product(*options)
                ],
                dtype=np.float64,
            )
            yield places, cost.reshape([len(option) for option in options]) * self._price(edge)

    def _needed(self) -> Iterator[Permute]:
        """The permutes under the chosen orders."""
        for number, edge in enumerate(self._problem.edges):
            for _, have, want in self._meetings(edge):
                sharding = self._sharding(edge)
                if self._permutes(have, want, self._chosen, sharding):
                    axes = permuted(self._axes(have, self._chosen), self._axes(want, self._chosen), sharding)
                    yield Permute(
                        number, axes, self._local_bytes(edge), self._price(edge) / max(edge.trips, 1)
                    )

    def _permutes(
        self, have: Sequence[Place], want: Sequence[Place], orders: _Orders, sharding: Sharding
    ) -> bool:
        """Whether one dim needs a permute under some orders."""
        return not compatible(self._axes(have, orders), self._axes(want, orders), sharding)

    def _sharding(self, edge: Edge) -> Sharding:
        """The axes that shard what is on an edge at either end."""
        return Sharding(
            sharding_axes(edge.source_layouts[self._labels[edge.source]]),
            sharding_axes(edge.target_layouts[self._labels[edge.target]]),
        )

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


def compatible(have: Axes, want: Axes, sharding: Sharding) -> bool:
    """Whether one collective per change of a dim is enough, so that nothing need be permuted.

    That is so when the axes that stay are the major ones, in the same order, on both sides.  Of those that
    leave, the ones that are gathered come before the ones that move to another dim.  New axes follow in the
    order in which they come: first those that shard nothing before, then those that come from another dim.
    Where there are new ones none is gathered: these would be minor to it.
    """
    kept = tuple(axis for axis in have if axis in want)
    leaving = [axis in sharding.after for axis in have[len(kept) :]]
    arrival = [axis in sharding.before for axis in want[len(kept) :]]
    staying = have[: len(kept)] == kept and want[: len(kept)] == kept
    covered = bool(arrival) and not all(leaving)
    return staying and not covered and leaving == sorted(leaving) and arrival == sorted(arrival)


def permuted(have: Axes, want: Axes, sharding: Sharding) -> Axes:
    """The axes that a permute reorders where two orders are not `compatible`.

    First those of `have`, until the ones that stay are its major ones as `want` has them, and the ones that
    move its minor ones; then those of `want`, where new axes do not come in the order in which they arrive;
    and those that are gathered where others come, with these.
    """
    kept = tuple(axis for axis in want if axis in have)
    leaving = sorted((axis for axis in have if axis not in kept), key=lambda axis: axis in sharding.after)
    new = sorted((axis for axis in want if axis not in kept), key=lambda axis: axis in sharding.before)
    changed = {*_between(have, (*kept, *leaving)), *_between((*kept, *new), want)}
    gathered = [axis for axis in leaving if axis not in sharding.after]
    if gathered and new:
        changed |= {*gathered, *new}
    return tuple(sorted(changed))


def _between(order: Axes, other: Axes) -> Axes:
    """The axes from the first to the last place at which two orders of the same axes differ."""
    differing = [place for place, pair in enumerate(zip(order, other, strict=True)) if pair[0] != pair[1]]
    return order[differing[0] : differing[-1] + 1] if differing else ()


def sharding_axes(layout: npt.NDArray[np.int8]) -> Axes:
    """The axes that shard some dim of a layout."""
    return tuple(int(axis) for axis in np.flatnonzero(layout >= 0))


def unreduced_axes(layout: npt.NDArray[np.int8]) -> Axes:
    """The axes over which a layout leaves a sum open."""
    return tuple(int(axis) for axis in np.flatnonzero(layout == UNREDUCED))
