"""HBM per chip of a plan: what is live at every point of the program, as linear rows of the decision
problem.

A point is an op in program order.  Live there are: the arguments (always, a donated one sharing its buffer
with its result); loop carries and stacked outputs while their loop runs, results once made, intermediates
from their op to their last reader; and the copies that resharding makes: a gathered operand at its reader,
an open sum at its maker. A loop or a result takes over the buffer of what is handed to it when nothing else
needs that, and a donated argument is updated in place.  Every term depends on one variable's label, or on
two neighbours' labels for a copy, so the bytes at a point are one `BudgetRow`; the peak over points is found
for each plan and the offending point is added as a row until the best plan fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import Layouts, local_fraction
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.candidates import result_layouts
from autoshard.search.costs import materialised
from autoshard.search.graph import OpKind
from autoshard.search.lifetimes import Lifetimes
from autoshard.search.problem import Edge, Problem

Floats = npt.NDArray[np.float64]

ARGUMENTS, LOOP, RESULTS = "arguments", "loop carries", "results"
ACTIVATIONS, COPIES = "activations", "resharded copies"
KINDS = (ARGUMENTS, LOOP, RESULTS, ACTIVATIONS, COPIES)


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes [K] under the labels of a variable, live from `start` to `stop` inclusive.

    `variable` is -1 for a constant number of bytes, [1].
    """

    variable: int
    local_bytes: Floats
    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A second buffer of [K, J] bytes for a value on an edge, live from `start` to `stop` if it moves."""

    edge: Edge
    local_bytes: Floats
    start: int
    stop: int
    kind: str

    def bytes_of(self, labels: Sequence[int]) -> float:
        """The bytes under a plan."""
        source, target = labels[self.edge.source], labels[self.edge.target]
        differs = (self.edge.source_layouts[source] != self.edge.target_layouts[target]).any()
        return float(self.local_bytes[source, target]) if differs else 0.0

    def matrix(self) -> Floats:
        """[K, J] bytes under all labels."""
        differs = (self.edge.source_layouts[:, None, :] != self.edge.target_layouts[None, :, :]).any(axis=2)
        return np.where(differs, self.local_bytes, 0.0)


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest number of bytes live at once on a chip, where that is, and of what kinds they are."""

    nbytes: float
    point: int
    by_kind: dict[str, float]


class MemoryModel:
    """Buffers and copies of a problem; answers what a plan needs and how to forbid a point's excess."""

    def __init__(self, problem: Problem) -> None:
        """Collect the buffers of `problem`."""
        self.problem = problem
        self._graph = problem.graph
        self._end = len(problem.graph.ops)
        self._lifetimes = Lifetimes(problem.graph)
        self._members: dict[int, list[int]] = {}
        for value, variable in problem.value_variable.items():
            self._members.setdefault(variable, []).append(value)
        self.buffers = [*self._anchored(), *self._plain()]
        self.copies = [copy for edge in problem.edges if (copy := self._copy(edge)) is not None]

    def peak(self, labels: Sequence[int]) -> Peak:
        """Return the peak of a plan."""
        live = np.zeros((len(KINDS), self._end + 2))
        for buffer in self.buffers:
            label = labels[buffer.variable] if buffer.variable >= 0 else 0
            _add(live, buffer, float(buffer.local_bytes[label]))
        for copy in self.copies:
            _add(live, copy, copy.bytes_of(labels))
        totals = live.cumsum(axis=1)
        point = int(totals.sum(axis=0).argmax())
        by_kind = {kind: float(totals[i, point]) for i, kind in enumerate(KINDS)}
        return Peak(sum(by_kind.values()), point, by_kind)

    def row(self, point: int) -> tuple[BudgetRow, float]:
        """Return the bytes live at a point as a row, and the constant bytes that no decision changes."""
        unary: dict[int, Floats] = {}
        pairwise: dict[tuple[int, int], Floats] = {}
        constant = 0.0
        for buffer in self.buffers:
            if not buffer.start <= point <= buffer.stop:
                continue
            if buffer.variable < 0:
                constant += float(buffer.local_bytes[0])
            else:
                unary[buffer.variable] = unary.get(buffer.variable, 0.0) + buffer.local_bytes
        for copy in self.copies:
            if copy.start <= point <= copy.stop:
                _charge(copy, unary, pairwise)
        return BudgetRow(f"HBM at {self._name(point)}", unary, pairwise), constant

    def _name(self, point: int) -> str:
        return self._graph.ops[point].name if point < self._end else "the end"

    # Buffers.

    def _anchored(self) -> list[Buffer]:
        """One buffer per layout variable, except where it lies in another's."""
        buffers = []
        for variable, members in self._members.items():
            span = self._span(variable)
            if span is None:
                continue
            nbytes = max(self._graph.values[v].nbytes for v in members)
            local = self._local(nbytes, self.problem.variables[variable].codes)
            buffers.append(Buffer(variable, local, *span, self._kind(variable)))
        return buffers

    def _span(self, variable: int) -> tuple[int, int] | None:
        """First and last point of the buffer of a layout variable; None when it lies in another's."""
        kind, first = self._kind(variable), self._first_member(variable)
        if kind == ARGUMENTS:
            return 0, self._end
        if kind == ACTIVATIONS and self._lifetimes.shares(first):
            return None
        start = self._lifetimes.first(first)
        if self._takes_over(first):
            if self._in_argument(first):
                return None
            start += 1
        stop = self._end if kind == RESULTS else self._needed_until(variable)
        return start, max(start, stop)

    def _kind(self, variable: int) -> str:
        graph, members = self._graph, self._members[variable]
        if any(v in graph.arguments for v in members):
            return ARGUMENTS
        if any(v in graph.results for v in members):
            return RESULTS
        return LOOP if any(self._is_slot(v) for v in members) else ACTIVATIONS

    def _first_member(self, variable: int) -> int:
        return min(self._members[variable], key=lambda v: (self._lifetimes.first(v), v))

    def _needed_until(self, variable: int) -> int:
        return max(self._lifetimes.last(v) for v in self._members[variable])

    def _is_slot(self, value: int) -> bool:
        producer = self._graph.values[value].producer
        return producer >= 0 and self._graph.ops[producer].kind is OpKind.IDENTITY

    def _takes_over(self, slot: int) -> bool:
        """Whether a value is handed over in the buffer of its source, which nothing needs later."""
        producer = self._graph.values[slot].producer
        if not self._is_slot(slot) or self._lifetimes.first(slot) != producer:
            return False
        source = self._graph.ops[producer].operands[0]
        root = self._lifetimes.root(source)
        if self._graph.values[source].free or self._lifetimes.is_kept(source):
            return False
        variable = self.problem.value_variable.get(root, -1)
        if variable < 0 or self._kind(variable) == ARGUMENTS:
            return self._lifetimes.last(root) <= producer
        return self._needed_until(variable) <= producer

    def _in_argument(self, slot: int) -> bool:
        """Whether the buffer that a slot takes over is that of a (donated) argument."""
        source = self._graph.ops[self._graph.values[slot].producer].operands[0]
        variable = self.problem.value_variable.get(self._lifetimes.root(source), -1)
        return variable >= 0 and self._kind(variable) == ARGUMENTS

    def _plain(self) -> list[Buffer]:
        """Values without a layout variable: constants, small arguments, intermediates with one reader."""
        graph, problem, exists = self._graph, self.problem, materialised(self._graph)
        small = (*graph.constants, *(v for v in graph.arguments if graph.values[v].free))
        constant = sum(graph.values[v].nbytes for v in small)
        buffers = [Buffer(-1, np.array([float(constant)]), 0, self._end, ARGUMENTS)]
        for index, variable in problem.op_variable.items():
            op, codes = graph.ops[index], problem.variables[variable].codes
            for position, value in enumerate(op.results):
                if (
                    exists[value]
                    and value not in problem.value_variable
                    and not self._lifetimes.shares(value)
                ):
                    local = self._local(graph.values[value].nbytes, result_layouts(op, codes, position))
                    buffers.append(Buffer(variable, local, index, self._lifetimes.last(value), ACTIVATIONS))
        return buffers

    def _local(self, nbytes: float, layouts: Layouts) -> Floats:
        return nbytes * local_fraction(layouts, self.problem.mesh)

    # Copies.

    def _copy(self, edge: Edge) -> Copy | None:
        """The second buffer of a resharded value."""
        if edge.op < 0:
            return self._copy_at_maker(edge)
        if self._graph.ops[edge.op].kind is OpKind.IDENTITY:
            return self._copy_at_slot(edge)
        life = self._lifetimes
        inside = [
            v
            for v in self._graph.ops[edge.op].results
            if life.shares(v) and life.root(v) == life.root(edge.value)
        ]
        return self._arriving(edge, edge.op, max([edge.op, *map(life.last, inside)]), COPIES)

    def _copy_at_maker(self, edge: Edge) -> Copy:
        """An anchored value before it is brought to its layout; one in place is brought out of its buffer."""
        producer = self._graph.values[edge.value].producer
        if self._lifetimes.shares(edge.value):
            return self._arriving(edge, producer, self._needed_until(edge.target), COPIES)
        local = self._local(self._graph.values[edge.value].nbytes, edge.source_layouts)[:, None]
        return Copy(edge, _broadcast(local, edge), producer, producer, COPIES)

    def _copy_at_slot(self, edge: Edge) -> Copy | None:
        """A slot that would take a buffer over but wants another layout; others have their own anyway."""
        if edge.value != self._first_member(edge.target) or not self._takes_over(edge.value):
            return None
        if self._kind(edge.target) == ARGUMENTS:
            return None
        if self._in_argument(edge.value):
            stop = self._end if self._kind(edge.target) == RESULTS else self._needed_until(edge.target)
            return self._arriving(edge, edge.op, stop, LOOP)
        return self._arriving(edge, edge.op, edge.op, COPIES)

    def _arriving(self, edge: Edge, start: int, stop: int, kind: str) -> Copy:
        local = self._local(self._graph.values[edge.value].nbytes, edge.target_layouts)[None, :]
        return Copy(edge, _broadcast(local, edge), start, stop, kind)


def _broadcast(local: Floats, edge: Edge) -> Floats:
    return np.broadcast_to(local, (len(edge.source_layouts), len(edge.target_layouts)))


def _charge(copy: Copy, unary: dict[int, Floats], pairwise: dict[tuple[int, int], Floats]) -> None:
    source, target = copy.edge.source, copy.edge.target
    matrix = copy.matrix()
    if source == target:
        unary[source] = unary.get(source, 0.0) + np.diagonal(matrix)
    else:
        pairwise[source, target] = pairwise.get((source, target), 0.0) + matrix


def _add(live: Floats, item: Buffer | Copy, nbytes: float) -> None:
    row = KINDS.index(item.kind)
    live[row, item.start] += nbytes
    live[row, item.stop + 1] -= nbytes
