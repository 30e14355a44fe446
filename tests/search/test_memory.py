"""Bytes live at each op, by hand.

In the feed-forward x has 64 bytes, h 128, y 64 and each weight 256; scanned, there are three of each weight.
Arrays so small are taken to lie without tiles; `test_memory_tiles` is about those.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost.layouts import UNREDUCED
from autoshard.search import memory as memory_module
from autoshard.search.building import build_problem
from autoshard.search.graph import Graph
from autoshard.search.memory import ACTIVATIONS, ARGUMENTS, COPIES, LOOP, RESULTS, MemoryModel
from autoshard.search.problem import Problem
from tests.search.graphs import (
    Sketch,
    cache_update,
    feed_forward,
    labels_of,
    mesh_of,
    parallel_sum,
    scanned_feed_forward,
    two_readers,
)

MESH = mesh_of("v5e:1x2")
X, H, Y, W = 64, 128, 64, 256


@pytest.fixture(autouse=True, scope="module")
def _no_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_module, "tile_waste", lambda sizes, walked=(): np.ones(len(sizes)))
        yield


def _live(problem: Problem, labels: tuple[int, ...]) -> list[float]:
    """Bytes at each op, and at the end."""
    memory = MemoryModel(problem)
    rows = [memory.row(point) for point in range(len(problem.graph.ops) + 1)]
    return [row.use(labels) + constant for row, constant in rows]


def _replicated(graph: Graph) -> list[float]:
    problem = build_problem(graph, MESH)
    return _live(problem, labels_of(problem))


def test_a_replicated_feed_forward_op_by_op() -> None:
    arguments = X + 2 * W
    # h; h and y; y, which the result takes over.
    assert _replicated(feed_forward()) == [arguments + H, arguments + H + Y, arguments + Y, arguments + Y]


def test_the_peak_by_kind() -> None:
    problem = build_problem(feed_forward(), MESH)
    peak = MemoryModel(problem).peak(labels_of(problem))
    assert (peak.nbytes, peak.point) == (X + 2 * W + H + Y, 1)
    assert peak.by_kind == {ARGUMENTS: X + 2 * W, LOOP: 0, RESULTS: 0, ACTIVATIONS: H + Y, COPIES: 0}


def test_a_gathered_copy_is_live_only_at_its_reader() -> None:
    problem = build_problem(feed_forward(), MESH)
    labels = labels_of(problem, wi=[0])
    arguments = X + W + W / 2
    assert _live(problem, labels) == [arguments + H + W, arguments + H + Y, arguments + Y, arguments + Y]


def test_a_gather_that_hides_begins_at_the_reader_before_its_own() -> None:
    problem = build_problem(feed_forward(), MESH)
    labels = labels_of(problem, wo=[0])
    arguments = X + W + W / 2
    assert MESH.slice.chip.hidden_gather_fraction > 0
    assert _live(problem, labels) == [arguments + H + W, arguments + H + Y + W, arguments + Y, arguments + Y]


def test_an_exchange_holds_its_blocks_beside_a_stored_operand() -> None:
    problem = build_problem(feed_forward(), MESH)
    plans = [labels_of(problem, x=[1], wi=[stored], h=[1], y=[1]) for stored in (0, 1)]  # h sums over e
    plain, exchanged = (_live(problem, labels) for labels in plans)
    # What arrives, and the blocks that are sent; the weight is stored by f and read by e.
    assert [b - a for a, b in zip(plain, exchanged, strict=True)] == [2 * W / 2, 0, 0, 0]


def test_an_exchange_of_what_is_made_holds_no_blocks() -> None:
    problem = build_problem(feed_forward(), MESH)
    plans = [labels_of(problem, h=[made], y=[1]) for made in (2, 0)]  # y reads h by f; it is made so, or by b
    as_read, exchanged = (_live(problem, labels) for labels in plans)
    assert exchanged[1] - as_read[1] == H / 2  # what arrives


def test_an_open_sum_is_whole_until_it_is_scattered() -> None:
    problem = build_problem(two_readers(), MESH)
    labels = labels_of(problem, h=[1], h_out=[1], y1=[0], y2=[0])
    arguments = X + 3 * W
    # x and wi are sliced for the sum over e; the sum has 128 bytes on each chip, 64 once it is scattered.
    assert _live(problem, labels)[0] == arguments + X / 2 + W / 2 + H + H / 2
    # Open all the way, there is one buffer of full size.
    left_open = labels_of(problem, h=[1], h_out=[UNREDUCED])
    assert _live(problem, left_open)[0] == arguments + X / 2 + W / 2 + H


def test_a_carry_is_counted_once() -> None:
    arguments = X + 6 * W
    # The caller keeps x, so the carry is a copy; the result takes over what the loop leaves.
    assert _replicated(scanned_feed_forward()) == [
        arguments + X,  # carry in
        arguments + X + H,
        arguments + X + H + Y,
        arguments + X + Y + X,  # the sum
        arguments + X + X,  # carry on
        arguments + X,  # result
        arguments + X,
    ]


def test_a_donated_carry_stays_in_the_argument() -> None:
    arguments = X + 6 * W
    assert _replicated(scanned_feed_forward(donated=True)) == [
        arguments,
        arguments + H,
        arguments + H + Y,
        arguments + Y + X,
        arguments + X,
        arguments,
        arguments,
    ]


def test_a_donated_carry_in_another_layout_is_a_copy_for_the_whole_loop() -> None:
    problem = build_problem(scanned_feed_forward(donated=True), MESH)
    live = _live(problem, labels_of(problem, carry=[0], h=[0], y=[0], sum=[0]))
    arguments = X + 6 * W
    assert live[0] == arguments + X / 2
    assert live[2] == arguments + X / 2 + H / 2 + Y / 2
    assert live[5] == arguments + X / 2
    assert live[6] == arguments


def test_an_intermediate_is_taken_over_by_the_loop() -> None:
    sketch = Sketch({"b": 4, "e": 8, "f": 16})
    slot = sketch.hand_over(
        sketch.einsum("be,ef->bf", sketch.argument("x", "be"), sketch.argument("w", "ef"))
    )
    sketch.enter(3)
    final = sketch.next_carry(slot, sketch.elementwise("exp", slot))
    sketch.leave()
    # h; h becomes the carry; the carry and exp of it, twice; the result is the carry.
    expected = [X + W + n * H for n in (1, 1, 2, 2, 1, 1)]
    assert _replicated(sketch.graph(final)) == expected


def test_an_intermediate_in_another_layout_is_copied_when_the_loop_begins() -> None:
    sketch = Sketch({"b": 4, "e": 8, "f": 16})
    h = sketch.einsum("be,ef->bf", sketch.argument("x", "be"), sketch.argument("w", "ef"), name="h")
    slot = sketch.hand_over(h, "carry")
    sketch.enter(3)
    final = sketch.next_carry(slot, sketch.elementwise("exp", slot, name="exp"))
    sketch.leave()
    problem = build_problem(sketch.graph(final), MESH)
    live = _live(problem, labels_of(problem, carry=[0], exp=[0], result0=[0]))
    assert live == [X + W + n * H for n in (1, 1.5, 1, 1, 0.5, 0.5)]


def test_what_a_loop_reads_from_outside_is_needed_until_it_ends() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    x = sketch.argument("x", "be")
    outside = sketch.elementwise("exp", x)
    slot = sketch.hand_over(x)
    sketch.enter(3)
    final = sketch.next_carry(slot, sketch.elementwise("mul", slot, outside))
    sketch.leave()
    # exp; the carry as well; what follows it as well, twice; the carry, which becomes the result.
    assert _replicated(sketch.graph(final)) == [X + n * X for n in (1, 2, 3, 3, 1, 1)]


def test_a_stacked_output_is_there_while_the_loop_runs() -> None:
    live = _replicated(scanned_feed_forward(collect=True))
    arguments, stack = X + 6 * W, 3 * H
    assert live[0] == arguments + X
    assert live[1] == arguments + X + stack + H
    assert live[2] == arguments + X + stack + H + Y
    assert live[-1] == arguments + X + stack


def test_a_donated_cache_is_counted_once() -> None:
    cache, new = 2 * 4 * 32 * 8, 2 * 4 * 8
    assert _replicated(cache_update()) == [cache + new] * 3
    # A cache that the caller keeps must not be written over.
    assert _replicated(cache_update(donated=False)) == [2 * cache + new] * 3


def test_an_update_in_another_layout_is_a_copy_until_it_is_handed_back() -> None:
    problem = build_problem(cache_update(), MESH)
    update = problem.graph.ops[0].name
    cache, new = 2 * 4 * 32 * 8, 2 * 4 * 8
    live = _live(problem, labels_of(problem, cache=[0], **{update: [-1]}))
    assert live == [cache / 2 + new + cache, cache / 2 + new + cache, cache / 2 + new]


def optimizer() -> Graph:
    """Ops: m1 = m + g, read for its norm and for p1 = p + m1; m1 and p1 are given back for m and p."""
    sketch = Sketch({"b": 4, "e": 8})
    p, m, g = (sketch.argument(name, "be") for name in ("p", "m", "g"))
    m1 = sketch.elementwise("add", m, g, name="m1")
    p1 = sketch.elementwise("add", p, m1, name="p1")
    return sketch.graph(p1, m1, aliases=((0, 0), (1, 1)))


def test_what_replaces_an_argument_is_made_in_it() -> None:
    assert _replicated(optimizer()) == [3 * X] * 5


def test_what_replaces_an_argument_in_another_layout_is_a_copy_until_it_is_handed_back() -> None:
    problem = build_problem(optimizer(), MESH)
    # m lies split in two; it is gathered for m1, which is whole until it is sliced again.
    live = _live(problem, labels_of(problem, m=[0]))
    assert live == [2.5 * X + X + X, 2.5 * X + X, 2.5 * X + X, 2.5 * X + X, 2.5 * X]


def test_what_replaces_an_argument_that_is_read_later_is_made_elsewhere() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    m, g = sketch.argument("m", "be"), sketch.argument("g", "be")
    m1 = sketch.elementwise("add", m, g, name="m1")
    late = sketch.einsum("be,be->e", m1, m, name="late")
    assert _replicated(sketch.graph(m1, late, aliases=((0, 0),)))[0] == 2 * X + X


def test_what_only_its_kernel_reads_is_nowhere() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    x = sketch.argument("x", "be")
    h = sketch.elementwise("tanh", x, name="h")
    left, right = (sketch.elementwise("mul", h, name=name) for name in ("left", "right"))
    live = _replicated(sketch.graph(sketch.elementwise("add", left, right, name="sum")))
    assert live == [X, X, X, 2 * X, 2 * X, 2 * X]


def test_small_arguments_are_whole_on_every_chip() -> None:
    sketch = Sketch({"b": 4, "e": 8})
    x, scale = sketch.argument("x", "be"), sketch.argument("scale", "be", free=True)
    problem = build_problem(sketch.graph(sketch.elementwise("mul", x, scale)), MESH)
    peak = MemoryModel(problem).peak(labels_of(problem, x=[0], mul0=[0], result0=[0]))
    assert peak.by_kind[ARGUMENTS] == X / 2 + X


PROGRAMS = [
    build_problem(graph, mesh_of("v5e:2x2"))
    for graph in (
        feed_forward(),
        scanned_feed_forward(),
        scanned_feed_forward(donated=True, collect=True),
        two_readers(),
        parallel_sum(),
        cache_update(),
    )
]


@st.composite
def _plans(draw: st.DrawFn) -> tuple[Problem, tuple[int, ...]]:
    problem = draw(st.sampled_from(PROGRAMS))
    return problem, tuple(draw(st.integers(0, size - 1)) for size in problem.network.sizes)


@settings(deadline=None)
@given(_plans())
def test_the_rows_add_up_to_the_peak(plan: tuple[Problem, tuple[int, ...]]) -> None:
    problem, labels = plan
    live = _live(problem, labels)
    peak = MemoryModel(problem).peak(labels)
    assert peak.nbytes == pytest.approx(max(live))
    assert live[peak.point] == pytest.approx(peak.nbytes)
    assert sum(peak.by_kind.values()) == pytest.approx(peak.nbytes)


@settings(deadline=None)
@given(_plans())
def test_arguments_are_always_live(plan: tuple[Problem, tuple[int, ...]]) -> None:
    problem, labels = plan
    at_rest = 0.0
    for variable in {problem.value_variable[value] for value in problem.graph.arguments}:
        members = [value for value, number in problem.value_variable.items() if number == variable]
        code = problem.variables[variable].codes[labels[variable]]
        at_rest += max(problem.graph.values[v].nbytes for v in members) / 2 ** np.count_nonzero(code >= 0)
    assert min(_live(problem, labels)) >= at_rest * (1 - 1e-12)


def test_a_padded_intermediate_has_its_padded_bytes() -> None:
    # h is [5, 16]: over two chips 3 rows of 16 bfloat16 each; y is [5, 8], x whole.
    problem = build_problem(feed_forward(b=5), MESH, padding=True)
    arguments = 5 * 8 * 2 + 2 * W
    slices_of_x, h, y, whole_y = 3 * 8 * 2, 3 * 16 * 2, 3 * 8 * 2, 5 * 8 * 2
    assert _live(problem, labels_of(problem, h=[0], y=[0]))[:3] == [
        arguments + slices_of_x + h,
        arguments + h + y,
        arguments + y + whole_y,
    ]
