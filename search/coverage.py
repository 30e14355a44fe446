"""What share of a program is under decisions of the search, in flops and in bytes, and what is not and why.

An op is *decided* when its sharding rule is known and at least one of its factors may be split: a parallel
or a reduction factor of more than one element.  Ops are weighed twice, per step (one execution times trips):

    flops fraction = flops of decided ops / flops of all ops
    bytes fraction = bytes of data that decided ops touch / bytes of data and tables that all ops touch

What an op *touches* is defined in `autoshard.search.touched`.  A loop of unknown trip count is counted as one
trip.  What runs inside an opaque call is not known: its bytes are those at its boundary, and flops that the
graph does not state are on neither side of the fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from autoshard.search.graph import FactorKind, Graph, Loop, Op, OpKind
from autoshard.search.touched import Touched

OPAQUE_PRIMITIVES = frozenset(
    {
        "buffer_callback",
        "call_exported",
        "call_tf",
        "core_map",
        "custom_partitioning",
        "debug_callback",
        "debug_print",
        "ffi_call",
        "io_callback",
        "mpmd_map",
        "pallas_call",
        "pure_callback",
        "shard_map",
        "tpu_custom_call",
    }
)
"""Primitives that run a body, a kernel or host code which the search cannot look into."""

ANNOTATION_PRIMITIVES = frozenset({"mesh_cast", "reshard", "sharding_constraint"})
"""Primitives by which a model says how a value is sharded; a plan frees them and decides for itself."""

_T = TypeVar("_T")
_K = TypeVar("_K")


class Standing(StrEnum):
    """Whether an op is under a decision, and if not why."""

    DECIDED = "decided"
    """A rule is known and at least one factor may be split."""
    WHOLE = "a rule that splits nothing"
    """A rule is known but every factor must stay whole."""
    UNRULED = "no rule"
    """Nothing is known of the op: it is replicated."""


@dataclass(frozen=True, slots=True)
class PrimitiveCoverage:
    """All equations of one primitive and one standing.

    Attributes:
        primitive: Name of the primitive.
        standing: Whether they are under a decision.
        count: Equations, each once.
        flops: Floating point operations per step.
        bytes: Bytes of data and tables that they touch per step.
        decided_bytes: Those of `bytes` that are under decisions; 0 unless `standing` is decided.
    """

    primitive: str
    standing: Standing
    count: int
    flops: float
    bytes: float
    decided_bytes: float


@dataclass(frozen=True, slots=True)
class OpaqueCall:
    """Calls from one source line ("" where unknown) that cannot be looked into; bytes as in the rows."""

    primitive: str
    source: str
    count: int
    bytes: float


@dataclass(frozen=True, slots=True)
class UnknownLoop:
    """Loops from one source line whose trip count is unknown; `flops` are those of one trip of each."""

    source: str
    count: int
    flops: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is under decisions and what is not.

    Attributes:
        equations: Equations of the program, nested ones included, each once.
        einsums: How many of them are contractions.
        primitives: A row per primitive and standing, by descending bytes.
        replicated_bytes: Bytes of the distinct tensors that undecided ops touch and so keep whole on every
            chip, each once and without trips.
        opaque: Opaque calls by source line, by descending bytes.
        constants: How many arrays the function closes over, scalars not counted.
        constant_bytes: Their bytes, on every chip.
        small_arguments: How many arguments are kept whole because they are small, scalars not counted.
        small_argument_bytes: Their bytes, on every chip.
        tables: How many tables (`autoshard.search.touched`) are computed from such arrays.
        table_bytes: Their bytes; the compiler decides how much of them each chip has.
        unknown_loops: Loops whose trip count is unknown, by source line.
        freed_annotations: Sharding annotations of the program that a plan frees.
    """

    equations: int
    einsums: int
    primitives: tuple[PrimitiveCoverage, ...]
    replicated_bytes: float
    opaque: tuple[OpaqueCall, ...]
    constants: int
    constant_bytes: float
    small_arguments: int
    small_argument_bytes: float
    tables: int
    table_bytes: float
    unknown_loops: tuple[UnknownLoop, ...]
    freed_annotations: int

    @property
    def flops(self) -> float:
        """Floating point operations per step, opaque calls excluded."""
        return sum(row.flops for row in self.primitives)

    @property
    def bytes(self) -> float:
        """Bytes of data and tables that ops touch per step."""
        return sum(row.bytes for row in self.primitives)

    @property
    def flops_fraction(self) -> float:
        """Part of `flops` under decisions; 1 where there are none."""
        decided = sum(row.flops for row in self.primitives if row.standing is Standing.DECIDED)
        return decided / self.flops if self.flops else 1.0

    @property
    def bytes_fraction(self) -> float:
        """Part of `bytes` under decisions; 1 where there are none."""
        decided = sum(row.decided_bytes for row in self.primitives)
        return decided / self.bytes if self.bytes else 1.0

    def of_standing(self, standing: Standing) -> tuple[PrimitiveCoverage, ...]:
        """The rows of one standing."""
        return tuple(row for row in self.primitives if row.standing is standing)


def measure_coverage(graph: Graph) -> Coverage:
    """Say what of a program is under decisions; the search itself is not needed for that."""
    touched = Touched.of(graph)
    ops = [op for op in graph.ops if op.kind is not OpKind.IDENTITY]
    return Coverage(
        equations=graph.equations,
        einsums=len(graph.einsums),
        primitives=_primitives(ops, touched),
        replicated_bytes=_replicated_bytes(ops, touched),
        opaque=_opaque(ops, touched),
        constants=len(touched.constants),
        constant_bytes=_size(graph, touched.constants),
        small_arguments=len(touched.small_arguments),
        small_argument_bytes=_size(graph, touched.small_arguments),
        tables=len(touched.computed_tables),
        table_bytes=_size(graph, touched.computed_tables),
        unknown_loops=_unknown_loops(graph),
        freed_annotations=sum(op.primitive in ANNOTATION_PRIMITIVES for op in ops),
    )


def _size(graph: Graph, values: Iterable[int]) -> float:
    return sum(graph.values[value].nbytes for value in values)


def standing_of(op: Op) -> Standing:
    """Whether an op is under a decision."""
    if not op.ruled:
        return Standing.UNRULED
    splittable = any(f.size > 1 and f.kind is not FactorKind.REPLICATED for f in op.factors)
    return Standing.DECIDED if splittable else Standing.WHOLE


def _primitives(ops: Iterable[Op], touched: Touched) -> tuple[PrimitiveCoverage, ...]:
    groups = _grouped(ops, lambda op: (op.primitive, standing_of(op)))
    rows = [_primitive(*key, members, touched) for key, members in groups.items()]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.primitive, row.standing)))


def _primitive(primitive: str, standing: Standing, ops: Sequence[Op], touched: Touched) -> PrimitiveCoverage:
    data, tables = (sum(column) for column in zip(*map(touched.by, ops), strict=True))
    return PrimitiveCoverage(
        primitive=primitive,
        standing=standing,
        count=len(ops),
        flops=sum(op.flops * op.trips for op in ops),
        bytes=data + tables,
        decided_bytes=data if standing is Standing.DECIDED else 0.0,
    )


def _replicated_bytes(ops: Iterable[Op], touched: Touched) -> float:
    undecided = [op for op in ops if standing_of(op) is not Standing.DECIDED]
    kept_whole = {v for op in undecided for v in (*op.operands, *op.results)}
    return sum(touched.data[v] for v in sorted(kept_whole))


def _opaque(ops: Iterable[Op], touched: Touched) -> tuple[OpaqueCall, ...]:
    opaque = (op for op in ops if op.primitive in OPAQUE_PRIMITIVES)
    calls = [
        OpaqueCall(*key, len(members), sum(sum(touched.by(op)) for op in members))
        for key, members in _grouped(opaque, lambda op: (op.primitive, op.source)).items()
    ]
    return tuple(sorted(calls, key=lambda call: (-call.bytes, call.primitive, call.source)))


def _unknown_loops(graph: Graph) -> tuple[UnknownLoop, ...]:
    def source(loop: Loop) -> str:
        return next((op.source for op in graph.ops[loop.start : loop.stop] if op.source), "")

    def flops(loops: Iterable[Loop]) -> float:
        inside = {index for loop in loops for index in range(loop.start, loop.stop)}
        return sum(graph.ops[index].flops * graph.ops[index].trips for index in sorted(inside))

    groups = _grouped((loop for loop in graph.loops if not loop.trips_known), source)
    return tuple(UnknownLoop(line, len(loops), flops(loops)) for line, loops in groups.items())


def _grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
