"""What gathers hide behind, by hand: the work of a loop, shared out among what reads its weights."""

import dataclasses

import numpy as np
import pytest

from autoshard.cost.layouts import REPLICATED, UNREDUCED
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.torus import TorusMesh, native_mesh
from autoshard.search.building import build_problem
from autoshard.search.decisions import spell_out
from autoshard.search.hiding import hidden_seconds
from autoshard.search.problem import Edge, Problem
from tests.search.graphs import Sketch, feed_forward, labels_of, mesh_of, scanned_feed_forward

SHARE = 0.75


def _mesh(slice_name: str = "v5e:1x2") -> TorusMesh:
    slice_ = mesh_of(slice_name).slice
    chip = slice_.chip.with_values("assumed", "test", hidden_gather_fraction=SHARE)
    return native_mesh(dataclasses.replace(slice_, chip=chip))


def _edge(problem: Problem, source: str, target: str) -> Edge:
    names = problem.network.names
    (found,) = (e for e in problem.edges if (names[e.source], names[e.target]) == (source, target))
    return found


def _layouts(*codes: int) -> np.ndarray:
    return np.array(codes, dtype=np.int8)[:, None]


def test_only_gathers_hide_and_no_longer_than_there_is_work() -> None:
    have, want = _layouts(0, REPLICATED, 1, UNREDUCED), _layouts(REPLICATED, 0)
    seconds, beside = np.full((4, 2), 8.0), np.array([4.0, 40.0])
    hidden = hidden_seconds(have, want, seconds, beside, _mesh())
    # The gathers from dims 0 and 1 alone; slices, exchanges and sums are waited for.
    assert hidden[:, 0].tolist() == [SHARE * 4, SHARE * 4, SHARE * 4, 0]
    assert hidden[2, 1] == hidden[3, 1] == 0
    assert hidden_seconds(have, want, seconds, 10 * beside, _mesh())[0, 0] == SHARE * 8


def test_gathers_between_slices_are_waited_for() -> None:
    mesh = _mesh("2*v5e:1x2")
    within, across = (np.array([code], dtype=np.int8) for code in ((REPLICATED, 0), (0, REPLICATED)))
    if mesh.axes[0].torus_dim != -1:
        within, across = across, within
    want, seconds = np.full((1, 2), REPLICATED, dtype=np.int8), np.ones((1, 1))
    assert hidden_seconds(within, want, seconds, np.array([9.0]), mesh)[0, 0] == SHARE
    assert hidden_seconds(across, want, seconds, np.array([9.0]), mesh)[0, 0] == 0


def test_the_work_of_a_body_is_shared_out_among_those_that_read_weights() -> None:
    problem = build_problem(scanned_feed_forward(), _mesh())
    work = {number: variable.cost for number, variable in enumerate(problem.variables) if variable.cost}
    names = problem.network.names
    ideal = {names[number]: float(cost.seconds.min()) for number, cost in work.items()}
    ratio = sum(ideal.values()) / (ideal["h"] + ideal["y"])
    assert ratio > 1  # the residual sum is work, too
    edge = _edge(problem, "wi", "h")
    assert edge.beside == pytest.approx(ratio * work[edge.target].seconds)
    assert _edge(problem, "h", "y").beside is None  # made in the step


def test_a_plan_shows_what_is_hidden() -> None:
    mesh = _mesh()
    problem = build_problem(feed_forward(b=4096, e=4096, f=4096), mesh)
    decisions = spell_out(problem, labels_of(problem, wi=[0], h=[0], x=[0], y=[0], result0=[0]))
    (h,) = (decision for decision in decisions.ops if decision.op.name == "h")
    gather = next(m for m in h.movements if m.kind == "all-gather")
    have, want = _layouts(0), _layouts(REPLICATED)
    seconds = reshard_seconds(have, want, 2 * 4096 * 4096, mesh)[0, 0]
    assert gather.cost.communication_seconds == pytest.approx(seconds)
    edge = _edge(problem, "wi", "h")
    assert edge.beside is not None
    beside = edge.beside[decisions.labels[edge.target]]
    assert gather.cost.hidden_seconds == pytest.approx(SHARE * min(seconds, beside))
    value = problem.network.value(decisions.labels)
    assert decisions.cost.seconds + problem.rest_seconds(decisions.labels) == pytest.approx(value)


def test_a_weight_that_is_converted_on_the_way_hides_before_the_einsum_that_reads_it() -> None:
    sketch = Sketch({"b": 4, "e": 8, "f": 16})
    narrow = sketch.argument("w8", "ef")
    weight = sketch.elementwise("convert_element_type", narrow, name="w", stored=True)
    y = sketch.einsum("be,ef->bf", sketch.argument("x", "be"), weight, name="y")
    problem = build_problem(sketch.graph(y), _mesh())
    edges = [edge for edge in problem.edges if problem.graph.values[edge.value].name == "w8"]
    assert [edge.beside is None for edge in edges] == [False]
    assert edges[0].beside is not None
    ideal = [float(each.cost.seconds.min()) for each in problem.variables if each.cost is not None]
    assert edges[0].beside == pytest.approx(np.full(len(edges[0].target_layouts), sum(ideal)))
