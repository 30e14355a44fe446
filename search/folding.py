"""Repeats: which ops of a program are copies of one another, so that they are decided once.

A model whose layers are unrolled is the same stretch of ops over and over: forward, again backward, again in
the optimizer, and within a layer once per expert.  Two ops are *alike* when they have the same sharding rule
on tensors of the same types.  Where alike ops follow one another in runs (`autoshard.search.runs`), the ops
at one place of all blocks are copies, provided that they stand in the same relation to the rest of the
program: what they read from outside of the run, and what outside reads of theirs, must be copies as well.  (A
weight and its optimizer state thus stay together, and q and o apart though their shapes are the same.)
Relations within the run do not count, or the first layer would differ from the second, and so on.

Copies share a leader, and so do the values that they make and the arguments that they read.  Runs are then
sought once more among the leaders, which finds the experts inside a layer; few and short blocks will do
there, for their relations to the other ops of a layer tell q from v.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autoshard.search.collector import collector_paused
from autoshard.search.graph import Dims, Graph, Op, Value
from autoshard.search.runs import LEAST_BLOCKS, LEAST_SHORT_BLOCKS, Run, find_runs

Marks = Mapping[int, Hashable]
NO_MARKS: Marks = MappingProxyType({})
_MANY = 5
"""Operands or results of an op from which on those alike are not told apart by their order."""
_Roles = frozenset[tuple[int, int]]
"""The ops that read a value, by leader and operand position."""
_Relations = tuple[tuple[int | None, ...], _Roles]
"""Leaders of the operands, None where they come from the run itself, and who reads the results outside."""
_Links = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]
"""The same before leaders are known: values, -1 for the run's own, and readers with operand position."""
_NOWHERE: _Roles = frozenset()


@dataclass(frozen=True, slots=True)
class Folding:
    """Copies of a graph.

    Attributes:
        op_leader: For each op the op that stands for it and its copies.
        value_leader: For each value the value that stands for it and its copies.
    """

    op_leader: tuple[int, ...]
    value_leader: tuple[int, ...]


def unfolded(graph: Graph) -> Folding:
    """Return the folding in which every op and every value stands for itself."""
    return Folding(tuple(range(len(graph.ops))), tuple(range(len(graph.values))))


@collector_paused()
def fold(graph: Graph, op_marks: Marks = NO_MARKS, value_marks: Marks = NO_MARKS) -> Folding:
    """Find the copies of a graph.

    Args:
        graph: The program.
        op_marks: What tells ops apart, by index, that are else alike; ops without a mark are alike in that.
        value_marks: What tells values apart, likewise.
    """
    folder = _Folder(graph, op_marks, value_marks)
    while folder.stage():
        pass
    return Folding(tuple(folder.leaders), tuple(folder.value_leaders))


class _Folder:
    """Leaders found so far. Each stage looks at the ops that still stand for themselves, in program order."""

    def __init__(self, graph: Graph, op_marks: Marks, value_marks: Marks) -> None:
        self.graph, self.op_marks = graph, op_marks
        self.readers = [
            [(op, _like_first(graph.ops[op].operand_dims, position)) for op, position in readers]
            for readers in graph.consumers
        ]
        marks = [value_marks.get(value.index) for value in graph.values]
        self.types = _numbered(zip(map(_type, graph.values), marks, strict=True))
        read = map(_read_type, graph.values)
        self.read_types = _numbered(zip(read, marks, strict=True))
        self.codes = np.array(_numbered(self.likeness(op) for op in graph.ops), dtype=np.int64)
        self.leaders = list(range(len(graph.ops)))
        self.value_leaders = list(range(len(graph.values)))
        self.in_runs: set[int] = set()

    def likeness(self, op: Op) -> Hashable:
        """What two ops that are alike have in common."""
        operands = tuple(self.read_types[v] for v in op.operands)
        results = tuple(self.types[v] for v in op.results)
        rule = (op.factors, op.operand_dims, op.result_dims, op.linear)
        return (op.primitive, op.kind, op.trips, operands, results, rule, self.op_marks.get(op.index))

    def stage(self) -> bool:
        """Fold the runs among the leaders; False when nothing was folded."""
        sequence = [op for op, leader in enumerate(self.leaders) if op == leader]
        runs = find_runs(self.codes[sequence], LEAST_BLOCKS if self.in_runs else LEAST_SHORT_BLOCKS)
        copies = [_Copies(run, sequence) for run in runs]
        places = {op: each for each in copies for op in each.ops}
        before, folded = self.leaders, False
        homes = [places.get(leader) for leader in before]
        self.in_runs |= {op for op, home in enumerate(homes) if home is not None}
        links = [[self.links(op, each, homes) for op in each.ops] for each in copies]
        while copies:
            now = {op: leader for each in copies for op, leader in each.leaders()}
            leaders = [now.get(leader, leader) for leader in before]
            if leaders == self.leaders:
                break
            self.leaders, folded = leaders, True
            self.value_leaders = self.lead_values()
            for each, own in zip(copies, links, strict=True):
                each.split([self.relations(link) for link in own])
        return folded and any(each.saves for each in copies)

    def lead_values(self) -> list[int]:
        """Results follow their ops; arguments, constants and slices are copies when copies read them."""
        leaders = [-1] * len(self.graph.values)
        for op in self.graph.ops:
            standing = self.graph.ops[self.leaders[op.index]]
            for position, result in enumerate(op.results):
                leaders[result] = standing.results[_like_first(op.result_dims, position)]
        given = [value for value, leader in enumerate(leaders) if leader < 0]
        for value, leader in _by_roles({v: (self.types[v], self.roles(v)) for v in given}).items():
            leaders[value] = leader
        return leaders

    def roles(self, value: int) -> _Roles:
        """The parts that a value plays in runs."""
        return frozenset(
            (self.leaders[op], position) for op, position in self.readers[value] if op in self.in_runs
        )

    def links(self, op: int, run: _Copies, homes: Sequence[_Copies | None]) -> _Links:
        """What an op of a run reads from outside of it, and who reads it there; `homes` are of all ops."""
        known, values = self.graph.ops[op], self.graph.values
        reads = tuple(
            -1 if values[v].producer >= 0 and homes[values[v].producer] is run else v for v in known.operands
        )
        readers = tuple(
            (reader, position)
            for result in known.results
            for reader, position in self.readers[result]
            if reader in self.in_runs and homes[reader] is not run
        )
        return reads, readers

    def relations(self, links: _Links) -> _Relations:
        """How an op of a run is related to what is outside of it, by the leaders of now."""
        reads, readers = links
        return (
            tuple(None if v < 0 else self.value_leaders[v] for v in reads),
            frozenset((self.leaders[op], position) for op, position in readers) if readers else _NOWHERE,
        )


class _Copies:
    """The ops of a run, and which of them stands for each."""

    def __init__(self, run: Run, sequence: Sequence[int]) -> None:
        self.ops = sequence[run.start : run.stop]
        self.period, self.first = run.period, run.standing - run.start
        self.standing = [self.first + (n - self.first) % run.period for n in range(len(self.ops))]

    @property
    def saves(self) -> bool:
        """Whether some op has a copy."""
        return any(op != leader for op, leader in self.leaders())

    def leaders(self) -> Iterable[tuple[int, int]]:
        """Each op of the run with the op that stands for it."""
        return ((op, self.ops[number]) for op, number in zip(self.ops, self.standing, strict=True))

    def split(self, relations: Sequence[_Relations]) -> None:
        """Part the ops whose relations differ, so that only those are copies that have the same."""
        for model_number in range(self.first, self.first + self.period):
            model = relations[model_number]
            first: dict[Hashable, int] = {(model_number, model): model_number}
            for number in range(model_number % self.period, len(self.ops), self.period):
                key = (self.standing[number], _masked(relations[number], model))
                self.standing[number] = first.setdefault(key, number)


def _like_first(dims: Sequence[Dims], position: int) -> int:
    """The first of many operands, or results, that have the same dims of a rule as the one at a position.

    What is stacked from the experts, or taken apart into them, is the same part of the op for each.
    """
    return dims.index(dims[position]) if len(dims) >= _MANY else position


def _by_roles(parts: Mapping[int, tuple[int, _Roles]]) -> dict[int, int]:
    """For each value the first of those of its type that play the same parts.

    That a part is missing is no evidence, since the last layer's backward pass may not be in a run: a value
    whose parts are among those of just one fuller set goes with that; where there are several it stays alone.
    """
    first: dict[tuple[int, _Roles], int] = {}
    playing: dict[object, list[_Roles]] = {}
    for value, (kind, roles) in parts.items():
        if roles and (kind, roles) not in first:
            first[kind, roles] = value
            for role in roles:
                playing.setdefault((kind, role), []).append(roles)
    leaders = {}
    for value, (kind, roles) in parts.items():
        fuller = [each for each in playing[kind, min(roles)] if roles < each] if roles else []
        widest = [each for each in fuller if not any(each < other for other in fuller)]
        chosen = widest or [roles]
        leaders[value] = first[kind, chosen[0]] if roles and len(chosen) == 1 else value
    return leaders


def _masked(relations: _Relations, model: _Relations) -> _Relations:
    """The relations of an op, with those of the standing one where nothing speaks against it.

    That is so where either reads from the run itself, and where readers are only missing.
    """
    if relations == model:
        return model
    reads = tuple(
        standing if standing is None or own is None else own
        for own, standing in zip(relations[0], model[0], strict=True)
    )
    return reads, model[1] if relations[1] <= model[1] else relations[1]


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    """A number for each key, equal for equal keys."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(key, len(known)) for key in keys]


def _type(value: Value) -> Hashable:
    return (*_read_type(value), value.partial)


def _read_type(value: Value) -> tuple[Hashable, ...]:
    """What a value is to those that read it: they do not care whether it could have been left open."""
    return (value.shape, value.dtype, value.nbytes, value.free, value.stored_bytes)
