"""Kernels of small programs, by hand."""

from __future__ import annotations

from autoshard.search.graph import Factor, FactorKind, Graph, OpKind
from autoshard.search.kernels import kernels
from tests.search.graphs import Sketch, scanned_feed_forward


def row_max(sketch: Sketch, x: int) -> int:
    """The maximum over the last dim, kept as a dim of size 1."""
    b, t = sketch.values[x].shape
    factors = [Factor(b, FactorKind.PARALLEL), Factor(t, FactorKind.REDUCTION)]
    return sketch.op(OpKind.OTHER, "reduce_max", (x,), (b, 1), factors, (((0,), (1,)),), ((0,), ()))


def softmax() -> Graph:
    """Ops: logits = BD,DT->BT; their row maximum; exp; probabilities; values = BT,TD->BD; result."""
    sketch = Sketch({"b": 64, "d": 32, "t": 128})
    logits = sketch.einsum("bd,dt->bt", sketch.argument("q", "bd"), sketch.argument("k", "dt"))
    largest = row_max(sketch, logits)
    powers = sketch.elementwise("exp", logits)
    shares = sketch.elementwise("div", powers, largest)
    return sketch.graph(sketch.einsum("bt,td->bd", shares, sketch.argument("v", "td")))


def names(graph: Graph, exists: tuple[bool, ...]) -> list[str]:
    return [op.primitive for op in graph.ops if exists[op.results[0]]]


def test_a_softmax_is_one_kernel() -> None:
    graph = softmax()
    found = kernels(graph)
    assert names(graph, found.exists) == ["dot_general", "div", "dot_general", "identity"]
    assert found.first_reads == {(1, 0)}  # the maximum reads the logits, and exp with it


def test_arguments_are_in_memory() -> None:
    graph = softmax()
    exists = kernels(graph).exists
    assert all(exists[value] for value in graph.arguments)


def test_what_is_read_behind_an_einsum_is_kept() -> None:
    """y = relu(x); z = y W; z + y: the sum cannot fuse with relu, for z depends on it."""
    sketch = Sketch({"b": 64, "e": 32, "f": 32})
    y = sketch.elementwise("relu", sketch.argument("x", "be"))
    z = sketch.einsum("be,ef->bf", y, sketch.argument("w", "ef"))
    graph = sketch.graph(sketch.elementwise("add", z, y))
    found = kernels(graph)
    assert names(graph, found.exists) == ["relu", "dot_general", "add", "identity"]
    assert found.first_reads == {(0, 0), (2, 0), (2, 1)}


def test_readers_beside_each_other_share_one_read() -> None:
    sketch = Sketch({"b": 64, "e": 32})
    x = sketch.elementwise("exp", sketch.argument("x", "be"))
    left, right = sketch.elementwise("sin", x), sketch.elementwise("cos", x)
    graph = sketch.graph(sketch.elementwise("mul", left, right))
    found = kernels(graph)
    assert names(graph, found.exists) == ["mul", "identity"]
    assert found.first_reads == {(0, 0)}


def test_a_loop_is_a_boundary() -> None:
    graph = scanned_feed_forward()
    found = kernels(graph)
    assert all(found.exists[op.results[0]] for op in graph.ops if op.kind is OpKind.IDENTITY)
