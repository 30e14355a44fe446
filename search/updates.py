"""Updates along a sharded dim: the arguments that a step writes where no chip holds the whole dim.

A chip that does not hold the place that is written must keep what it has, so the partitioner lets every
chip write and then selects between the old and the new shard. That is cheap and in place, but the compiler's
choice of a memory order looks at this write and not at the einsums that read the tensor: left to choose, it
copies the whole tensor into another order, in every step. PaLM 8B decode, 512 sequences, cache sharded along
its context on v5e:2x4: estimated 84 ms under the chosen orders, 33.5 ms as written; Llama 3 8B 21.9 and
14.5 ms (libtpu 0.0.42.1). So such tensors stay in the order in which they are written, and the rest of the
program's with them (`autoshard.memory_orders`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoshard.search.graph import Graph, Op, OpKind
from autoshard.search.problem import Problem

_WRITING = "dynamic_update_slice"
_DESTINATION, _UPDATE = 0, 1


def written_along_shards(problem: Problem, labels: Sequence[int]) -> frozenset[int]:
    """Return the positions of the arguments that a plan writes along a sharded dim."""
    graph = problem.graph
    outer = {tie.inner: tie.outer for tie in graph.ties}
    written = {
        _origin(graph, outer, op.operands[_DESTINATION])
        for op in graph.ops
        if op.kind is OpKind.UPDATE and op.primitive == _WRITING and _is_split(problem, op, labels)
    }
    return frozenset(position for position, value in enumerate(graph.arguments) if value in written)


def _is_split(problem: Problem, op: Op, labels: Sequence[int]) -> bool:
    """Whether a mesh axis shards a dim that an update writes only a part of."""
    if op.index not in problem.op_variable:
        return False  # it is small, and whole on every chip
    held = {factor for dim in op.operand_dims[_UPDATE] for factor in dim}
    partly = [factor for dim in op.operand_dims[_DESTINATION] for factor in dim if factor not in held]
    variable = problem.op_variable[op.index]
    return bool(np.isin(problem.variables[variable].codes[labels[variable]], partly).any())


def _origin(graph: Graph, outer: Mapping[int, int], value: int) -> int:
    """The argument that a value is, is a slice of, or was handed on from; else where it comes from."""
    seen = set[int]()
    while value not in seen:
        seen.add(value)
        producer = graph.values[value].producer
        if producer >= 0 and graph.ops[producer].kind in (OpKind.IDENTITY, OpKind.UPDATE):
            value = graph.ops[producer].operands[_DESTINATION]
        elif producer < 0 and value in outer:
            value = outer[value]
    return value
