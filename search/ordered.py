"""A problem whose labels say in which order several axes shard one dim: then permutes are costs like others.

The layouts of a problem leave the order of axes within a dim open (`autoshard.search.ordering`). Here each
label becomes one label per order of the axes at its places, and along every edge the permute that two orders
need is part of the cost. Followers keep one order as they keep one layout. That makes labels many, so it is
done with those alone that plans worth finding use (`autoshard.search.order_search`).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from autoshard.search.costs import OpCost
from autoshard.search.followers import Followers, merge
from autoshard.search.network import IntArray, Network, Pair
from autoshard.search.permute_costs import AxesByPart, PermuteCosts
from autoshard.search.places import Axes, Place, axes_by_part
from autoshard.search.problem import Edge, Problem, Variable

_Slots = dict[tuple[Place, ...], Axes]


@dataclass(frozen=True, slots=True)
class Ordered:
    """An ordered problem and the way back.

    Attributes:
        problem: The ordered problem.
        followers: Its network with followers folded in; a variable has the labels of its leader.
        origin: For each variable, the label of the original problem behind each of its labels.
    """

    problem: Problem
    followers: Followers
    origin: tuple[IntArray, ...]

    def original(self, labels: Sequence[int]) -> tuple[int, ...]:
        """Labels of the original problem."""
        return tuple(int(origin[label]) for origin, label in zip(self.origin, labels, strict=True))


def ordered(
    problem: Problem, followers: Followers, kept: Sequence[IntArray], most_labels: int
) -> Ordered | None:
    """Return the ordered problem over some of the labels.

    Args:
        problem: The problem.
        followers: Its network with followers folded in.
        kept: Of each leader, the labels that may be used.
        most_labels: Of all leaders together, orders written out; None is returned where there are more.
    """
    groups = _Groups(problem, followers)
    if sum(groups.count(lead, labels) for lead, labels in enumerate(kept)) > most_labels:
        return None
    rows = [groups.rows(lead, labels) for lead, labels in enumerate(kept)]
    origin, orders = [], []
    for number, lead in enumerate(followers.leader):
        origin.append(followers.labels[number][np.array([label for label, _ in rows[lead]], dtype=np.intp)])
        orders.append([chosen.get(number, {}) for _, chosen in rows[lead]])
    edges = tuple(_taken(edge, origin) for edge in problem.edges)
    network = _network(problem, edges, origin, orders)
    variables = tuple(_variable(each, at) for each, at in zip(problem.variables, origin, strict=True))
    members = [(each, [np.arange(len(rows[lead]))] * len(each)) for lead, each in enumerate(groups.members)]
    result = replace(problem, variables=variables, edges=edges, network=network)
    return Ordered(result, merge(network, members), tuple(origin))


class _Groups:
    """The variables that decide together, and the orders that are theirs to choose."""

    def __init__(self, problem: Problem, followers: Followers) -> None:
        self.problem, self.followers = problem, followers
        self.members: list[list[int]] = [[] for _ in range(followers.network.n_variables)]
        for number, lead in enumerate(followers.leader):
            self.members[lead].append(number)
        self.known: dict[tuple[int, int], _Slots] = {}

    def count(self, lead: int, labels: IntArray) -> int:
        """How many ordered labels a leader has."""
        return sum(
            prod(len(self.options(*slot)) for slot in self.slots(lead, int(label)).items())
            for label in labels
        )

    def rows(self, lead: int, labels: IntArray) -> list[tuple[int, dict[int, AxesByPart]]]:
        """The ordered labels of a leader: its label, and by variable the orders of its parts."""
        found = []
        for label in labels:
            slots = self.slots(lead, int(label))
            for choice in itertools.product(*(self.options(*slot) for slot in slots.items())):
                orders: dict[int, AxesByPart] = {}
                for places, axes in zip(slots, choice, strict=True):
                    for place in places:
                        orders.setdefault(place.variable, {})[place.part] = axes
                found.append((int(label), orders))
        return found

    def options(self, places: tuple[Place, ...], axes: Axes) -> list[Axes]:
        """The orders that the axes at places may have: one where the user fixed it."""
        for place in places:
            if (place.variable, place.part) in self.problem.orders:
                return [self.problem.orders[place.variable, place.part]]
        return list(itertools.permutations(axes))

    def slots(self, lead: int, label: int) -> _Slots:
        """What has several axes under a label: places that share an order, and their axes in mesh order."""
        if (lead, label) not in self.known:
            self.known[lead, label] = self._slots(lead, label)
        return self.known[lead, label]

    def _slots(self, lead: int, label: int) -> _Slots:
        found: dict[Hashable, list[Place]] = {}
        axes_of: dict[Hashable, Axes] = {}
        for number in self.members[lead]:
            code = self.problem.variables[number].codes[self.followers.labels[number][label]]
            for part, axes in axes_by_part(code).items():
                if len(axes) > 1:
                    slot = self.slot(lead, Place(number, part))
                    found.setdefault(slot, []).append(Place(number, part))
                    axes_of[slot] = axes
        return {tuple(places): axes_of[slot] for slot, places in found.items()}

    def slot(self, lead: int, place: Place) -> Hashable:
        """What places share an order: of a chain those of one dim of its tensor."""
        variable = self.problem.variables[place.variable]
        if len(self.members[lead]) == 1:
            return place
        if variable.cost is None:
            return place.part
        dims = self.problem.graph.ops[variable.subject].result_dims[0]
        return next((number for number, dim in enumerate(dims) if dim == (place.part,)), place)


def _taken(edge: Edge, origin: Sequence[IntArray]) -> Edge:
    source, target = origin[edge.source], origin[edge.target]
    return replace(
        edge,
        source_layouts=edge.source_layouts[source],
        target_layouts=edge.target_layouts[target],
        beside=None if edge.beside is None else edge.beside[target],
    )


def _variable(variable: Variable, origin: IntArray) -> Variable:
    cost = variable.cost
    taken = (
        None
        if cost is None
        else OpCost(
            cost.compute_seconds[origin],
            cost.hbm_seconds[origin],
            cost.flops_per_chip[origin],
            cost.launch_seconds,
            cost.serial_fraction,
        )
    )
    return replace(variable, codes=variable.codes[origin], cost=taken)


def _network(
    problem: Problem,
    edges: Sequence[Edge],
    origin: Sequence[IntArray],
    orders: Sequence[Sequence[AxesByPart]],
) -> Network:
    """The costs of the original network, and the permutes."""
    known = problem.network
    unary = [vector[at] for vector, at in zip(known.unary, origin, strict=True)]
    pairwise = {(i, j): matrix[np.ix_(origin[i], origin[j])] for (i, j), matrix in known.pairwise.items()}
    permutes = PermuteCosts(problem, origin, orders)
    for edge in edges:
        cost = permutes.on(edge)
        if cost is None:
            continue
        if edge.source == edge.target:
            unary[edge.source] = unary[edge.source] + np.diagonal(cost)
            continue
        pair: Pair = (min(edge.source, edge.target), max(edge.source, edge.target))
        pairwise[pair] = pairwise.get(pair, 0.0) + (cost if pair[0] == edge.source else cost.T)
    return Network.of(known.names, unary, pairwise)
