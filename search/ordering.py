"""The order of several mesh axes within one tensor dim, chosen after the layouts.

A dim sharded by x and y may be cut first by x or first by y.  The layouts do not say; the compiler cares: gathering the *minor* axes of a
dim, or scattering over new minor axes, is one collective, anything else needs a permute of the data first.  So along every
edge the axes that stay on a dim should be its major ones, in the same order on both sides.  Orders are labels of a second,
small cost network: one variable per factor of an op and per dim of an anchored value that carries two or more axes; a
mismatch costs a collective-permute of the local tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.layouts import UNREDUCED, local_fraction
from autoshard.search.graph import Op
from autoshard.search.network import Network
from autoshard.search.problem import Edge, Problem, VariableKind
from autoshard.search.solver import solve

Axes = tuple[int, ...]
Spec = tuple[Axes, ...]
"""For each dim of a tensor its mesh axes (as indices), major first."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A spot where axes meet: factor `part` of an op variable, or canonical dim `part` of a layout variable."""

    variable: int
    part: int


class Orders:
    """Chosen orders of a plan; turns labels into ordered specs."""

    def __init__(self, problem: Problem, labels: Sequence[int]) -> None:
        """Choose the orders for the plan given by `labels`."""
        self.problem, self.labels = problem, labels
        self._chosen: dict[_Place, Axes] = {}
        self.permute_seconds = 0.0
        self._solve()

    def axes_at(self, place: _Place) -> Axes:
        """The axes at a place in mesh order."""
        variable = self.problem.variables[place.variable]
        code = variable.codes[self.labels[place.variable]]
        return tuple(int(a) for a in np.flatnonzero(code == place.part))

    def spec_of_operand(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of an operand as the op's strategy wants it."""
        return self._op_spec(op, op.operand_dims[position])

    def spec_of_result(self, op: Op, position: int) -> Spec:
        """Ordered axes of each dim of a result as the op's strategy leaves it."""
        return self._op_spec(op, op.result_dims[position])

    def spec_of_value(self, value: int) -> Spec:
        """Ordered axes of each dim of an anchored value."""
        return tuple(self._ordered(places) for places in self._value_places(value))

    def _op_spec(self, op: Op, dims: Sequence[Axes]) -> Spec:
        variable = self.problem.op_variable[op.index]
        return tuple(self._ordered([_Place(variable, f) for f in dim]) for dim in dims)

    def _ordered(self, places: Sequence[_Place]) -> Axes:
        return tuple(a for place in places for a in self._chosen.get(place, self.axes_at(place)))

    def _value_places(self, value: int) -> list[list[_Place]]:
        problem = self.problem
        variable = problem.value_variable[value]
        rank = len(problem.graph.values[value].shape)
        if value not in problem.classes:
            return [[_Place(variable, d)] for d in range(rank)]
        places: list[list[_Place]] = [[] for _ in range(rank)]
        for canonical, dim in enumerate(problem.classes[value].dims[value]):
            places[dim] = [_Place(variable, canonical)]
        return places

    # The network of orders.

    def _solve(self) -> None:
        network = Network()
        numbers: dict[_Place, int] = {}
        domains: list[list[Axes]] = []
        for place in self._places():
            numbers[place] = network.add_variable(np.zeros(len(perms := list(itertools.permutations(self.axes_at(place))))), str(place))
            domains.append(perms)
        for edge in self.problem.edges:
            self._add_edge(network, numbers, domains, edge)
        if not numbers:
            return
        solution = solve(network)
        self.permute_seconds = solution.value
        self._chosen = {place: domains[number][solution.labels[number]] for place, number in numbers.items()}

    def _places(self) -> list[_Place]:
        places = []
        for number, variable in enumerate(self.problem.variables):
            code = variable.codes[self.labels[number]]
            places += [_Place(number, int(part)) for part in np.unique(code[code >= 0]) if (code == part).sum() > 1]
        return places

    def _add_edge(self, network: Network, numbers: dict[_Place, int], domains: list[list[Axes]], edge: Edge) -> None:
        price = self._price(edge)
        present = {int(a) for a in np.flatnonzero(edge.source_layouts[self.labels[edge.source]] >= 0)}
        for source, target in zip(self._source_places(edge), self._target_places(edge), strict=True):
            involved = list(dict.fromkeys(place for place in (*source, *target) if place in numbers))
            if not involved:
                continue
            cost = self._mismatch(source, target, involved, numbers, domains, present) * price
            if cost.ndim == 1:
                network.add_unary(numbers[involved[0]], cost)
            elif cost.ndim == 2:
                network.add_pairwise(numbers[involved[0]], numbers[involved[1]], cost)
            # More than two orders meet in one dim only where merged dims meet; their order is left as it falls.

    def _mismatch(
        self, source: list[_Place], target: list[_Place], involved: list[_Place], numbers: dict[_Place, int], domains: list[list[Axes]], present: set[int]
    ) -> npt.NDArray[np.float64]:
        options = [domains[numbers[place]] for place in involved]
        cost = np.zeros([len(option) for option in options])
        for index in np.ndindex(*cost.shape):
            orders = {place: options[i][index[i]] for i, place in enumerate(involved)}
            have = [a for place in source for a in orders.get(place, self.axes_at(place))]
            want = [a for place in target for a in orders.get(place, self.axes_at(place))]
            cost[index] = not _compatible(have, want, present)
        return cost

    def _price(self, edge: Edge) -> float:
        problem = self.problem
        rows = np.stack([edge.source_layouts[self.labels[edge.source]], edge.target_layouts[self.labels[edge.target]]])
        local = problem.graph.values[edge.value].nbytes * float(local_fraction(rows, problem.mesh).min())
        axes = tuple(range(len(problem.mesh.axes)))
        return edge.trips * float(collective_seconds(Kind.COLLECTIVE_PERMUTE, local, axes, problem.mesh))

    def _source_places(self, edge: Edge) -> list[list[_Place]]:
        variable = self.problem.variables[edge.source]
        if variable.kind is VariableKind.LAYOUT:
            return self._value_places(self._held(edge, edge.source))
        op = self.problem.graph.ops[variable.subject]
        value = self._made_by(op, edge)
        return [[_Place(edge.source, f) for f in dim] for dim in op.result_dims[op.results.index(value)]]

    def _target_places(self, edge: Edge) -> list[list[_Place]]:
        variable = self.problem.variables[edge.target]
        if variable.kind is VariableKind.LAYOUT:
            return self._value_places(self._held(edge, edge.target))
        op = self.problem.graph.ops[variable.subject]
        return [[_Place(edge.target, f) for f in dim] for dim in op.operand_dims[op.operands.index(edge.value)]]

    def _made_by(self, op: Op, edge: Edge) -> int:
        """The value that `op` puts on the edge: the edge's own, or what is handed over into its slot."""
        if edge.value in op.results:
            return edge.value
        return self.problem.graph.ops[edge.op].operands[0]

    def _held(self, edge: Edge, variable: int) -> int:
        """The value of the edge that a layout variable describes; a hand-over joins two."""
        value = edge.value
        if edge.op >= 0 and variable == edge.source and not edge.op == self.problem.graph.values[value].producer:
            return value
        if variable == edge.target or self.problem.value_variable.get(value) == variable:
            return value
        return self.problem.graph.ops[edge.op].operands[0]


def _compatible(have: Sequence[int], want: Sequence[int], present: Collection[int]) -> bool:
    """Whether one collective per change is enough: axes that stay are the major ones, in the same order, on both sides.

    New axes follow in the order in which they come: first those that shard nothing before, then those that come from another
    dim (`present` are the axes that shard some dim before).
    """
    kept = [a for a in have if a in want]
    new = list(want[len(kept) :])
    arrival = [a in present for a in new]
    return list(have[: len(kept)]) == kept and list(want[: len(kept)]) == kept and arrival == sorted(arrival)


def unreduced_axes(layout: npt.NDArray[np.int8]) -> Axes:
    """The axes over which a layout leaves a sum open."""
    return tuple(int(a) for a in np.flatnonzero(layout == UNREDUCED))
