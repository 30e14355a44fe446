"""The order of several mesh axes within one tensor dim, chosen after the layouts.

A dim sharded by x and y may be cut first by x or first by y.  The layouts do not say; the compiler cares:
gathering the *minor* axes of a dim, or scattering over new minor axes, is one collective, anything else
needs a permute of the data first.  So along every edge the axes that stay on a dim should be its major ones,
in the same order on both sides.  Orders are labels of a second, small cost network: one variable per factor
of an op and per dim of an anchored value that carries two or more axes; a mismatch costs a
collective-permute of the local tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.layouts import UNREDUCED, local_fraction
from autoshard.search.graph import Dims, Op
from autoshard.search.network import Network
from autoshard.search.problem import Edge, Problem, VariableKind
from autoshard.search.solver import solve

Floats = npt.NDArray[np.float64]
Axes = tuple[int, ...]
Spec = tuple[Axes, ...]
"""For each dim of a tensor its mesh axes (as indices), major first."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where axes meet: factor `part` of an op variable, or canonical dim `part` of a layout variable."""

    variable: int
    part: int


_Orders = dict[_Place, Axes]


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
    """

    def __init__(self, problem: Problem, labels: Sequence[int]) -> None:
        """Choose the orders for the plan given by `labels`."""
        self._problem, self._labels = problem, labels
        self._chosen: _Orders = {}
        self.permute_seconds = 0.0
        self._choose()

    def spec_of_operand(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of an operand as the op's strategy wants it."""
        return self._spec(self._op_places(op, op.operand_dims[position]))

    def spec_of_result(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of a result as the op's strategy leaves it."""
        return self._spec(self._op_places(op, op.result_dims[position]))

    def spec_of_value(self, value: int) -> Spec:
        """Ordered axes of each dim of an anchored value."""
        return self._spec(self._value_places(value))

    def _spec(self, dims: Sequence[Sequence[_Place]]) -> Spec:
        return tuple(self._axes(places, self._chosen) for places in dims)

    def _axes(self, places: Sequence[_Place], orders: _Orders) -> Axes:
        """The axes of one dim, major first, under some orders; mesh order where there is none."""
        return tuple(axis for place in places for axis in orders.get(place) or self._axes_at(place))

    def _axes_at(self, place: _Place) -> Axes:
        """The axes at a place in mesh order."""
        code = self._problem.variables[place.variable].codes[self._labels[place.variable]]
        return tuple(int(axis) for axis in np.flatnonzero(code == place.part))

    # The places behind each dim of a tensor.

    def _op_places(self, op: Op, dims: Dims) -> list[list[_Place]]:
        variable = self._problem.op_variable[op.index]
        return [[_Place(variable, factor) for factor in dim] for dim in dims]

    def _value_places(self, value: int) -> list[list[_Place]]:
        problem = self._problem
        variable = problem.value_variable[value]
        rank = len(problem.graph.values[value].shape)
        dims = problem.classes[value].dims[value] if value in problem.classes else range(rank)
        places: list[list[_Place]] = [[] for _ in range(rank)]
        for canonical, dim in enumerate(dims):
            places[dim] = [_Place(variable, canonical)]
        return places

    def _source_places(self, edge: Edge) -> list[list[_Place]]:
        variable = self._problem.variables[edge.source]
        if variable.kind is VariableKind.LAYOUT:
            return self._value_places(edge.held)
        op = self._problem.graph.ops[variable.subject]
        return self._op_places(op, op.result_dims[op.results.index(edge.held)])

    def _target_places(self, edge: Edge) -> list[list[_Place]]:
        variable = self._problem.variables[edge.target]
        if variable.kind is VariableKind.LAYOUT:
            return self._value_places(edge.value)
        op = self._problem.graph.ops[variable.subject]
        return self._op_places(op, op.operand_dims[edge.position])

    # The network of orders.

    def _choose(self) -> None:
        network = Network()
        domains = {place: self._possible(place) for place in self._crowded()}
        numbers = {place: network.add_variable(len(orders), str(place)) for place, orders in domains.items()}
        for edge in self._problem.edges:
            for places, cost in self._mismatches(edge, domains):
                if len(places) == 1:
                    network.add_unary(numbers[places[0]], cost)
                else:
                    network.add_pairwise(numbers[places[0]], numbers[places[1]], cost)
        if domains:
            solution = solve(network)
            self.permute_seconds = solution.value
            labels = dict(zip(domains, solution.labels, strict=True))
            self._chosen = {place: orders[labels[place]] for place, orders in domains.items()}

    def _possible(self, place: _Place) -> list[Axes]:
        """The orders that the axes at a place may have: one where the user fixed it."""
        fixed = self._problem.orders.get((place.variable, place.part))
        return list(itertools.permutations(self._axes_at(place))) if fixed is None else [fixed]

    def _crowded(self) -> list[_Place]:
        """The places with two or more axes."""
        found = []
        for number, variable in enumerate(self._problem.variables):
            parts, counts = np.unique(variable.codes[self._labels[number]], return_counts=True)
            found += [_Place(number, int(part)) for part in parts[(parts >= 0) & (counts > 1)]]
        return found

    def _mismatches(
        self, edge: Edge, domains: dict[_Place, list[Axes]]
    ) -> Iterator[tuple[list[_Place], Floats]]:
        """For each dim the places that decide and the time of permutes under each of their orders.

        More than two orders meet in one dim only where merged dims meet; these are left as they fall.
        """
        source, target = self._source_places(edge), self._target_places(edge)
        for have, want in zip(source, target, strict=True):
            places = list(dict.fromkeys(place for place in (*have, *want) if place in domains))
            if len(places) in (1, 2):
                options = [domains[place] for place in places]
                cost = np.array(
                    [
                        self._permutes(edge, have, want, dict(zip(places, orders, strict=True)))
                        for orders in itertools.product(*options)
                    ],
                    dtype=np.float64,
                )
                yield places, cost.reshape([len(option) for option in options]) * self._price(edge)

    def _permutes(self, edge: Edge, have: Sequence[_Place], want: Sequence[_Place], orders: _Orders) -> bool:
        """Whether one dim needs a permute under some orders."""
        layout = edge.source_layouts[self._labels[edge.source]]
        present = {int(axis) for axis in np.flatnonzero(layout >= 0)}
        return not _compatible(self._axes(have, orders), self._axes(want, orders), present)

    def _price(self, edge: Edge) -> float:
        """Time per step of permuting the smaller local part of what is on an edge."""
        mesh = self._problem.mesh
        have = edge.source_layouts[self._labels[edge.source]]
        want = edge.target_layouts[self._labels[edge.target]]
        value = self._problem.graph.values[edge.value]
        fraction = float(local_fraction(np.stack([have, want]), mesh, value.shape).min())
        local_bytes = value.nbytes * fraction
        axes = tuple(range(len(mesh.axes)))
        return edge.trips * collective_seconds(Kind.COLLECTIVE_PERMUTE, local_bytes, axes, mesh)


def _compatible(have: Axes, want: Axes, present: Collection[int]) -> bool:
    """Whether one collective per change is enough.

    That is so when the axes that stay are the major ones, in the same order, on both sides.  New axes follow
    in the order in which they come: first those that shard nothing before, then those that come from another
    dim (`present` are the axes that shard some dim before).
    """
    kept = tuple(axis for axis in have if axis in want)
    arrival = [axis in present for axis in want[len(kept) :]]
    return have[: len(kept)] == kept and want[: len(kept)] == kept and arrival == sorted(arrival)


def unreduced_axes(layout: npt.NDArray[np.int8]) -> Axes:
    """The axes over which a layout leaves a sum open."""
    return tuple(int(axis) for axis in np.flatnonzero(layout == UNREDUCED))
