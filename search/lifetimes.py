"""From where to where each value of a program is in memory, and which values share a buffer with another.

Points are ops in program order, loop bodies in place.  A value that an outer loop hands to an inner one is
needed until the inner loop ends; the stacked output of a loop is there from the loop's start.  No buffer of
their own have views of stored values (the compiler fuses them into their readers), what readers make again
or what was made before (`autoshard.search.recomputed`), and results of updates, which are written in place
unless that would destroy an argument that is not donated.  What is given back in the place of a donated
argument is made there, if by then nothing else needs the argument: an elementwise op may still read it,
element by element.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoshard.search.graph import Graph, Loop, Op, OpKind
from autoshard.search.kernels import views_stored
from autoshard.search.recomputed import made_before, recomputed_from


class Lifetimes:
    """Births, last uses and shared buffers of a graph's values, before any layout is chosen."""

    def __init__(self, graph: Graph) -> None:
        """Follow the values of `graph`."""
        self._graph = graph
        self._kept = _kept_arguments(graph)
        self._root = list(range(len(graph.values)))
        self._last = _last_uses(graph)
        self._stand_ins = {**made_before(graph), **recomputed_from(graph)}
        shared = [(op, source) for op in graph.ops if (source := self._shared(op)) >= 0]
        for op, source in reversed(shared):
            self._last[source] = max(self._last[source], *(self._last[result] for result in op.results))
        self._made_in_arguments = frozenset(self._replacements())

    def _shared(self, op: Op) -> int:
        """The operand in whose buffer the results of an op are, -1 if there is none; notes it."""
        values = self._graph.values
        if len(op.results) == 1 and (source := self._stand_ins.get(op.results[0], -1)) >= 0:
            self._root[op.results[0]] = self._root[source]
            return source
        is_view = views_stored(op, self._graph)
        if not is_view and op.kind is not OpKind.UPDATE:
            return -1
        bound = [v for v in op.operands if not values[v].free]
        if not bound:
            return -1
        source = bound[0]
        in_place = op.kind is OpKind.UPDATE and source == op.operands[0] and not self.is_kept(source)
        if not (in_place or (is_view and len(bound) == 1)):
            return -1
        for result in op.results:
            self._root[result] = self._root[source]
        return source

    def _replacements(self) -> Iterator[int]:
        """Values that are made in the donated arguments in whose place they are given back."""
        graph, readers = self._graph, self._graph.consumers
        for argument, result in graph.aliases:
            replaced, handing = graph.arguments[argument], graph.values[graph.results[result]].producer
            if handing < 0 or graph.ops[handing].kind is not OpKind.IDENTITY:
                continue
            value = graph.ops[handing].operands[0]
            maker = graph.values[value].producer
            if maker < 0 or graph.ops[maker].loop >= 0 or self._root[value] != value:
                continue
            carried = any(graph.ops[op].kind is OpKind.IDENTITY for op, _ in readers[replaced])
            elementwise = graph.ops[maker].kind is OpKind.ELEMENTWISE
            if not carried and self._last[replaced] < maker + elementwise:
                yield value

    def first(self, value: int) -> int:
        """The point from which on a value is in memory: its op, or the start of the loop that stacks it."""
        known = self._graph.values[value]
        if known.producer < 0:
            return 0
        loop = _loop_inside(self._graph, self._graph.ops[known.producer].loop, known.loop)
        return known.producer if loop is None else loop.start

    def last(self, value: int) -> int:
        """The last point at which a value, or what shares its buffer, is needed."""
        return self._last[value]

    def root(self, value: int) -> int:
        """The value that owns the buffer in which a value is."""
        return self._root[value]

    def shares(self, value: int) -> bool:
        """Whether a value is in the buffer of another one."""
        return self._root[value] != value

    def is_made_in_argument(self, value: int) -> bool:
        """Whether a value is made in a donated argument, which it replaces, unless their layouts differ."""
        return value in self._made_in_arguments

    def is_kept(self, value: int) -> bool:
        """Whether a value is in an argument that the caller keeps, so that nothing may be written over it."""
        return self._root[value] in self._kept


def _kept_arguments(graph: Graph) -> set[int]:
    """Arguments whose buffer no result takes over, and their slices."""
    taken = {graph.arguments[argument] for argument, _ in graph.aliases}
    kept = set(graph.arguments) - taken
    for tie in graph.ties:
        if tie.outer in kept and graph.values[tie.inner].producer < 0:
            kept.add(tie.inner)
    return kept


def _last_uses(graph: Graph) -> list[int]:
    """For each value the last op at which it is read; a value of an outer loop until the inner loop ends."""
    last = []
    loops = [op.loop for op in graph.ops]
    for value, readers in zip(graph.values, graph.consumers, strict=True):
        point = max(0, value.producer)
        for op, _ in readers:
            loop = None if loops[op] == value.loop else _loop_inside(graph, loops[op], value.loop)
            point = max(point, op if loop is None else loop.stop - 1)
        last.append(point)
    for tie in graph.ties:
        outer, inner = graph.values[tie.outer], graph.values[tie.inner]
        loop = _loop_inside(graph, inner.loop, outer.loop)
        if loop is not None:
            last[tie.outer] = max(last[tie.outer], loop.stop - 1)
    return last


def _loop_inside(graph: Graph, inner: int, outer: int) -> Loop | None:
    """The outermost loop at or around `inner` that lies inside `outer`, None if there is none."""
    found = None
    while inner != outer:
        if inner < 0:
            return None
        found = graph.loops[inner]
        inner = found.parent
    return found
