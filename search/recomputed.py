"""Which values are made again where they are read, or were made before, so that they need no buffer.

A kernel that reads what an elementwise op made can as well read that op's operand and compute the value
itself. The TPU compiler does so where it costs no more traffic: where the value follows from one large tensor
that is no larger, and all its readers are kernels themselves. What a train step keeps for its backward pass
is therefore less than what JAX hands over: of ``silu(gate) * up`` the gate and not the logistic, of a norm
the stream and not its float32 copy, of a softmax the logits and not their exponentials.

Einsums read their operands from memory, so what they read is kept. But a cast that is written down once per
reader (each layer of a model library casts its own input) is made once.
"""

from __future__ import annotations

import math

from autoshard.search.graph import Graph, Op, OpKind, Value
from autoshard.search.kernels import Kernels, fuses, kernels

_SMALL = 1 / 8
"""Tensors of at most this share of a value's elements do not count: statistics, masks of one dim, scalars."""
_CAST = "convert_element_type"
_COMPUTED = frozenset({OpKind.ELEMENTWISE, OpKind.VIEW})


def recomputed_from(graph: Graph) -> dict[int, int]:
    """Return the values that are made again by their readers, each with the value that these read instead."""
    known = kernels(graph)
    handed_back = set(graph.results)
    sources: dict[int, int] = {}
    for op in graph.ops:
        if op.kind not in _COMPUTED or len(op.results) != 1:
            continue
        value = op.results[0]
        if graph.values[value].free or graph.values[value].stored_bytes > 0:
            continue
        kernel = known.kernel[op.index]
        far = [reader for reader, _ in graph.consumers[value] if known.kernel[reader] != kernel]
        if not far or value in handed_back or not _read_by_kernels(op, far, graph):
            continue
        source = _only_source(op, graph, known, sources)
        if source >= 0:
            sources[value] = source
    return sources


def made_before(graph: Graph) -> dict[int, int]:
    """Return the casts that repeat an earlier one in the same loop, each with the earlier one's result."""
    first: dict[tuple[int, str, int], int] = {}
    repeated: dict[int, int] = {}
    for op in graph.ops:
        if op.primitive == _CAST:
            value = op.results[0]
            earlier = first.setdefault((op.operands[0], graph.values[value].dtype, op.loop), value)
            if earlier != value:
                repeated[value] = earlier
    return repeated


def _only_source(op: Op, graph: Graph, known: Kernels, sources: dict[int, int]) -> int:
    """The one large value that an op's result follows from, -1 if there are several, or it is larger."""
    result = graph.values[op.results[0]]
    found = set[int]()
    pending = list(op.operands)
    while pending:
        value = pending.pop()
        read = graph.values[value]
        if math.prod(read.shape) <= _SMALL * math.prod(result.shape):
            continue
        maker = graph.ops[read.producer] if read.producer >= 0 else None
        if value in sources:
            found.add(sources[value])
        elif maker is not None and (_is_broadcast(maker, read, graph) or _is_inside(maker, value, known)):
            pending += maker.operands
        else:
            found.add(value)
        if len(found) > 1:
            return -1
    source = next(iter(found), -1)
    if source < 0 or graph.values[source].loop != result.loop:
        return -1
    return source if graph.values[source].nbytes <= result.nbytes else -1


def _is_broadcast(op: Op, result: Value, graph: Graph) -> bool:
    """Whether an op only repeats what it reads."""
    elements = [math.prod(graph.values[value].shape) for value in op.operands]
    return op.kind is OpKind.VIEW and sum(elements) <= _SMALL * math.prod(result.shape)


def _is_inside(maker: Op, value: int, known: Kernels) -> bool:
    """Whether a value is made within a kernel, element by element, and only there."""
    return maker.kind in _COMPUTED and not known.exists[value]


def _read_by_kernels(op: Op, readers: list[int], graph: Graph) -> bool:
    """Whether all readers are part of a kernel, in the same loop."""
    return all(fuses(graph.ops[reader]) and graph.ops[reader].loop == op.loop for reader in readers)
