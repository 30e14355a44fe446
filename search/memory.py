"""HBM per chip of a plan: what is live at every point of the program, as linear rows of the decision
problem.

A point is an op in program order.  Live there are: the arguments (always, a donated one sharing its buffer
with its result); loop carries and stacked outputs while their loop runs, results once made, intermediates
from their op to their last reader; and the copies that resharding makes: an open sum at its maker, a gathered
operand at its reader, and where gathers hide from the reader of the weight before on; and the blocks that an
all-to-all sends (`autoshard.search.copies`).  A loop or a result
takes over the buffer of what is handed to it when nothing else needs that, a donated argument is updated in
place, and what takes its place is made there.  Intermediates of a kernel have no buffer.

Every term depends on one variable's label, or on two neighbours' labels for a copy, so the bytes at a point
are one `BudgetRow`; the peak over points is found for each plan and the offending point is added as a row
until the best plan fits.  The copies of a folded op have a buffer each, at their own points of the program,
and their leader's label.

Bytes are those of whole tiles (`autoshard.cost.tiles`), of copies those of the elements.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import Layouts, local_fraction, shard_counts
from autoshard.cost.tiles import tile_waste
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.candidates import result_layouts
from autoshard.search.collector import collector_paused
from autoshard.search.copies import Side, copied_bytes
from autoshard.search.graph import Graph, OpKind
from autoshard.search.kernels import kernels
from autoshard.search.lifetimes import Lifetimes
from autoshard.search.problem import Edge, Flow, Problem
from autoshard.search.spans import Span, columns

Floats = npt.NDArray[np.float64]

ARGUMENTS, LOOP, RESULTS = "arguments", "loop carries", "results"
ACTIVATIONS, COPIES = "activations", "resharded copies"
KINDS = (ARGUMENTS, LOOP, RESULTS, ACTIVATIONS, COPIES)


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest number of bytes live at once on a chip, where that is, and of what kinds they are."""

    nbytes: float
    point: int
    by_kind: dict[str, float]


class MemoryModel:
    """Buffers and copies of a problem; answers what a plan needs and how to forbid a point's excess.

    `buffers` hold [K] bytes under the labels of a variable (form: position in `_local`), `copies` the bytes
    of one side of an edge if it moves anything (form: position in `_sides`).
    """

    @collector_paused()
    def __init__(self, problem: Problem) -> None:
        """Collect the buffers of `problem`."""
        self.problem = problem
        self._graph = problem.graph
        self._end = len(problem.graph.ops)
        self._lifetimes = Lifetimes(problem.graph)
        self._exists = kernels(problem.graph).exists
        self._readers_of_stored = [op.index for op in problem.graph.einsums if problem.graph.reads_stored(op)]
        self._arguments, self._results = frozenset(self._graph.arguments), frozenset(self._graph.results)
        self._members = _members(problem)
        self._walked = _walked(problem.graph)
        self._home = {value: home for home, members in self._members.items() for value in members}
        self._local: list[tuple[int, Floats]] = []
        self._sides: list[tuple[int, Side]] = []
        self._forms: dict[object, int] = {}
        self.buffers = columns((*self._anchored(), *self._plain()))
        self.copies = columns(copy for flow in problem.flows for copy in self._copies(flow))

    def peak(self, labels: Sequence[int]) -> Peak:
        """Return the peak of a plan."""
        live = np.zeros((len(KINDS), self._end + 2))
        buffers = [float(local[labels[v] if v >= 0 else 0]) for v, local in self._local]
        copies = [self._bytes_of(edge, side, labels) for edge, side in self._sides]
        for spans, table in ((self.buffers, buffers), (self.copies, copies)):
            nbytes = np.array(table, dtype=np.float64)[spans.form]
            np.add.at(live, (spans.kind, spans.start), nbytes)
            np.subtract.at(live, (spans.kind, spans.stop + 1), nbytes)
        totals = live.cumsum(axis=1)
        point = int(totals.sum(axis=0).argmax())
        by_kind = {kind: float(totals[i, point]) for i, kind in enumerate(KINDS)}
        return Peak(sum(by_kind.values()), point, by_kind)

    def row(self, point: int) -> tuple[BudgetRow, float]:
        """Return the bytes live at a point as a row, and the constant bytes that no decision changes."""
        unary: dict[int, Floats] = {}
        pairwise: dict[tuple[int, int], Floats] = {}
        constant = 0.0
        for form, count in self.buffers.live(point):
            variable, local = self._local[form]
            if variable < 0:
                constant += count * float(local[0])
            else:
                unary[variable] = unary.get(variable, 0.0) + count * local
        for form, count in self.copies.live(point):
            edge, side = self._sides[form]
            _charge(self.problem.edges[edge], count * self._matrix(edge, side), unary, pairwise)
        return BudgetRow(f"HBM at {self._name(point)}", unary, pairwise), constant

    def _bytes_of(self, number: int, side: Side, labels: Sequence[int]) -> float:
        """Bytes of one side of an edge under a plan, 0 where nothing moves."""
        edge = self.problem.edges[number]
        have, want = edge.source_layouts[labels[edge.source]], edge.target_layouts[labels[edge.target]]
        nbytes = self._whole_bytes(edge.value, side)
        shape = self._graph.values[edge.value].shape
        return float(copied_bytes(nbytes, have[None], want[None], side, self.problem.mesh, shape)[0, 0])

    def _matrix(self, number: int, side: Side) -> Floats:
        """[K, J] bytes of one side of an edge under all labels."""
        edge = self.problem.edges[number]
        nbytes = self._whole_bytes(edge.value, side)
        have, want, shape = edge.source_layouts, edge.target_layouts, self._graph.values[edge.value].shape
        return copied_bytes(nbytes, have, want, side, self.problem.mesh, shape)

    def _whole_bytes(self, value: int, side: Side) -> float:
        """Bytes, on all chips, of what a side is a copy of: a cut is one of the parts of all iterations."""
        known = self._graph.values[value]
        return known.nbytes * (self._graph.iterations(known.loop) if side is Side.CUT else 1)

    def _name(self, point: int) -> str:
        return self._graph.ops[point].name if point < self._end else "the end"

    # Buffers.

    def _form(self, key: object, variable: int, local: Callable[[], Floats]) -> int:
        """The number of a buffer's bytes in `_local`; equal keys share one."""
        if key not in self._forms:
            self._forms[key] = len(self._local)
            self._local.append((variable, local()))
        return self._forms[key]

    def _anchored(self) -> Iterator[Span]:
        """One buffer for the values of one layout, except where it lies in another's."""
        for members in self._members.values():
            span = self._span(members)
            if span is None:
                continue
            largest = max(members, key=lambda v: self._graph.values[v].nbytes)
            nbytes = self._graph.values[largest].nbytes
            variable = self.problem.value_variable[largest]
            layouts = self.problem.layouts(largest)
            form = self._form((variable, nbytes), variable, partial(self._local_bytes, largest, layouts))
            yield Span(form, *span, KINDS.index(self._kind(members)))

    def _span(self, members: Sequence[int]) -> tuple[int, int] | None:
        """First and last point of the buffer of tied values; None when it lies in another's."""
        kind, first = self._kind(members), self._first_member(members)
        if kind == ARGUMENTS:
            return 0, self._end
        if kind == ACTIVATIONS and not self._has_buffer(first):
            return None
        start = self._lifetimes.first(first)
        if self._takes_over(first):
            if self._in_argument(first):
                return None
            start += 1
        stop = self._end if kind == RESULTS else self._needed_until(members)
        return start, max(start, stop)

    def _has_buffer(self, value: int) -> bool:
        """Whether an intermediate has a buffer of its own."""
        life = self._lifetimes
        return self._exists[value] and not life.shares(value) and not life.is_made_in_argument(value)

    def _kind(self, members: Sequence[int]) -> str:
        if any(v in self._arguments for v in members):
            return ARGUMENTS
        if any(v in self._results for v in members):
            return RESULTS
        return LOOP if any(self._is_slot(v) for v in members) else ACTIVATIONS

    def _first_member(self, members: Sequence[int]) -> int:
        return min(members, key=lambda v: (self._lifetimes.first(v), v))

    def _needed_until(self, members: Sequence[int]) -> int:
        return max(self._lifetimes.last(v) for v in members)

    def _tied(self, value: int) -> Sequence[int]:
        """The values that have one buffer with an anchored value, itself included; none for others."""
        return self._members[self._home[value]] if value in self._home else ()

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
        members = self._tied(root)
        if not members or self._kind(members) == ARGUMENTS:
            return self._lifetimes.last(root) <= producer
        return self._needed_until(members) <= producer

    def _in_argument(self, slot: int) -> bool:
        """Whether the buffer that a slot takes over is that of a (donated) argument."""
        source = self._graph.ops[self._graph.values[slot].producer].operands[0]
        members = self._tied(self._lifetimes.root(source))
        return bool(members) and self._kind(members) == ARGUMENTS

    def _plain(self) -> Iterator[Span]:
        """Values without a layout variable: constants, small arguments, intermediates with one reader."""
        graph, problem = self._graph, self.problem
        small = (*graph.constants, *(v for v in graph.arguments if graph.values[v].free))
        constant = sum(graph.values[v].nbytes for v in small)
        form = self._form("constants", -1, lambda: np.array([float(constant)]))
        yield Span(form, 0, self._end, KINDS.index(ARGUMENTS))
        for index, variable in problem.op_variable.items():
            for position, value in enumerate(graph.ops[index].results):
                if value not in problem.value_variable and self._has_buffer(value):
                    key = (problem.folding.op_leader[index], position)
                    form = self._form(key, variable, partial(self._result_bytes, *key))
                    yield Span(form, index, self._lifetimes.last(value), KINDS.index(ACTIVATIONS))

    def _result_bytes(self, index: int, position: int) -> Floats:
        """[K] bytes of a result under the labels of its op."""
        op = self._graph.ops[index]
        codes = self.problem.variables[self.problem.op_variable[index]].codes
        return self._local_bytes(op.results[position], result_layouts(op, codes, position))

    def _local_bytes(self, value: int, layouts: Layouts) -> Floats:
        """[K] bytes on a chip, in whole tiles."""
        known, mesh = self._graph.values[value], self.problem.mesh
        local = known.nbytes * local_fraction(layouts, mesh, known.shape)
        if mesh.slice.chip.kind != "tpu":
            return local
        sizes = -(-np.array(known.shape, dtype=np.int64) // shard_counts(layouts, len(known.shape), mesh))
        return local * tile_waste(sizes, self._walked.get(value, ()))

    # Copies.

    def _copies(self, flow: Flow) -> Iterator[Span]:
        """What the reshard of a value holds beside it."""
        copy = self._copy(flow)
        if copy is not None:
            yield copy
        producer = self._graph.values[flow.value].producer
        if producer < 0 or self._is_slot(flow.value):
            point = flow.op if flow.op >= 0 else producer
            yield self._side(flow, Side.SENT, point, point, COPIES)
        value = self._graph.values[flow.value]
        if producer < 0 and flow.op >= 0 and value.loop >= 0 and value.nbytes == math.prod(value.shape):
            loop = self._graph.loops[value.loop]
            yield self._side(flow, Side.CUT, loop.start, loop.stop - 1, COPIES)

    def _copy(self, flow: Flow) -> Span | None:
        """The second buffer of a resharded value."""
        if flow.op < 0:
            return self._copy_at_maker(flow)
        if self._graph.ops[flow.op].kind is OpKind.IDENTITY:
            return self._copy_at_slot(flow)
        life, stop = self._lifetimes, flow.op
        for result in self._graph.ops[flow.op].results:
            if life.shares(result) and life.root(result) == life.root(flow.value):
                stop = max(stop, life.last(result))
        return self._side(flow, Side.ARRIVING, self._gathered_from(flow), stop, COPIES)

    def _gathered_from(self, flow: Flow) -> int:
        """When the copy of an operand begins: a gather that hides runs beside the reader before its own."""
        hides = self.problem.mesh.slice.chip.hidden_gather_fraction > 0
        if not hides or self.problem.edges[flow.edge].beside is None:
            return flow.op
        loop, before = self._graph.ops[flow.op].loop, bisect_left(self._readers_of_stored, flow.op)
        previous = self._readers_of_stored[before - 1] if before else flow.op
        return previous if self._graph.ops[previous].loop == loop else flow.op

    def _copy_at_maker(self, flow: Flow) -> Span:
        """An anchored value before it is brought to its layout; one in place is brought out of its buffer."""
        producer = self._graph.values[flow.value].producer
        if self._lifetimes.shares(flow.value):
            stop = self._needed_until(self._tied(flow.value))
            return self._side(flow, Side.ARRIVING, producer, stop, COPIES)
        return self._side(flow, Side.LEAVING, producer, producer, COPIES)

    def _copy_at_slot(self, flow: Flow) -> Span | None:
        """A slot that would take a buffer over but wants another layout; others have their own anyway."""
        members = self._tied(flow.value)
        source = self._graph.ops[flow.op].operands[0]
        if self._lifetimes.is_made_in_argument(source) and self._kind(members) == ARGUMENTS:
            return self._side(flow, Side.LEAVING, self._lifetimes.first(source), flow.op, ACTIVATIONS)
        if flow.value != self._first_member(members) or not self._takes_over(flow.value):
            return None
        if self._kind(members) == ARGUMENTS:
            return None
        if self._in_argument(flow.value):
            stop = self._end if self._kind(members) == RESULTS else self._needed_until(members)
            return self._side(flow, Side.ARRIVING, flow.op, stop, LOOP)
        return self._side(flow, Side.ARRIVING, flow.op, flow.op, COPIES)

    def _side(self, flow: Flow, side: Side, start: int, stop: int, kind: str) -> Span:
        key = (flow.edge, side)
        if key not in self._forms:
            self._forms[key] = len(self._sides)
            self._sides.append(key)
        return Span(self._forms[key], start, stop, KINDS.index(kind))


def _walked(graph: Graph) -> dict[int, tuple[int, ...]]:
    """The dims along which a loop slices a value."""
    return {
        tie.outer: tuple(dim for dim in range(len(graph.values[tie.outer].shape)) if dim not in tie.dims)
        for tie in graph.ties
    }


def _members(problem: Problem) -> dict[int, list[int]]:
    """The anchored values by the tensor that they are: tied values are one."""
    members: dict[int, list[int]] = {}
    for value in problem.value_variable:
        tied = problem.classes.get(value)
        members.setdefault(value if tied is None else tied.representative, []).append(value)
    return members


def _charge(
    edge: Edge, matrix: Floats, unary: dict[int, Floats], pairwise: dict[tuple[int, int], Floats]
) -> None:
    source, target = edge.source, edge.target
    if source == target:
        unary[source] = unary.get(source, 0.0) + np.diagonal(matrix)
    else:
        pairwise[source, target] = pairwise.get((source, target), 0.0) + matrix
