"""HBM per chip of a plan: what is live at every point of the program, as linear rows of the decision problem.

A point is an op in program order.  Live there are: the arguments (always, a donated one sharing its buffer with its result), loop
carries (in place when the loop keeps the layout), results once made, intermediates from their op to their last reader, and
the resharded copy that the op at the point reads.  Every term depends on one variable's label, or on two neighbours' labels
for a copy, so the bytes at a point are one `BudgetRow`; the peak over points is found for each plan and the
offending point is added as a row until the best plan fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import local_fraction
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.candidates import result_layouts
from autoshard.search.graph import Graph, OpKind, consumers
from autoshard.search.costs import materialised
from autoshard.search.problem import Edge, Problem, VariableKind

Floats = npt.NDArray[np.float64]

ARGUMENTS, LOOP, RESULTS, ACTIVATIONS, COPIES = "arguments", "loop carries", "results", "activations", "resharded copies"
KINDS = (ARGUMENTS, LOOP, RESULTS, ACTIVATIONS, COPIES)


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes [K] under the labels of a variable (or a constant when `variable` is -1), live from `start` to `stop` inclusive."""

    variable: int
    local_bytes: Floats
    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A second buffer for a value whose reader wants another layout: live from `start` to `stop` when the layouts differ."""

    edge: Edge
    local_bytes: Floats
    start: int
    stop: int
    kind: str


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
        graph = problem.graph
        self._end = len(graph.ops)
        self._last = _last_uses(graph)
        self._donated = {graph.arguments[i] for i, _ in graph.aliases}
        self.buffers = [*self._classes(), *self._plain()]
        self.copies = [copy for edge in problem.edges if (copy := self._copy(edge)) is not None]

    def peak(self, labels: Sequence[int]) -> Peak:
        """Return the peak of a plan."""
        live = np.zeros((len(KINDS), self._end + 2))
        for buffer in self.buffers:
            nbytes = float(buffer.local_bytes[labels[buffer.variable] if buffer.variable >= 0 else 0])
            _add(live[KINDS.index(buffer.kind)], buffer, nbytes)
        for copy in self.copies:
            edge = copy.edge
            have, want = edge.source_layouts[labels[edge.source]], edge.target_layouts[labels[edge.target]]
            if (have != want).any():
                _add(live[KINDS.index(copy.kind)], copy, float(copy.local_bytes[labels[edge.target]]))
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
                self._charge(copy, unary, pairwise)
        return BudgetRow(f"HBM at {self._name(point)}", unary, pairwise), constant

    def _charge(self, copy: Copy, unary: dict[int, Floats], pairwise: dict[tuple[int, int], Floats]) -> None:
        edge = copy.edge
        differs = (edge.source_layouts[:, None, :] != edge.target_layouts[None, :, :]).any(axis=2)
        matrix = differs * copy.local_bytes[None, :]
        if edge.source == edge.target:
            unary[edge.source] = unary.get(edge.source, 0.0) + np.diagonal(matrix)
            return
        key = (edge.source, edge.target)
        pairwise[key] = pairwise.get(key, 0.0) + matrix

    def _name(self, point: int) -> str:
        return self.problem.graph.ops[point].name if point < self._end else "the end"

    def _classes(self) -> list[Buffer]:
        """One buffer per layout variable."""
        graph = self.problem.graph
        groups: dict[int, list[int]] = {}
        for value, variable in self.problem.value_variable.items():
            groups.setdefault(variable, []).append(value)
        arguments, results = set(graph.arguments), set(graph.results)
        buffers = []
        for variable, members in groups.items():
            biggest = max(members, key=lambda v: graph.values[v].nbytes)
            handed = [v for v in members if graph.values[v].producer >= 0 and graph.ops[graph.values[v].producer].kind is OpKind.IDENTITY]
            starts, stops = [self._start(v) for v in members], [self._last[v] for v in members]
            if arguments & set(members):
                kind, start, stop = ARGUMENTS, 0, self._end
            elif results & set(members):
                kind, start, stop = RESULTS, min(starts), self._end
            elif len(handed) == len(members) and self._in_place(members):
                continue
            else:
                kind, start, stop = LOOP if handed else ACTIVATIONS, min(starts), max(stops)
            if kind == ACTIVATIONS and self._aliases_operand(biggest):
                continue
            codes = self.problem.variables[variable].codes
            buffers.append(Buffer(variable, graph.values[biggest].nbytes * local_fraction(codes, self.problem.mesh), start, stop, kind))
        return buffers

    def _in_place(self, members: Sequence[int]) -> bool:
        """Whether the first of tied loop slots takes over the buffer of what is handed to it."""
        graph = self.problem.graph
        first = min(members)
        source = graph.ops[graph.values[first].producer].operands[0]
        return not graph.values[source].free and not (source in graph.arguments and source not in self._donated)

    def _start(self, value: int) -> int:
        producer = self.problem.graph.values[value].producer
        return max(0, producer)

    def _aliases_operand(self, value: int) -> bool:
        """Whether a value is a view of a stored one or an update in its place."""
        known = self.problem.graph.values[value]
        return known.stored_bytes > 0 and known.producer >= 0

    def _plain(self) -> list[Buffer]:
        """Values that no layout variable describes: constants, small arguments, intermediates with one reader."""
        graph, problem = self.problem.graph, self.problem
        exists = materialised(graph)
        constant = sum(graph.values[v].nbytes for v in graph.constants)
        constant += sum(graph.values[v].nbytes for v in graph.arguments if graph.values[v].free)
        buffers = [Buffer(-1, np.array([constant]), 0, self._end, ARGUMENTS)]
        for op in graph.ops:
            if op.index not in problem.op_variable:
                continue
            buffers += [
                Buffer(problem.op_variable[op.index], local, op.index, self._last[value], ACTIVATIONS)
                for value, local in self._made(op.index, exists)
            ]
        return buffers

    def _made(self, op_index: int, exists: Sequence[bool]) -> list[tuple[int, Floats]]:
        graph, problem = self.problem.graph, self.problem
        op = graph.ops[op_index]
        codes = problem.variables[problem.op_variable[op_index]].codes
        return [
            (value, graph.values[value].nbytes * local_fraction(result_layouts(op, codes, position), problem.mesh))
            for position, value in enumerate(op.results)
            if exists[value] and value not in problem.value_variable and not self._aliases_operand(value)
        ]

    def _copy(self, edge: Edge) -> Copy | None:
        """The second buffer of a resharded value: at its reader, or for the whole loop that takes it over."""
        graph, problem = self.problem.graph, self.problem
        reader = graph.ops[edge.op] if edge.op >= 0 else None
        if reader is None:
            return None
        local = graph.values[edge.value].nbytes * local_fraction(edge.target_layouts, problem.mesh)
        if reader.kind is not OpKind.IDENTITY:
            return Copy(edge, local, edge.op, edge.op, COPIES)
        slot_variable = problem.variables[edge.target]
        if slot_variable.kind is VariableKind.LAYOUT and edge.value in problem.graph.results:
            return None
        return Copy(edge, local, edge.op, self._last[edge.value], LOOP)


def _add(live: Floats, item: Buffer | Copy, nbytes: float) -> None:
    live[item.start] += nbytes
    live[item.stop + 1] -= nbytes


def _last_uses(graph: Graph) -> list[int]:
    """For each value the last op at which it is needed; a value of an outer loop is needed until the inner loop ends."""
    readers = consumers(graph)
    last = []
    for value in graph.values:
        stop = max((_outermost(graph, op, value.loop) for op, _ in readers[value.index]), default=max(0, value.producer))
        last.append(stop)
    for tie in graph.ties:
        outer, inner = graph.values[tie.outer], graph.values[tie.inner]
        if inner.loop >= 0 and outer.loop != inner.loop:
            last[tie.outer] = max(last[tie.outer], graph.loops[inner.loop].stop - 1)
    return last


def _outermost(graph: Graph, op: int, loop: int) -> int:
    """The op at which a value of `loop` that `op` reads may die: the end of the outermost loop around `op` inside `loop`."""
    inside = graph.ops[op].loop
    point = op
    while inside not in (loop, -1):
        point = graph.loops[inside].stop - 1
        inside = graph.loops[inside].parent
    return point
