"""What counts of the tensors that an op touches: data, tables, nothing."""

from dataclasses import replace

import pytest

from autoshard.search.graph import Graph
from autoshard.search.touched import LARGE_TABLE_BYTES, Touched
from tests.search.graphs import Sketch, feed_forward, scanned_feed_forward

SIDE = 1024  # [SIDE, SIDE] of bfloat16 has 2 MiB
MASK_BYTES = 2 * SIDE * SIDE


def masked_sum() -> Graph:
    """Ops: x + mask for an argument x [b, b] and a mask [b, b] from nowhere; result."""
    sketch = Sketch({"b": SIDE})
    x = sketch.argument("x", "bb")
    mask = sketch.value((SIDE, SIDE), "mask", free=True)
    return sketch.graph(sketch.elementwise("add", x, mask))


def test_an_einsum_touches_its_operands_and_its_result() -> None:
    graph = feed_forward(b=4, e=8, f=16)
    # x [4, 8], wi [8, 16], h [4, 16] of 2 bytes each.
    assert Touched.of(graph).by(graph.ops[0]) == (2 * (32 + 128 + 64), 0.0)


def test_a_body_is_touched_once_per_trip_and_sees_its_slice_of_a_stack() -> None:
    graph = scanned_feed_forward(layers=3, b=4, e=8, f=16)
    h = next(op for op in graph.ops if op.name == "h")
    assert Touched.of(graph).by(h) == (3 * 2 * (32 + 128 + 64), 0.0)


def test_an_operand_that_is_read_twice_counts_once() -> None:
    sketch = Sketch({"b": 4})
    x = sketch.argument("x", "bb")
    graph = sketch.graph(sketch.elementwise("mul", x, x))
    assert Touched.of(graph).by(graph.ops[0]) == (2 * (16 + 16), 0.0)


def test_one_element_is_nobodys_decision() -> None:
    sketch = Sketch({"b": 4, "1": 1})
    one = sketch.argument("one", "11")
    graph = sketch.graph(sketch.elementwise("neg", one))
    touched = Touched.of(graph)
    assert touched.by(graph.ops[0]) == (0.0, 0.0)
    assert set(touched.data) == {0.0}


def test_a_large_closed_over_array_is_a_table_and_a_constant() -> None:
    graph = masked_sum()
    touched = Touched.of(graph)
    assert touched.by(graph.ops[0]) == (2 * MASK_BYTES, MASK_BYTES)  # x and the sum; the mask
    assert (touched.constants, touched.small_arguments, touched.computed_tables) == ((1,), (), ())


@pytest.mark.parametrize("change", [{"nbytes": LARGE_TABLE_BYTES - 1}, {"shape": (), "nbytes": 2.0}])
def test_a_small_closed_over_array_is_no_table(change: dict[str, object]) -> None:
    graph = masked_sum()
    values = list(graph.values)
    values[1] = replace(values[1], **change)  # type: ignore[arg-type]
    touched = Touched.of(replace(graph, values=tuple(values)))
    assert touched.by(graph.ops[0]) == (2 * MASK_BYTES, 0.0)
    assert touched.constants == (() if change.get("shape") == () else (1,))


def test_a_small_argument_is_no_constant() -> None:
    sketch = Sketch({"b": SIDE})
    x, positions = sketch.argument("x", "bb"), sketch.argument("positions", "bb", free=True)
    touched = Touched.of(sketch.graph(sketch.elementwise("add", x, positions)))
    assert (touched.constants, touched.small_arguments, touched.computed_tables) == ((), (positions,), ())


def readers_of_a_rope_table(layers: int) -> Graph:
    """Ops: cos of a small argument; for each layer x + cos and an einsum with itself; result."""
    sketch = Sketch({"b": SIDE, "c": SIDE, "d": SIDE})
    angle = sketch.argument("angle", "bb", free=True)
    table = sketch.elementwise("cos", angle)
    x = sketch.argument("x", "bb")
    for _ in range(layers):
        x = sketch.elementwise("add", x, table)
        x = sketch.einsum("bc,cd->bd", x, x)
    return sketch.graph(x)


@pytest.mark.parametrize(("layers", "tables"), [(1, ()), (2, (1,))])
def test_a_computed_array_is_a_table_only_when_it_is_kept_for_several_readers(
    layers: int, tables: tuple[int, ...]
) -> None:
    graph = readers_of_a_rope_table(layers)
    touched = Touched.of(graph)
    assert (touched.small_arguments, touched.computed_tables) == ((0,), tables)
    assert touched.by(graph.ops[1]) == (2 * MASK_BYTES, 0.0)  # it follows what reads it


def test_what_computes_a_free_value_touches_nothing() -> None:
    graph = readers_of_a_rope_table(2)
    assert Touched.of(graph).by(graph.ops[0]) == (0.0, 0.0)


def test_a_slice_of_a_constant_is_not_a_second_constant() -> None:
    sketch = Sketch({"l": 3, "b": SIDE})
    x = sketch.argument("x", "bb")
    masks = sketch.value((3, SIDE, SIDE), "masks", free=True)
    sketch.enter(3)
    inner = sketch.sliced(masks)
    sketch.values[inner] = replace(sketch.values[inner], free=True)
    total = sketch.elementwise("add", x, inner)
    sketch.leave()
    graph = sketch.graph(total)
    touched = Touched.of(graph)
    assert touched.constants == (masks,)
    assert touched.by(graph.ops[0]) == (3 * 2 * MASK_BYTES, 3 * MASK_BYTES)
