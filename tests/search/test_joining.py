"""Phases as one problem: the optimum against brute force, one layout of what is shared, hand-overs priced."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost.layouts import REPLICATED
from autoshard.cost.reshard import reshard_seconds
from autoshard.search.building import build_problem
from autoshard.search.errors import BudgetError, NoSolutionError
from autoshard.search.graph import Graph
from autoshard.search.joining import HandOver, Joint, Shared, join, layout_of
from autoshard.search.joint_planner import JointSolution, search_jointly, step_seconds
from autoshard.search.memory import MemoryModel
from autoshard.search.pins import ValuePin, pinned
from autoshard.search.planner import search_plans
from autoshard.search.problem import Problem, copies
from tests.search.graphs import Sketch, feed_forward, mesh_of, scanned_feed_forward

Interface = tuple[tuple[int, ...], ...]
ROOMY = 16e9


def argument(problem: Problem, name: str) -> int:
    """The value of an argument."""
    return next(v for v in problem.graph.arguments if problem.graph.values[v].name == name)


def sharing(problems: Sequence[Problem], *names: str) -> list[Shared]:
    return [Shared({i: argument(problem, name) for i, problem in enumerate(problems)}) for name in names]


def layouts(joint: Joint, solution: JointSolution, name: str) -> list[list[int]]:
    """The layout of an argument in each phase."""
    return [
        layout_of(problem, labels, argument(problem, name)).tolist()
        for problem, labels in zip(joint.problems, solution.labels, strict=True)
    ]


# ---- against brute force

PAIRS: dict[str, tuple[Callable[[], Graph], Callable[[], Graph]]] = {
    "same": (lambda: feed_forward(64, 8, 32), lambda: feed_forward(64, 8, 32)),
    "large": (lambda: feed_forward(512, 256, 1024), lambda: feed_forward(512, 256, 1024)),
    "scanned": (
        lambda: scanned_feed_forward(2, 512, 128, 512),
        lambda: scanned_feed_forward(2, 512, 128, 512, donated=True),
    ),
}


@cache
def pair(name: str) -> tuple[Problem, Problem]:
    """Two phases on two chips: weights `wi` and `wo`, and a result of the shape of the argument `x`."""
    one, two = PAIRS[name]
    return build_problem(one(), mesh_of("v5e:1x2")), build_problem(two(), mesh_of("v5e:1x2"))


def plans(problem: Problem) -> Iterator[tuple[float, tuple[int, ...]]]:
    for labels in itertools.product(*(range(size) for size in problem.network.sizes)):
        value = problem.network.value(labels)
        if math.isfinite(value):
            yield value, labels


@cache
def tables(name: str) -> tuple[list[tuple[Interface, tuple[int, ...], float, float]], ...]:
    """For each phase all plans: layouts of the weights, layout of what is handed over, value, peak."""
    found = []
    for number, problem in enumerate(pair(name)):
        memory = MemoryModel(problem)
        ends = (problem.graph.results[0], argument(problem, "x"))
        found.append(
            [
                (
                    tuple(
                        tuple(layout_of(problem, labels, argument(problem, weight)).tolist())
                        for weight in ("wi", "wo")
                    ),
                    tuple(layout_of(problem, labels, ends[number]).tolist()),
                    value,
                    memory.peak(labels).nbytes,
                )
                for value, labels in plans(problem)
            ]
        )
    return tuple(found)


def brute_force(name: str, runs: tuple[float, float], limit_bytes: float) -> float:
    """The least value of all pairs of plans that fit and have the weights alike."""
    source = pair(name)[0]
    value = source.graph.values[source.graph.results[0]]
    best: list[dict[tuple[Interface, tuple[int, ...]], float]] = [{}, {}]
    for phase, table in enumerate(tables(name)):
        for weights, end, seconds, nbytes in table:
            if nbytes <= limit_bytes:
                known = best[phase].get((weights, end), math.inf)
                best[phase][weights, end] = min(known, seconds * runs[phase])
    totals = [math.inf]
    for (weights, given_), first in best[0].items():
        for (others, taken), second in best[1].items():
            if weights == others:
                have, want = (np.array([end], dtype=np.int8) for end in (given_, taken))
                moved = reshard_seconds(have, want, value.nbytes, source.mesh, value.shape)
                moved = moved + copies(have, want, value.nbytes, source.mesh)
                totals.append(first + second + runs[0] * float(moved[0, 0]))
    return min(totals)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(PAIRS)), st.sampled_from([(1.0, 1.0), (1.0, 64.0), (3.0, 0.5)]), st.data())
def test_the_best_plans_together_are_those_of_brute_force(
    name: str, runs: tuple[float, float], data: st.DataObject
) -> None:
    peaks = sorted({nbytes for table in tables(name) for *_, nbytes in table})
    limit_bytes = data.draw(st.sampled_from(peaks))
    problems = pair(name)
    handover = HandOver((0, problems[0].graph.results[0]), (1, argument(problems[1], "x")), runs[0])
    joint = join(problems, runs, sharing(problems, "wi", "wo"), [handover])
    expected = brute_force(name, runs, limit_bytes)
    if math.isinf(expected):
        with pytest.raises(BudgetError):
            search_jointly(joint, limit_bytes, gap=0.0)
        return
    found = search_jointly(joint, limit_bytes, gap=0.0)
    values = [
        count * problem.network.value(labels)
        for count, problem, labels in zip(runs, problems, found.labels, strict=True)
    ]
    assert sum(values) + found.handover_seconds == pytest.approx(expected, rel=1e-9)
    assert found.bound_seconds <= found.seconds
    for problem, labels in zip(problems, found.labels, strict=True):
        assert MemoryModel(problem).peak(labels).nbytes <= limit_bytes * (1 + 1e-9)
    for weight in ("wi", "wo"):
        one, two = layouts(joint, found, weight)
        assert one == two


# ---- what is shared


def prefill() -> Graph:
    """Many tokens: best with the batch sharded, which needs the weight whole."""
    sketch = Sketch({"b": 2**17, "e": 512, "f": 512})
    x, w = sketch.argument("x", "be"), sketch.argument("w", "ef")
    return sketch.graph(sketch.einsum("be,ef->bf", x, w, name="y"))


def decode() -> Graph:
    """Few tokens beside a large cache [t, f]."""
    sketch = Sketch({"b": 8, "e": 512, "f": 512, "t": 2**19})
    x, w, c = (sketch.argument(n, dims) for n, dims in (("x", "be"), ("w", "ef"), ("cache", "tf")))
    h = sketch.einsum("be,ef->bf", x, w, name="h")
    return sketch.graph(sketch.einsum("bf,tf->bt", h, c, name="s"))


def test_phases_that_want_a_weight_elsewhere_meet_in_one_layout() -> None:
    """Beside the cache there is no room for the whole weight: decode shards it, prefill has to gather."""
    mesh = mesh_of("h100:4")
    nbytes = 2.0 * 512 * 512
    problems = [build_problem(graph, mesh) for graph in (prefill(), decode())]
    room = search_plans(problems[1], ROOMY).candidates[0].peak.nbytes - 0.3 * nbytes
    alone = [search_plans(problem, room, gap=0.0).candidates[0] for problem in problems]
    apart = [
        layout_of(problem, plan.labels, argument(problem, "w")).tolist()
        for problem, plan in zip(problems, alone, strict=True)
    ]
    assert apart[0] == [REPLICATED]
    assert apart[1] != [REPLICATED]
    joint = join(problems, (1.0, 64.0), sharing(problems, "w"), [])
    found = search_jointly(joint, room, gap=0.0)
    one, two = layouts(joint, found, "w")
    assert one == two == apart[1]
    assert found.phase_seconds[1] == pytest.approx(alone[1].seconds, rel=1e-6)
    have, want = (np.array([layout], dtype=np.int8) for layout in (one, [REPLICATED]))
    gather = reshard_seconds(have, want, nbytes, mesh) + copies(have, want, nbytes, mesh)
    lost = found.phase_seconds[0] - alone[0].seconds
    assert lost == pytest.approx(float(gather[0, 0]), rel=1e-6)  # on this chip nothing hides it


def test_what_is_alike_anyway_costs_nothing() -> None:
    problems = [build_problem(decode(), mesh_of("v5e:2x2"))] * 2
    alone = search_plans(problems[0], ROOMY, gap=0.0).candidates[0].seconds
    found = search_jointly(join(problems, (2.0, 3.0), sharing(problems, "w", "cache"), []), ROOMY, gap=0.0)
    assert found.seconds == pytest.approx(5 * alone, rel=1e-9)
    assert found.bound_seconds == pytest.approx(found.seconds, rel=1e-3)


def test_three_phases_share_one_layout() -> None:
    problems = [build_problem(graph, mesh_of("v5e:1x2")) for graph in (prefill(), decode(), prefill())]
    joint = join(problems, (1.0, 8.0, 1.0), sharing(problems, "w"), [])
    first, second, third = layouts(joint, search_jointly(joint, ROOMY), "w")
    assert first == second == third


def test_a_pin_in_one_phase_holds_for_what_the_others_share() -> None:
    problems = [build_problem(graph, mesh_of("v5e:1x2")) for graph in (prefill(), decode())]
    problems[1] = pinned(problems[1], [ValuePin(argument(problems[1], "w"), (0,), "w=y;")])
    joint = join(problems, (1.0, 1.0), sharing(problems, "w"), [])
    assert layouts(joint, search_jointly(joint, ROOMY), "w") == [[0]] * 2


def test_pins_that_exclude_each_other_leave_no_plan() -> None:
    problems = [build_problem(prefill(), mesh_of("v5e:1x2")) for _ in range(2)]
    value = argument(problems[0], "w")
    problems = [pinned(problems[0], [ValuePin(value, (dim,), "w")]) for dim in (0, 1)]
    with pytest.raises(NoSolutionError):
        search_jointly(join(problems, (1.0, 1.0), sharing(problems, "w"), []), ROOMY)


def free_weight() -> Graph:
    """As `prefill`, with a weight so small that every chip keeps it whole."""
    sketch = Sketch({"b": 2**17, "e": 512, "f": 512})
    x, w = sketch.argument("x", "be"), sketch.argument("w", "ef", free=True)
    return sketch.graph(sketch.einsum("be,ef->bf", x, w, name="y"))


@pytest.mark.parametrize("turned", [False, True])
def test_what_one_phase_keeps_whole_is_whole_in_all(turned: bool) -> None:
    graphs = [free_weight(), feed_forward(64, 512, 512)]
    problems = [build_problem(graph, mesh_of("v5e:1x2")) for graph in graphs]
    names = ["w", "wi"]
    if turned:
        problems, names = problems[::-1], names[::-1]
    shared = Shared(
        {i: argument(problem, name) for i, (problem, name) in enumerate(zip(problems, names, strict=True))}
    )
    joint = join(problems, (1.0, 1.0), [shared], [])
    found = search_jointly(joint, ROOMY)
    for phase, (problem, name) in enumerate(zip(problems, names, strict=True)):
        assert (layout_of(problem, found.labels[phase], argument(problem, name)) == REPLICATED).all()


# ---- what is handed over


def test_a_handover_between_pinned_layouts_costs_its_reshard_each_time() -> None:
    """`y` is left over rows and taken over columns: an all-to-all, once for each of the runs."""
    mesh = mesh_of("v5e:1x2")
    first, second = (build_problem(feed_forward(512, 256, 1024), mesh) for _ in range(2))
    given, taken = first.graph.results[0], argument(second, "x")
    first = pinned(first, [ValuePin(given, (0,), "y")])
    second = pinned(second, [ValuePin(taken, (1,), "x")])
    joint = join([first, second], (2.0, 5.0), [], [HandOver((0, given), (1, taken), 2.0)])
    found = search_jointly(joint, ROOMY)
    have, want = (np.array([[dim]], dtype=np.int8) for dim in (0, 1))
    nbytes = 2.0 * 512 * 256
    once = reshard_seconds(have, want, nbytes, mesh, (512, 256)) + copies(have, want, nbytes, mesh)
    assert float(once[0, 0]) > 0
    assert found.handover_seconds == pytest.approx(2 * float(once[0, 0]), rel=1e-9)
    assert found.seconds == pytest.approx(
        2 * found.phase_seconds[0] + 5 * found.phase_seconds[1] + found.handover_seconds, rel=1e-9
    )


def test_a_phase_may_hand_over_to_itself() -> None:
    """Dear enough, what a step leaves lies as the next step takes it."""
    problem = build_problem(scanned_feed_forward(2, 512, 128, 512), mesh_of("v5e:1x2"))
    ends = (problem.graph.results[0], argument(problem, "x"))
    joint = join([problem], (1.0,), [], [HandOver((0, ends[0]), (0, ends[1]), 1e6)])
    found = search_jointly(joint, ROOMY)
    one, two = (layout_of(problem, found.labels[0], value).tolist() for value in ends)
    assert found.handover_seconds == 0 or one == two
    assert found.seconds == pytest.approx(step_seconds(problem, found.labels[0]), rel=1e-9)


def test_each_phase_has_the_memory_for_itself() -> None:
    """Two phases that fit one by one fit together, though not both at once."""
    problems = [build_problem(decode(), mesh_of("v5e:1x2"))] * 2
    nbytes = search_plans(problems[0], ROOMY).candidates[0].peak.nbytes
    found = search_jointly(join(problems, (1.0, 1.0), sharing(problems, "w"), []), nbytes * 1.01)
    assert len(found.labels) == 2


def test_what_fits_nowhere_is_an_error() -> None:
    problems = [build_problem(graph, mesh_of("v5e:1x2")) for graph in (prefill(), decode())]
    with pytest.raises(BudgetError):
        search_jointly(join(problems, (1.0, 1.0), sharing(problems, "w"), []), 1e6)
