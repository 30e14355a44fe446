"""Classes of values with one layout."""

import numpy as np

from autoshard.search.ties import tie_classes
from tests.search.graphs import Sketch, feed_forward, scanned_feed_forward


def test_nothing_is_tied_outside_of_loops() -> None:
    assert tie_classes(feed_forward()) == {}


def test_a_stack_and_its_slice_share_the_layout_of_the_slice() -> None:
    graph = scanned_feed_forward()
    stack = graph.arguments[1]
    found = tie_classes(graph)[stack]
    (inner,) = set(found.dims) - {stack}
    assert found.representative == inner
    assert found.dims == {inner: (0, 1), stack: (1, 2)}
    canonical = np.array([[0, 1], [-1, -2], [1, -1]], dtype=np.int8)
    assert found.layouts_of(stack, canonical).tolist() == [[1, 2], [-1, -2], [2, -1]]
    assert found.layouts_of(inner, canonical).tolist() == canonical.tolist()


def test_two_slices_of_one_stack_share_its_layout() -> None:
    sketch = Sketch({"l": 3, "e": 8, "f": 16})
    stack = sketch.argument("w", "lef")
    sketch.enter(3)
    one, other = sketch.sliced(stack), sketch.sliced(stack)
    sketch.leave()
    found = tie_classes(sketch.graph(stack))[other]
    assert found.dims == {one: (0, 1), stack: (1, 2), other: (0, 1)}


def test_a_carry_has_one_layout_all_the_way() -> None:
    graph = scanned_feed_forward()
    classes = tie_classes(graph)
    slot, final = graph.ops[0].results[0], graph.ops[4].results[0]
    assert classes[slot] is classes[final]
    assert set(classes[slot].dims) == {slot, final}
    assert graph.arguments[0] not in classes


def test_a_donated_argument_is_tied_to_its_result() -> None:
    graph = scanned_feed_forward(donated=True)
    found = tie_classes(graph)[graph.arguments[0]]
    assert set(found.dims) == {graph.arguments[0], graph.results[0]}


def test_dims_are_followed_through_two_loops() -> None:
    sketch = Sketch({"k": 2, "l": 3, "e": 8})
    stack = sketch.argument("w", "kle")
    sketch.enter(2)
    layer = sketch.sliced(stack)
    sketch.enter(3)
    row = sketch.sliced(layer)
    sketch.leave()
    sketch.leave()
    found = tie_classes(sketch.graph(stack))[stack]
    assert found.representative == row
    assert found.dims == {row: (0,), layer: (1,), stack: (2,)}
