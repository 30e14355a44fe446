"""What a backward pass finds in memory, and what it makes again, in small programs by hand."""

from __future__ import annotations

from autoshard.search.lifetimes import Lifetimes
from autoshard.search.recomputed import made_before, recomputed_from
from tests.search.graphs import Sketch


class Gated:
    """h = sin(g) * u; y = h W; dy = y W'; dh = dy * READ, where g and u are einsums and READ is chosen."""

    def __init__(self, read: str, also: str = "") -> None:
        sketch = Sketch({"b": 64, "e": 32, "f": 128})
        x = sketch.argument("x", "be")
        self.g = sketch.einsum("be,ef->bf", x, sketch.argument("gate", "ef"))
        self.u = sketch.einsum("be,ef->bf", x, sketch.argument("up", "ef"))
        self.wave = sketch.elementwise("sin", self.g)
        self.h = sketch.elementwise("mul", self.wave, self.u)
        y = sketch.einsum("bf,fe->be", self.h, sketch.argument("down", "fe"))
        dy = sketch.einsum("be,fe->bf", y, sketch.argument("back", "fe"))
        last = sketch.elementwise("mul", dy, getattr(self, read))
        results = [last, *([getattr(self, also)] if also else [])]
        self.reader = sketch.values[last].producer
        self.graph = sketch.graph(*results)


def test_what_follows_from_one_tensor_is_made_again_by_a_kernel_behind() -> None:
    program = Gated("wave")
    assert recomputed_from(program.graph) == {program.wave: program.g}
    lifetimes = Lifetimes(program.graph)
    assert lifetimes.shares(program.wave)
    assert lifetimes.root(program.wave) == program.g
    assert lifetimes.last(program.g) == program.reader


def test_what_follows_from_two_is_kept() -> None:
    program = Gated("h")
    assert recomputed_from(program.graph) == {}
    assert not Lifetimes(program.graph).shares(program.h)


def test_what_is_given_back_is_kept() -> None:
    program = Gated("wave", also="wave")
    assert recomputed_from(program.graph) == {}


def test_what_an_einsum_reads_is_kept() -> None:
    sketch = Sketch({"b": 64, "e": 32})
    y = sketch.elementwise(
        "sin", sketch.einsum("be,ee->be", sketch.argument("x", "be"), sketch.argument("w", "ee"))
    )
    z = sketch.einsum("be,ee->be", y, sketch.argument("v", "ee"))
    graph = sketch.graph(sketch.einsum("be,ee->be", z, y))
    assert recomputed_from(graph) == {}


def test_statistics_are_no_second_source() -> None:
    """A norm: its scale is one number per row, and the backward pass reads x * scale."""
    sketch = Sketch({"b": 64, "e": 32, "o": 1})
    x = sketch.einsum("be,ee->be", sketch.argument("x", "be"), sketch.argument("w", "ee"))
    scale = sketch.einsum("be,eo->bo", x, sketch.argument("ones", "eo"))
    normed = sketch.elementwise("mul", x, scale)
    z = sketch.einsum("be,ee->be", sketch.elementwise("sin", normed), sketch.argument("v", "ee"))
    graph = sketch.graph(sketch.elementwise("mul", z, normed))
    assert recomputed_from(graph) == {normed: x}


def test_a_cast_written_twice_is_made_once() -> None:
    sketch = Sketch({"b": 64, "e": 32})
    x = sketch.elementwise("sin", sketch.argument("x", "be"))
    first, second = (sketch.elementwise("convert_element_type", x) for _ in range(2))
    q = sketch.einsum("be,ee->be", first, sketch.argument("q", "ee"))
    k = sketch.einsum("be,ee->be", second, sketch.argument("k", "ee"))
    graph = sketch.graph(q, k)
    assert made_before(graph) == {second: first}
    assert Lifetimes(graph).root(second) == first
