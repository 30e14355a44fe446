"""The traced function as a graph of ops with factors: all that the search knows of a program.

An *op* is described the way Shardy describes it: every dim of its operands and results is a product of
*factors* (major to minor), and a factor is one index of the op (b, l, e, f ... of an einsum).  Sharding an
op means giving each mesh axis to one factor or to none.  A *value* is a tensor; *ties* say that two values
are stored with the same layout, because one is a slice of the other along the scanned dim or because a loop
hands one on as the other.

Nothing here knows JAX: `autoshard.trace` builds the graph, `autoshard.search.problem` turns it into a
network.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

Dims = tuple[tuple[int, ...], ...]
"""For each dim of a tensor the indices of its factors, major first; size-1 dims have none."""


class FactorKind(StrEnum):
    """What sharding a factor does to the results of an op (Shardy's names)."""

    PARALLEL = "parallel"
    """The factor is a dim of the results: results are sharded too."""
    REDUCTION = "reduction"
    """The factor is summed away: results are left unreduced over the mesh axis."""
    REPLICATED = "need_replication"
    """The op cannot be split along this factor."""


class OpKind(StrEnum):
    """How an op is priced and named."""

    EINSUM = "einsum"
    """A contraction with floating point work: dot_general, ragged_dot, convolution."""
    ELEMENTWISE = "elementwise"
    """Every operand and the result have the same factors, or are scalars."""
    IDENTITY = "identity"
    """A loop boundary or a result: the same tensor, possibly in another layout."""
    UPDATE = "update"
    """Writes a small operand (the second) into a large one (the first), in place."""
    VIEW = "view"
    """Moves no bytes of its own when fused: reshape, slice, transpose, broadcast, convert."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Factor:
    """One index of an op. `size` is its extent in elements, `letter` how it is printed."""

    size: int
    kind: FactorKind
    letter: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the program.

    Attributes:
        index: Position in `Graph.values`.
        shape: Global shape in elements.
        dtype: Name of the element type.
        nbytes: Global size in bytes.
        name: Path of an argument or result, or a label for people.
        producer: Index of the op that makes it, -1 for arguments and constants.
        free: True when it depends on nothing but small arguments and constants, so that every consumer
            can have it in the layout it wants without communication.
        stored_bytes: What reading it from HBM costs when it is an argument, a cache or a fused view of one; 0
            for what the program has just made.
        partial: True when it can be left unreduced: a sum, or a linear function of sums.
        loop: Index of the innermost loop it lives in, -1 outside of all loops.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: float
    name: str
    producer: int
    free: bool
    stored_bytes: float
    partial: bool
    loop: int


@dataclass(frozen=True, slots=True)
class Op:
    """One equation of the program with its sharding rule.

    Attributes:
        index: Position in `Graph.ops`, which is program order with loop bodies in place.
        name: Stable name, unique in the graph: scope, then weight or equation.
        primitive: Name of the primitive, for reports.
        kind: How it is priced.
        operands: Values read (literals and scalars excluded).
        results: Values made.
        factors: The factors of the rule.
        operand_dims: For each operand, its dims as factor indices.
        result_dims: For each result, its dims as factor indices.
        linear: Positions of operands in which the op is linear; when they are all unreduced so is the result.
            Empty: not linear.
        flops: Floating point operations of one execution, unsharded.
        trips: Executions per step.
        loop: Index of the innermost loop around it, -1 outside of all loops.
        source: "file.py:12" of the user's code, or "".
        scope: Name stack of the user's code.
        equation: Einsum letters, e.g. "be,ef->bf", or "".
        path: Where the equation stands in the nested jaxprs.
        ruled: False when no sharding rule is known and the op is replicated.
    """

    index: int
    name: str
    primitive: str
    kind: OpKind
    operands: tuple[int, ...]
    results: tuple[int, ...]
    factors: tuple[Factor, ...]
    operand_dims: tuple[Dims, ...]
    result_dims: tuple[Dims, ...]
    linear: tuple[int, ...]
    flops: float
    trips: int
    loop: int
    source: str
    scope: str
    equation: str
    path: str
    ruled: bool


@dataclass(frozen=True, slots=True)
class Tie:
    """Two values with one layout.

    Dim `d` of `inner` is dim `dims[d]` of `outer`; other dims of `outer` stay unsharded.
    """

    outer: int
    inner: int
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A scan or while loop.

    Its body is `ops[start:stop]`; `trips` counts all iterations per step, outer loops included.
    """

    index: int
    parent: int
    start: int
    stop: int
    trips: int
    trips_known: bool


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole traced function; equal only to itself, so that what follows from it can be kept.

    Attributes:
        values: All tensors.
        ops: All equations in program order.
        ties: Layout equalities.
        loops: All loops.
        arguments: For each flat argument its value.
        results: For each flat result its value.
        donated: Flat argument positions whose buffers are donated.
        aliases: (argument position, result position) pairs that share one buffer.
        constants: Closed-over arrays, replicated.
        equations: Equations traced, nested ones included, each once.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    ties: tuple[Tie, ...]
    loops: tuple[Loop, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    donated: tuple[int, ...]
    aliases: tuple[tuple[int, int], ...]
    constants: tuple[int, ...]
    equations: int

    def value_label(self, value: int) -> str:
        """The name of a value, or that of the op that makes it."""
        known = self.values[value]
        return known.name or (self.ops[known.producer].name if known.producer >= 0 else "")

    @property
    def einsums(self) -> tuple[Op, ...]:
        """The contractions, in program order."""
        return tuple(op for op in self.ops if op.kind is OpKind.EINSUM)

    @property
    def flops(self) -> float:
        """Floating point operations per step in einsums, unsharded."""
        return sum(op.flops * op.trips for op in self.ops)

    def reads_stored(self, op: Op) -> bool:
        """Whether an op reads what lies in memory before the step: an argument, or a slice or view of one."""
        return any(self.values[value].stored_bytes > 0 for value in op.operands)

    def iterations(self, loop: int) -> float:
        """How often a loop runs its body each time that it is entered; once outside of loops (-1)."""
        if loop < 0:
            return 1
        parent = self.loops[loop].parent
        return self.loops[loop].trips / max(1, self.loops[parent].trips if parent >= 0 else 1)

    @cached_property
    def consumers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each value the (op index, operand position) pairs that read it."""
        readers: list[list[tuple[int, int]]] = [[] for _ in self.values]
        for op in self.ops:
            for position, value in enumerate(op.operands):
                readers[value].append((op.index, position))
        return tuple(map(tuple, readers))
