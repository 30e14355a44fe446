"""Copies in small unrolled programs."""

from __future__ import annotations

import pytest

from autoshard.search.building import build_problem
from autoshard.search.decisions import spell_out
from autoshard.search.folding import fold, unfolded
from autoshard.search.graph import Factor, FactorKind, Graph, OpKind
from autoshard.search.memory import MemoryModel
from autoshard.search.planner import search_plans
from autoshard.search.problem import Problem, Variable
from tests.search.graphs import Sketch, mesh_of

LAYERS = 8
MESH = mesh_of("v5e:2x4")


def layer(sketch: Sketch, x: int, number: int) -> int:
    """x + (x wq) wo, then x + (x wi) wf; wq and wo have the same shape."""
    weights = {name: sketch.argument(f"layers/{number}/{name}", "ee") for name in ("wq", "wo")}
    wi, wf = sketch.argument(f"layers/{number}/wi", "ef"), sketch.argument(f"layers/{number}/wf", "fe")
    q = sketch.einsum("be,ec->bc", x, weights["wq"], name=f"q{number}")
    x = sketch.elementwise("add", x, sketch.einsum("bc,ce->be", q, weights["wo"], name=f"o{number}"))
    h = sketch.elementwise("relu", sketch.einsum("be,ef->bf", x, wi, name=f"i{number}"))
    return sketch.elementwise("add", x, sketch.einsum("bf,fe->be", h, wf, name=f"f{number}"))


def unrolled(layers: int = LAYERS) -> Graph:
    """An embedding, layers, two heads: what the last layer makes is written, as that of every layer is."""
    sketch = Sketch({"b": 64, "e": 64, "c": 64, "f": 256, "v": 128})
    x = sketch.einsum("bv,ve->be", sketch.argument("x", "bv"), sketch.argument("embed", "ve"), name="embed")
    for number in range(layers):
        x = layer(sketch, x, number)
    head = sketch.einsum("be,ev->bv", x, sketch.argument("head", "ev"), name="head")
    return sketch.graph(head, sketch.einsum("be,ef->bf", x, sketch.argument("probe", "ef"), name="probe"))


def copies_of(graph: Graph, name: str) -> list[str]:
    """Names of the ops that have one leader with the op called `name`."""
    leaders = fold(graph).op_leader
    number = next(op.index for op in graph.ops if op.name == name)
    return [op.name for op in graph.ops if leaders[op.index] == leaders[number]]


@pytest.mark.parametrize("name", ["q", "o", "i", "f"])
def test_one_decision_per_place_in_the_layer(name: str) -> None:
    assert copies_of(unrolled(), f"{name}3") == [f"{name}{number}" for number in range(LAYERS)]


def test_what_is_around_the_layers_stays_free() -> None:
    assert copies_of(unrolled(), "embed") == ["embed"]
    assert copies_of(unrolled(), "head") == ["head"]


def test_weights_follow_their_einsums() -> None:
    graph = unrolled()
    leaders = fold(graph).value_leader
    by_name = {graph.values[v].name: leaders[v] for v in graph.arguments}
    assert len({by_name[f"layers/{number}/wq"] for number in range(LAYERS)}) == 1
    assert by_name["layers/0/wq"] != by_name["layers/0/wo"]  # of one shape, in another role


def test_a_scanned_program_has_no_copies() -> None:
    graph = unrolled(2)
    assert fold(graph) == unfolded(graph)


def optimizer(sketch: Sketch, weights: list[int]) -> list[int]:
    """w - w m for every weight, one after the other."""
    moments = [sketch.argument(f"m{w}", "ee") for w in weights]
    return [sketch.elementwise("sub", w, m, name=f"update{w}") for w, m in zip(weights, moments, strict=True)]


def test_alike_updates_of_weights_in_other_roles_are_apart() -> None:
    """All updates have one shape and follow one another: only the weights tell q's from o's."""
    sketch = Sketch({"b": 64, "e": 64, "c": 64})
    x = sketch.elementwise("cos", sketch.argument("x", "be"))
    weights = []
    for number in range(LAYERS):
        wq, wo = sketch.argument(f"wq{number}", "ec"), sketch.argument(f"wo{number}", "ce")
        q = sketch.elementwise("relu", sketch.einsum("be,ec->bc", x, wq, name=f"q{number}"))
        q = sketch.elementwise("exp", sketch.elementwise("tanh", q))
        q = sketch.elementwise("neg", sketch.elementwise("sin", q))
        o = sketch.einsum("bc,ce->be", q, wo, name=f"o{number}")
        x = sketch.elementwise("add", x, sketch.elementwise("cos", o))
        weights += [wq, wo]
    graph = sketch.graph(x, *optimizer(sketch, weights))
    assert copies_of(graph, f"update{weights[0]}") == [f"update{w}" for w in weights[::2]]
    assert copies_of(graph, f"update{weights[1]}") == [f"update{w}" for w in weights[1::2]]


def test_experts_inside_layers_fold_too() -> None:
    experts = 8
    sketch = Sketch({"b": 64, "e": 64, "f": 256})
    x = sketch.elementwise("cos", sketch.argument("x", "be"))
    for number in range(LAYERS):
        total = sketch.elementwise("tanh", x, name=f"router{number}")
        for expert in range(experts):
            wi, wf = (
                sketch.argument(f"{number}/{expert}/wi", "ef"),
                sketch.argument(f"{number}/{expert}/wf", "fe"),
            )
            h = sketch.elementwise("relu", sketch.einsum("be,ef->bf", x, wi, name=f"i{number}.{expert}"))
            y = sketch.einsum("bf,fe->be", h, wf, name=f"f{number}.{expert}")
            total = sketch.elementwise("add", total, y)
        x = sketch.elementwise("sin", total)
    graph = sketch.graph(x)
    expected = [f"i{number}.{expert}" for number in range(LAYERS) for expert in range(experts)]
    assert copies_of(graph, "i3.3") == expected
    leaders = fold(graph).value_leader
    assert len({leaders[v] for v in graph.arguments}) == 3  # x, wi and wf


def test_stacked_experts_are_alike_wherever_they_are_in_the_stack() -> None:
    sketch = Sketch({"b": 64, "e": 64, "f": 256})
    x = sketch.elementwise("cos", sketch.argument("x", "be"))
    made = []
    for expert in range(LAYERS):
        wi, wf = sketch.argument(f"{expert}/wi", "ef"), sketch.argument(f"{expert}/wf", "fe")
        h = sketch.elementwise("relu", sketch.einsum("be,ef->bf", x, wi, name=f"i{expert}"))
        made.append(sketch.einsum("bf,fe->be", h, wf, name=f"f{expert}"))
    factors = [Factor(64, FactorKind.PARALLEL), Factor(64, FactorKind.PARALLEL)]
    dims = ((0,), (1,))
    stacked = sketch.op(OpKind.OTHER, "stack", made, (LAYERS, 64, 64), factors, (dims,) * LAYERS, ((), *dims))
    graph = sketch.graph(stacked)
    assert copies_of(graph, "f3") == [f"f{expert}" for expert in range(LAYERS)]


def test_folding_changes_neither_costs_nor_memory() -> None:
    """A plan of the folded problem costs and needs the same when every copy is written out."""
    graph = unrolled()
    short, full = build_problem(graph, MESH), build_problem(graph, MESH, unfolded(graph))
    assert len(short.variables) < len(full.variables) / 4
    labels = search_plans(short, 1e12).candidates[0].labels
    spread = [0] * len(full.variables)
    for own, shared in ((full.op_variable, short.op_variable), (full.value_variable, short.value_variable)):
        for subject, number in own.items():
            spread[number] = labels[shared[subject]]
    for number, variable in enumerate(full.variables):
        assert (variable.codes == short.variables[_shared(short, variable)].codes).all(), number
    assert full.network.value(spread) == pytest.approx(short.network.value(labels), rel=1e-9)
    assert MemoryModel(full).peak(spread) == MemoryModel(short).peak(labels)


def _shared(problem: Problem, variable: Variable) -> int:
    subjects = problem.op_variable if variable.cost is not None else problem.value_variable
    return subjects[variable.subject]


def test_the_optimum_of_alike_layers_is_alike() -> None:
    graph = unrolled()
    short, full = build_problem(graph, MESH), build_problem(graph, MESH, unfolded(graph))
    best = [search_plans(problem, 1e12, gap=0.0).candidates[0].seconds for problem in (short, full)]
    assert best[0] == pytest.approx(best[1], rel=1e-9)


def test_decisions_name_a_block_once() -> None:
    problem = build_problem(unrolled(), MESH)
    decisions = spell_out(problem, search_plans(problem, 1e12).candidates[0].labels)
    einsums = {d.op.name: len(d.copies) for d in decisions.ops if d.op.kind == "einsum"}
    assert einsums == {
        "embed": 1,
        "q1": LAYERS,
        "o1": LAYERS,
        "i1": LAYERS,
        "f1": LAYERS,
        "head": 1,
        "probe": 1,
    }
    seconds = sum(d.cost.seconds * d.executions for d in decisions.ops)
    candidate = search_plans(problem, 1e12).candidates[0]
    assert seconds == pytest.approx(candidate.seconds, rel=1e-6)
