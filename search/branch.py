"""Best-first branch and bound over label sets, for one connected network.

A node allows each variable a set of labels. Its bound comes from dual ascent; labels that cannot beat the
incumbent are pruned; what is left is eliminated exactly as soon as that is affordable, which on the graphs
of Transformers happens at the root. Only when it is not, the variable that sits in the most expensive
tables has its labels split in two halves, likely and unlikely, and both are searched. The least bound of
the open nodes is a proven bound at any time, so the search can be stopped by a time limit.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from time import monotonic

import numpy as np

from autoshard.search.bounds import DualAscent, Potentials, expanded, sliced
from autoshard.search.elimination import Elimination
from autoshard.search.errors import NoSolutionError, TimeLimitError
from autoshard.search.network import BoolArray, IntArray, Network
from autoshard.search.order import Order, elimination_order
from autoshard.search.reduction import Reduced, reduce
from autoshard.search.solution import Solution
from autoshard.search.threshold import affordable_threshold, solve_within, within

_TOLERANCE = 1e-9
_SECONDS_PER_OPERATION = 3e-9


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a search may put into one elimination.

    Attributes:
        direct_operations: table entries up to which a network is eliminated without looking for bounds first.
        most_operations: table entries up to which it is eliminated when bounds no longer help.
        largest_table: entries of the largest table that may be stored (8 bytes each).
        sweeps: dual sweeps between two attempts to prune.
        rounds: attempts to prune before branching.
        most_nodes: nodes that are looked at; then the best found and its bound.
    """

    direct_operations: float = 2e8
    most_operations: float = 1e10
    largest_table: float = 4e7
    sweeps: int = 6
    rounds: int = 12
    most_nodes: float = inf


@dataclass(frozen=True, order=True, slots=True)
class _Node:
    bound: float
    serial: int
    allowed: list[BoolArray] = field(compare=False)
    potentials: Potentials = field(compare=False)


class BranchAndBound:
    """One search of one network; `run` does it."""

    def __init__(self, network: Network, *, gap: float, deadline: float, effort: Effort) -> None:
        """Prepare a search.

        Args:
            network: reduced (`reduction.reduce`).
            gap: relative gap at which to stop.
            deadline: `time.monotonic()` value at which to stop, may be +inf.
            effort: limits of a single elimination.
        """
        self._network = network
        self._gap = gap
        self._deadline = deadline
        self._effort = effort
        self._labels: tuple[int, ...] | None = None
        self._value = np.inf
        self._closed = np.inf  # least bound of the nodes given up because they cannot improve enough
        self._open: list[_Node] = []
        self._serial = 0
        self._eliminated = False

    def run(self) -> Solution:
        """Search until the gap is closed or the deadline passes.

        Raises:
            NoSolutionError: no assignment is possible.
            TimeLimitError: none was found in time.
        """
        self._push(-np.inf, [np.ones(size, np.bool_) for size in self._network.sizes], {})
        self._process(heappop(self._open))
        looked_at = 1
        while self._open and self._open[0].bound < self._cutoff() and not self._is_late():
            if looked_at >= self._effort.most_nodes and self._labels is not None:
                break
            self._process(heappop(self._open))
            looked_at += 1
        return self._result()

    def _result(self) -> Solution:
        bound = min(self._closed, min((node.bound for node in self._open), default=np.inf))
        if self._labels is None:
            if np.isinf(bound) and bound > 0:
                raise NoSolutionError("no assignment is possible: every combination meets a forbidden pair")
            raise TimeLimitError("no assignment was found in time and none was ruled out; allow more time")
        if bound >= self._value - self._tolerance():
            bound = self._value
        return Solution(self._labels, self._value, bound, self._method())

    def _method(self) -> str:
        if self._serial > 1:
            return "branch and bound"
        return "elimination" if self._eliminated else "bound only"

    def _process(self, node: _Node) -> None:
        """Close a node, or open its children."""
        try:
            reduced = reduce(self._network, dict(enumerate(node.allowed)))
            self._examine(reduced, node)
        except NoSolutionError:
            return

    def _examine(self, reduced: Reduced, node: _Node) -> None:
        """Alternate dual sweeps and pruning until the network can be eliminated or no longer shrinks."""
        effort = self._effort
        order = elimination_order(reduced.network)
        if order.operations <= effort.direct_operations:
            return self._eliminate(reduced, order)
        dual = DualAscent(reduced.network, sliced(node.potentials, reduced))
        for _ in range(effort.rounds):
            before = (dual.bound, order.operations)
            self._sweep(reduced, dual)
            if self._is_closed(dual, reduced, order):
                return None
            if self._is_late():
                return self._postpone(reduced, dual, node)
            reduced, dual = self._pruned(reduced, dual)
            order = elimination_order(reduced.network)
            if order.operations <= effort.direct_operations:
                return self._eliminate(reduced, order)
            if not self._is_progress(before, (dual.bound, order.operations)):
                break
        if self._is_possible(order):
            return self._eliminate(reduced, order)
        return self._split(reduced, dual, order, node)

    def _sweep(self, reduced: Reduced, dual: DualAscent) -> None:
        for _ in range(self._effort.sweeps):
            dual.sweep()
            if self._is_late():
                break
        if dual.labels is not None:
            self._offer(reduced.original(dual.labels))

    def _is_closed(self, dual: DualAscent, reduced: Reduced, order: Order) -> bool:
        """Whether the node's bound, or an exact look at its promising labels, settles it."""
        if dual.bound < self._cutoff() and self._solves_promising(dual, reduced, order):
            return True
        if dual.bound >= self._cutoff():
            self._closed = min(self._closed, dual.bound)
            return True
        return False

    def _solves_promising(self, dual: DualAscent, reduced: Reduced, order: Order) -> bool:
        """Look for an incumbent among the promising labels; whether it is proven the node's best."""
        operations = self._effort.direct_operations / 4
        threshold = affordable_threshold(dual.label_bounds, order, operations)
        if threshold is None:
            return False
        found = solve_within(reduced.network, dual.label_bounds, min(threshold, self._value))
        if found is None:
            return False
        self._offer(reduced.original(found.labels))
        self._eliminated = self._eliminated or found.is_optimal
        return found.is_optimal

    def _pruned(self, reduced: Reduced, dual: DualAscent) -> tuple[Reduced, DualAscent]:
        """Drop the labels whose bound exceeds the incumbent."""
        masks = within(dual.label_bounds, self._value + self._tolerance())
        if all(mask.all() for mask in masks):
            return reduced, dual
        fewer = reduced.further(masks)
        full = expanded(dual.potentials, reduced, self._network.sizes)
        return fewer, DualAscent(fewer.network, sliced(full, fewer))

    def _is_progress(self, before: tuple[float, float], after: tuple[float, float]) -> bool:
        gain = after[0] - before[0]
        missing = self._value - after[0]
        return after[1] < 0.7 * before[1] or gain > 0.05 * missing or (gain > 0 and np.isinf(missing))

    def _is_possible(self, order: Order) -> bool:
        seconds = self._deadline - monotonic()
        affordable = min(self._effort.most_operations, seconds / _SECONDS_PER_OPERATION)
        return order.operations <= affordable and order.largest_table <= self._effort.largest_table

    def _eliminate(self, reduced: Reduced, order: Order) -> None:
        self._offer(reduced.original(Elimination(reduced.network, order).labels()))
        self._eliminated = True

    def _postpone(self, reduced: Reduced, dual: DualAscent, node: _Node) -> None:
        """Put a node back whose examination the deadline cut short."""
        potentials = expanded(dual.potentials, reduced, self._network.sizes)
        bound = max(dual.bound, node.bound)
        heappush(self._open, _Node(bound, node.serial, node.allowed, potentials))

    def _split(self, reduced: Reduced, dual: DualAscent, order: Order, node: _Node) -> None:
        """Open two children: the likely and the unlikely labels of the variable in the costliest tables."""
        i = _costliest(reduced.network, order)
        ranked = np.argsort(dual.label_bounds[i], kind="stable")
        allowed = reduced.masks(self._network.sizes)
        potentials = expanded(dual.potentials, reduced, self._network.sizes)
        for half in np.array_split(ranked, 2):
            child = list(allowed)
            child[i] = _mask(reduced.kept[i][half], self._network.size(i))
            bound = max(node.bound, dual.bound, float(dual.label_bounds[i][half].min()))
            self._push(bound, child, potentials)

    def _push(self, bound: float, allowed: list[BoolArray], potentials: Potentials) -> None:
        self._serial += 1
        heappush(self._open, _Node(bound, self._serial, allowed, potentials))

    def _offer(self, labels: tuple[int, ...]) -> None:
        value = self._network.value(labels)
        if value < self._value:
            self._labels, self._value = labels, value

    def _tolerance(self) -> float:
        return _TOLERANCE * abs(self._value) if np.isfinite(self._value) else 0.0

    def _cutoff(self) -> float:
        """Nodes with at least this bound need no search."""
        if np.isinf(self._value):
            return np.inf
        return self._value - max(self._gap * abs(self._value), self._tolerance())

    def _is_late(self) -> bool:
        return monotonic() >= self._deadline


def _costliest(network: Network, order: Order) -> int:
    """The variable, of those with a choice, in the most table entries."""
    sizes = network.sizes
    weight = np.zeros(len(sizes))
    for v, scope in zip(order.sequence, order.scopes, strict=True):
        entries = float(np.prod([float(sizes[u]) for u in (v, *scope)]))
        weight[[v, *scope]] += entries
    return int(np.argmax(np.where(np.array(sizes) > 1, weight, -1.0)))


def _mask(labels: IntArray, size: int) -> BoolArray:
    mask = np.zeros(size, np.bool_)
    mask[labels] = True
    return mask
