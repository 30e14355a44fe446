"""The collectives of a partitioned program, each once, with how often it runs.

Shardy writes one op for every change of a sharding; compilers then join some of them, and so does this walk:

* an all-reduce that is only sliced is a reduce-scatter over the axes that the slice takes; what is left of
  its axes is all-reduced after that, on fewer bytes;
* two reductions over the same axes whose results are only added are one, of the sum (XLA's reassociation);
* the same change of the same tensor twice is done once, and one that nothing reads not at all.

Across the border of a function or a loop nothing is joined.

Slicing what a chip already has is free. A loop's collectives run as often as the loop, where its trip count
can be read (`autoshard.partitioner.trips`); else once, and the loop is named. A function's run once per call.
Of a conditional all branches are listed. Bytes are those that a collective's kind is priced by
(`autoshard.cost.collectives`): all-gather its output, the others their input, per chip.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from autoshard.partitioner.partitioned import AxisPart, Block, Move, PartitionedOp, Tensor
from autoshard.partitioner.trips import Constants, constants_of, trip_count

RESHARD = "reshard"
"""Kind of a change of sharding that Shardy left open: the collectives are then derived from both sides."""

_KINDS = {
    "all_gather": "all-gather",
    "all_reduce": "all-reduce",
    "all_to_all": "all-to-all",
    "collective_broadcast": "all-gather",
    "collective_permute": "collective-permute",
    "reduce_scatter": "reduce-scatter",
    "reshard": RESHARD,
}
_SLICE, _REDUCTIONS = "sdy.all_slice", ("all-reduce", "reduce-scatter")
_NAME = re.compile(r'loc\("([^"]*)"')
_SOURCE = re.compile(r'"([^"]+)":(\d+)')
_HERE = f"{Path(__file__).parents[1]}/"


@dataclass(frozen=True, slots=True)
class Found:
    """A collective, or a reshard, of a partitioned program.

    Attributes:
        kind: as in `autoshard.cost.collectives.Kind`, or `reshard`.
        axes: over which it runs, where they are known.
        groups: partition ids of each group, where only these are known.
        pairs: (source, target) partition ids of a permute, where they are written down.
        bytes_per_chip: all-gather: output; others: input.
        source: the tensor before it.
        target: the tensor after it.
        trips: how often it runs.
        op_name: path of the JAX operation, empty where unknown.
        line: ``FILE:LINE`` of the user's code, empty where unknown.
    """

    kind: str
    axes: tuple[AxisPart, ...]
    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    bytes_per_chip: float
    source: Tensor
    target: Tensor
    trips: int
    op_name: str
    line: str


@dataclass(frozen=True, slots=True)
class Propagated:
    """What a partitioned program moves: its collectives, and the lines of loops of unknown trip count."""

    found: tuple[Found, ...]
    unknown_loops: tuple[str, ...]


def propagated(functions: Mapping[str, Block], entry: str = "main") -> Propagated:
    """Return what a partitioned program moves in one run.

    Args:
        functions: the functions of the module by symbol name (`autoshard.partitioner.partition.partition`).
        entry: the one that runs.
    """
    return _Program(functions, constants_of(functions.values())).of(entry)


@dataclass(slots=True)
class _Program:
    """Each function is walked once and what it moves is kept."""

    functions: Mapping[str, Block]
    constants: Constants
    done: dict[str, Propagated] = field(default_factory=dict)

    def of(self, name: str) -> Propagated:
        if name not in self.done:
            block = self.functions[name]
            walk = _Walk(self, Counter(_operands(block)))
            walk.block(block)
            self.done[name] = walk.result()
        return self.done[name]


def _operands(block: Block) -> Iterator[int]:
    for op in block.ops:
        yield from op.operands
        for inner in op.blocks:
            yield from _operands(inner)


@dataclass(slots=True)
class _Walk:
    """What the walk of one function knows."""

    program: _Program
    uses: Counter[int]
    found: list[Found | None] = field(default_factory=list)
    unknown_loops: list[str] = field(default_factory=list)
    trips: int = 1
    reduced: dict[int, int] = field(default_factory=dict)
    """Values that a reduction has just made, with its place in `found`."""
    same: dict[int, int] = field(default_factory=dict)
    """Values that are copies of another."""
    made: dict[tuple[object, ...], int] = field(default_factory=dict)
    """Results of the changes done so far."""

    def result(self) -> Propagated:
        return Propagated(tuple(each for each in self.found if each is not None), tuple(self.unknown_loops))

    def block(self, block: Block) -> None:
        for op in block.ops:
            if op.move is not None:
                self.moves(op, op.move)
            elif op.name == "stablehlo.add":
                self.adds(op)
            elif op.callee is not None:
                self.calls(op.callee)
            elif op.name == "stablehlo.while":
                self.loops(op)
            else:
                for inner in op.blocks:
                    self.block(inner)

    def moves(self, op: PartitionedOp, move: Move) -> None:
        (operand, *_), (result, *_) = op.operands, op.results
        operand = self.same.get(operand, operand)
        key = (op.name, operand, move.target, move.axes, move.groups, move.pairs)
        if key in self.made:
            self.same[result] = self.made[key]
            return
        self.made[key] = result
        if not self.uses[result]:
            return
        if op.name == _SLICE:
            self.slices(operand, result, move)
            return
        kind = _KINDS[op.name.partition(".")[2]]
        if kind in _REDUCTIONS:
            self.reduced[result] = len(self.found)
        nbytes = (move.target if kind == "all-gather" else move.source).bytes_per_chip
        self.add(kind, move, nbytes)

    def add(self, kind: str, move: Move, nbytes: float) -> None:
        name = _NAME.search(move.location)
        self.found.append(
            Found(
                kind,
                move.axes,
                move.groups,
                move.pairs,
                nbytes,
                move.source,
                move.target,
                self.trips,
                name[1] if name else "",
                user_line(move.location),
            )
        )

    def slices(self, operand: int, result: int, move: Move) -> None:
        """A slice is free; of a sum that nothing else reads it makes a reduce-scatter."""
        place = self.reduced.get(operand)
        whole = None if place is None else self.found[place]
        if place is None or whole is None or whole.kind != "all-reduce" or self.uses[operand] > 1:
            return
        scattered = tuple(axis for axis in whole.axes if axis in move.axes)
        if not scattered:
            return
        rest = tuple(axis for axis in whole.axes if axis not in move.axes)
        self.found[place] = replace(whole, kind="reduce-scatter", axes=scattered, target=move.target)
        self.reduced[result] = place
        if rest:
            share = whole.bytes_per_chip / prod(axis.size for axis in scattered)
            left = replace(whole, axes=rest, bytes_per_chip=share, source=move.target, target=move.target)
            self.found.append(left)
            del self.reduced[result]

    def adds(self, op: PartitionedOp) -> None:
        """Two sums that only meet in an addition are reduced as one."""
        left, right = (self.same.get(operand, operand) for operand in op.operands)
        places = [self.reduced.get(operand) for operand in (left, right) if self.uses[operand] == 1]
        if len(places) < 2 or places[0] is None or places[1] is None:
            return
        first, second = self.found[places[0]], self.found[places[1]]
        if first is None or second is None or _reduction(first) != _reduction(second):
            return
        self.found[places[1]] = None
        self.reduced[op.results[0]] = places[0]

    def calls(self, callee: str) -> None:
        inner = self.program.of(callee)
        self.found += [replace(each, trips=each.trips * self.trips) for each in inner.found]
        self.unknown_loops += inner.unknown_loops

    def loops(self, op: PartitionedOp) -> None:
        count = trip_count(op, self.program.constants)
        if count is None:
            self.unknown_loops.append(_first_line(op.blocks[1]) or op.name)
        outer = self.trips
        self.trips = outer * (1 if count is None else count)
        for inner in op.blocks:
            self.block(inner)
        self.trips = outer


def _reduction(found: Found) -> tuple[object, ...]:
    return found.kind, found.axes, found.bytes_per_chip, found.trips, found.target


def _first_line(block: Block) -> str:
    """Where something moves in a loop, to name it by."""
    return next((line for op in block.ops if op.move and (line := user_line(op.move.location))), "")


def user_line(location: str) -> str:
    """Return ``FILE:LINE`` of the innermost frame outside this package that a location names."""
    for path, line in _SOURCE.findall(location):
        if not path.startswith(_HERE):
            return f"{path.rpartition('/')[2]}:{line}"
    return ""
