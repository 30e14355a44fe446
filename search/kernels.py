"""Kernels: which ops the compiler fuses, hence which tensors exist in memory and how often they are read.

Elementwise ops, views and reductions fuse with what makes and what reads their tensors; einsums, gathers,
sorts and updates do not.  Ops that fuse form one kernel when they are linked by tensors and no op that does
not fuse stands between them, that is, when the longest chain of such ops before them is equally long.  A
kernel reads each tensor from outside once, however many of its ops use it, and writes what is read outside.
The softmax between two einsums thus reads the logits once and writes the probabilities, in whatever form it
was written down.

Within a kernel the vector unit passes over a tensor for every reduction, whose result the rest of the kernel
waits for, and for every tensor that is handed on.  What a single einsum reads is made while it is read: the
TPU compiler makes one fusion of the softmax up to the sum of the exponentials, and divides them in the second
einsum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from autoshard.search.graph import Graph, Op, OpKind

_FUSING_KINDS = frozenset({OpKind.ELEMENTWISE, OpKind.VIEW})
_REDUCING = ("reduce_", "arg")
_FUSING_PRIMITIVES = (*_REDUCING, "concatenate", "pad")
"""Beginnings of the names of other primitives that fuse."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of a graph.

    Attributes:
        exists: For each value whether it is in memory, so that it is written and read; of a fused view of a
            stored value what it shows is.
        first_reads: The (op, operand position) pairs of ops that fuse at which their kernel reads a tensor.
        reduced: Ops that fuse for which the vector unit passes over their operand.
        handed_on: Ops that fuse for which it passes over their result.
        kernel: The kernel of each op.
        elements: Elements of all these passes, by kernel.
        nbytes: Bytes that a kernel reads and writes, unsharded.
    """

    exists: tuple[bool, ...]
    first_reads: frozenset[tuple[int, int]]
    reduced: frozenset[int]
    handed_on: frozenset[int]
    kernel: tuple[int, ...]
    elements: Mapping[int, float]
    nbytes: Mapping[int, float]


def fuses(op: Op) -> bool:
    """Whether an op becomes part of a kernel with its neighbours."""
    return op.kind in _FUSING_KINDS or (
        op.kind is OpKind.OTHER and op.primitive.startswith(_FUSING_PRIMITIVES)
    )


def views_stored(op: Op, graph: Graph) -> bool:
    """Whether an op shows a stored value in another form, which the compiler does in what reads it."""
    return op.kind in _FUSING_KINDS and any(graph.values[value].stored_bytes > 0 for value in op.results)


@lru_cache(maxsize=2)
def kernels(graph: Graph) -> Kernels:
    """Find the kernels of a graph; those of the last graphs are kept."""
    fusing = [fuses(op) for op in graph.ops]
    maker = _makers(graph)
    kernel = _kernel_numbers(graph, fusing, maker)
    exists = []
    for known, made, readers in zip(graph.values, maker, graph.consumers, strict=True):
        outside = made < 0 or not fusing[made] or known.stored_bytes > 0
        exists.append(outside or any(kernel[op] != kernel[made] for op, _ in readers))
    first: dict[tuple[int, int], tuple[int, int]] = {}
    for op in graph.ops:
        if fusing[op.index]:
            for position, value in enumerate(op.operands):
                if exists[value]:
                    first.setdefault((kernel[op.index], value), (op.index, position))
    reduced = frozenset(
        op.index for op in graph.ops if fusing[op.index] and op.primitive.startswith(_REDUCING)
    )
    handed_on = _handed_on(graph, fusing, exists) - reduced
    elements: dict[int, float] = {}
    for number in (*reduced, *handed_on):
        op = graph.ops[number]
        value = op.operands[0] if number in reduced else op.results[0]
        _add(elements, kernel[number], math.prod(graph.values[value].shape))
    return Kernels(
        tuple(exists),
        frozenset(first.values()),
        reduced,
        handed_on,
        tuple(kernel),
        elements,
        _bytes_by_kernel(graph, fusing, kernel, exists, first.values()),
    )


def _bytes_by_kernel(
    graph: Graph,
    fusing: Sequence[bool],
    kernel: Sequence[int],
    exists: Sequence[bool],
    reads: Iterable[tuple[int, int]],
) -> dict[int, float]:
    """What kernels read from outside and write to it."""
    nbytes: dict[int, float] = {}
    for number, position in reads:
        op = graph.ops[number]
        known = graph.values[op.operands[position]]
        if not known.free and not (known.stored_bytes and views_stored(op, graph)):
            _add(nbytes, kernel[number], known.nbytes)
    for op in graph.ops:
        for value in op.results if fusing[op.index] else ():
            known = graph.values[value]
            if exists[value] and not known.free and not known.stored_bytes:
                _add(nbytes, kernel[op.index], known.nbytes)
    return nbytes


def _add(sums: dict[int, float], key: int, amount: float) -> None:
    sums[key] = sums.get(key, 0.0) + amount


def _handed_on(graph: Graph, fusing: Sequence[bool], exists: Sequence[bool]) -> frozenset[int]:
    """Ops that fuse and whose result is written by their kernel, for more than a single einsum."""
    readers = graph.consumers
    return frozenset(
        op.index
        for op in graph.ops
        if fusing[op.index] and any(exists[v] and _is_written(graph, v, readers[v]) for v in op.results)
    )


def _is_written(graph: Graph, value: int, readers: Sequence[tuple[int, int]]) -> bool:
    known = graph.values[value]
    into_einsum = len(readers) == 1 and graph.ops[readers[0][0]].kind is OpKind.EINSUM
    return not (known.free or known.stored_bytes or (into_einsum and value not in graph.results))


def _makers(graph: Graph) -> list[int]:
    """For each value the op that has it as a result, -1 for arguments, constants and slices of stacks."""
    maker = [-1] * len(graph.values)
    for op in graph.ops:
        for result in op.results:
            maker[result] = op.index
    return maker


def _kernel_numbers(graph: Graph, fusing: Sequence[bool], maker: Sequence[int]) -> list[int]:
    """The kernel of each op; an op that does not fuse is one of its own."""
    depth = [0] * len(graph.values)
    parent = list(range(len(graph.ops)))
    for op in graph.ops:
        deepest = max((depth[value] for value in op.operands), default=0)
        for result in op.results:
            depth[result] = deepest if fusing[op.index] else deepest + 1
        if not fusing[op.index]:
            continue
        for value in op.operands:
            made = maker[value]
            if made >= 0 and fusing[made] and depth[value] == deepest and graph.ops[made].loop == op.loop:
                _join(parent, made, op.index)
    return [_root(parent, op) for op in range(len(parent))]


def _join(parent: list[int], left: int, right: int) -> None:
    a, b = _root(parent, left), _root(parent, right)
    parent[max(a, b)] = min(a, b)


def _root(parent: list[int], op: int) -> int:
    while parent[op] != op:
        parent[op] = parent[parent[op]]
        op = parent[op]
    return op
