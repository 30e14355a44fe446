"""Which bytes an op touches, as far as sharding them is anybody's decision.

The bytes an op touches are those of its operands and results, each tensor once and *whole*: an op that reads
a slice of a cache counts the cache, because it is the cache whose layout it decides or spoils.

* *Data* are values that are not free.  A value of one element is nobody's decision and counts for nothing.
* *Free* values depend on nothing but small arguments and constants; every reader computes them for itself, in
  the layout it wants.  They count for nothing, unless they are given *tables*: of at least
  `LARGE_TABLE_BYTES`, a closed-over mask, say, or an argument that is small only beside the others.  No plan
  decides about those: they are whole on every chip.  Tables that are computed and kept in memory (a rope
  table that all layers read, dropout bits) follow the ops that read them, as the compiler propagates
  shardings; they are only listed.
* An op that touches no data computes a free value and touches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoshard.search.graph import Graph, Op, OpKind, Value
from autoshard.search.kernels import kernels

LARGE_TABLE_BYTES = 2.0**20
"""Free values below this may be on every chip: nobody would shard them."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What counts of each value of a graph.

    Attributes:
        data: For each value its bytes if it is data, else 0.
        tables: For each value its bytes if it is a given table, or a loop's slice of one, else 0.
        constants: Arrays that the function, or one inside it, closes over, of any size but one element.
        small_arguments: Arguments that are kept whole because they are small, of any size but one element.
        computed_tables: Tables that are neither.
    """

    data: tuple[float, ...]
    tables: tuple[float, ...]
    constants: tuple[int, ...]
    small_arguments: tuple[int, ...]
    computed_tables: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> Touched:
        """Sort the values of a graph."""
        exists = kernels(graph).exists
        arguments = frozenset(graph.arguments)
        tables = [_is_table(value, exists[value.index]) for value in graph.values]
        whole = [v for v in graph.values if v.free and _is_array(v) and _is_owner(v, graph)]
        given = [v.index for v in whole if v.producer < 0]
        return cls(
            data=tuple(0.0 if v.free or not _is_array(v) else v.nbytes for v in graph.values),
            tables=tuple(
                v.nbytes if table and v.producer < 0 else 0.0
                for v, table in zip(graph.values, tables, strict=True)
            ),
            constants=tuple(v for v in given if v not in arguments),
            small_arguments=tuple(v for v in given if v in arguments),
            computed_tables=tuple(v.index for v in whole if v.producer >= 0 and tables[v.index]),
        )

    def by(self, op: Op) -> tuple[float, float]:
        """Bytes of data and of tables that all executions of an op touch."""
        tensors = dict.fromkeys((*op.operands, *op.results))
        data = op.trips * sum(self.data[v] for v in tensors)
        return (data, op.trips * sum(self.tables[v] for v in tensors)) if data else (0.0, 0.0)


def _is_array(value: Value) -> bool:
    return math.prod(value.shape) > 1


def _is_table(value: Value, exists: bool) -> bool:
    return value.free and value.nbytes >= LARGE_TABLE_BYTES and (exists or value.producer < 0)


def _is_owner(value: Value, graph: Graph) -> bool:
    """Whether a value is a tensor of its own: no slice that a loop takes, no hand-over of another."""
    if value.producer < 0:
        return value.loop < 0
    op = graph.ops[value.producer]
    return value.index in op.results and op.kind is not OpKind.IDENTITY
