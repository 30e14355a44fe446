"""Costs: an algebra by properties, and the parts of ops and collectives by hand."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.collectives import Collective, Kind, collective_seconds
from autoshard.cost.cost import Cost, collective_cost, op_cost
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, mesh_factorisations, native_mesh

SECONDS = st.floats(0, 1e3)
COSTS = st.builds(
    Cost,
    compute_seconds=SECONDS,
    hbm_seconds=SECONDS,
    overlapped_seconds=SECONDS,
    ici_seconds=st.dictionaries(st.sampled_from(["x", "y", "x,y"]), SECONDS),
    dcn_seconds=SECONDS,
    latency_seconds=SECONDS,
    hidden_seconds=SECONDS,
)
MESHES = [
    mesh
    for text in ("v4:4x4x4", "v5e:4x8", "2*v5e:4x4", "h100:16")
    for mesh in mesh_factorisations(parse_slice(text))
]
ROUND_OFF = 1e-9


def close(one: Cost, other: Cost) -> bool:
    """Whether two costs are the same part by part, but for round-off."""

    def parts(cost: Cost) -> dict[str, float]:
        plain = dataclasses.asdict(cost)
        return {**{f"ici {axes}": s for axes, s in plain.pop("ici_seconds").items()}, **plain}

    a, b = parts(one), parts(other)
    return all(
        math.isclose(a.get(n, 0.0), b.get(n, 0.0), rel_tol=ROUND_OFF, abs_tol=ROUND_OFF) for n in {*a, *b}
    )


@given(COSTS, COSTS)
def test_addition_commutes(one: Cost, other: Cost) -> None:
    assert one + other == other + one


@given(COSTS, COSTS, COSTS)
def test_addition_associates(a: Cost, b: Cost, c: Cost) -> None:
    assert close((a + b) + c, a + (b + c))


@given(COSTS)
def test_nothing_is_the_start_of_a_sum(cost: Cost) -> None:
    assert cost + Cost() == cost
    assert sum([cost], Cost()) == cost
    assert 0 * cost == Cost()


@given(COSTS, st.integers(0, 20))
def test_n_times_a_cost_is_the_sum_of_n(cost: Cost, times: int) -> None:
    assert close(times * cost, sum([cost] * times, Cost()))


@given(COSTS, COSTS, st.integers(0, 100))
def test_the_total_is_linear(one: Cost, other: Cost, times: int) -> None:
    total = times * one + other
    assert total.seconds == pytest.approx(times * one.seconds + other.seconds, rel=1e-6, abs=1e-6)
    assert total.exposed_seconds == pytest.approx(
        times * one.exposed_seconds + other.exposed_seconds, rel=1e-6, abs=1e-6
    )


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=8))
def test_a_sum_of_ops_is_the_sum_of_their_maxima(ops: list[tuple[float, float]]) -> None:
    total = sum((op_cost(compute, hbm) for compute, hbm in ops), Cost())
    assert total.seconds == pytest.approx(sum(max(op) for op in ops))
    assert total.compute_seconds == pytest.approx(sum(compute for compute, _ in ops))
    assert total.hbm_seconds == pytest.approx(sum(hbm for _, hbm in ops))


@st.composite
def placed(draw: st.DrawFn) -> tuple[TorusMesh, tuple[int, ...]]:
    mesh = draw(st.sampled_from(MESHES))
    axes = draw(st.sets(st.sampled_from(range(len(mesh.axes))), min_size=1))
    return mesh, tuple(sorted(axes))


def collective(kind: Kind, mesh: TorusMesh, axes: tuple[int, ...], n_bytes: float) -> Collective:
    seconds = collective_seconds(kind, n_bytes, axes, mesh)
    return Collective(kind, tuple(mesh.names[i] for i in axes), n_bytes, seconds)


@given(placed(), st.sampled_from(list(Kind)), st.floats(0, 1e12), st.floats(0, 1e12), COSTS)
def test_a_total_grows_with_the_bytes_that_are_moved(
    where: Any, kind: Kind, a: float, b: float, rest: Cost
) -> None:
    mesh, axes = where
    fewer, more = (rest + collective_cost(collective(kind, mesh, axes, n), mesh) for n in sorted((a, b)))
    assert fewer.seconds <= more.seconds + 1e-6


@given(placed(), st.sampled_from(list(Kind)), st.floats(0, 1e12))
def test_the_parts_of_a_collective_add_up_to_its_time(where: Any, kind: Kind, n_bytes: float) -> None:
    mesh, axes = where
    moved = collective(kind, mesh, axes, n_bytes)
    cost = collective_cost(moved, mesh)
    assert cost.seconds == cost.exposed_seconds == pytest.approx(moved.seconds)
    assert (cost.compute_seconds, cost.hbm_seconds) == (0.0, 0.0)
    assert cost.latency_seconds > 0


def test_parts_of_a_collective_over_two_slices_by_hand() -> None:
    # 16 MB put out on each of 2 x 16 chips: 15 MB over a 4x4 of lines, half of 1 MB over DCN.
    mesh = native_mesh(parse_slice("2*v5e:4x4"))
    cost = collective_cost(collective(Kind.ALL_GATHER, mesh, (0, 1, 2), 16e6), mesh)
    assert cost.ici_seconds == {"x,y": pytest.approx(15e6 / 90e9)}
    assert cost.dcn_seconds == pytest.approx(0.5e6 / 3.125e9)
    assert cost.latency_seconds == pytest.approx(3.5e-6 + 6 * 1.5e-6 + 1e-5)
    assert collective_cost(collective(Kind.ALL_GATHER, mesh, (0,), 16e6), mesh).ici_seconds == {}


def test_what_a_chip_hides_is_not_exposed() -> None:
    real = parse_slice("v5e:4x4")
    chip = real.chip.with_values("assumed", "test", exposed_ici_fraction=0.25)
    mesh = native_mesh(dataclasses.replace(real, chip=chip))
    moved = collective(Kind.ALL_REDUCE, mesh, (0,), 1e6)
    cost = collective_cost(moved, mesh)
    assert cost.communication_seconds == pytest.approx(moved.seconds)
    assert cost.hidden_seconds == pytest.approx(0.75 * moved.seconds)
    assert cost.seconds == pytest.approx(0.25 * moved.seconds)


def test_axes_without_time_do_not_tell_costs_apart() -> None:
    assert Cost(ici_seconds={"x": 0.0, "y": 1.0}) == Cost(ici_seconds={"y": 1.0})
    both = Cost(ici_seconds={"y": 1.0}) + Cost(ici_seconds={"x": 2.0, "y": 3.0})
    assert both.ici_seconds == {"x": 2.0, "y": 4.0}
    assert both.total_ici_seconds == 6.0


@pytest.mark.parametrize(
    ("cost", "bound"),
    [
        (op_cost(2.0, 1.0), "compute"),
        (op_cost(1.0, 2.0), "HBM"),
        (op_cost(1.0, 1.0) + Cost(ici_seconds={"x": 0.6, "y": 0.6}), "ICI"),
        (op_cost(1.0, 1.0) + Cost(ici_seconds={"x": 0.6}, dcn_seconds=0.7), "DCN"),
        (op_cost(0.1, 0.1) + Cost(ici_seconds={"x": 0.1}, latency_seconds=0.2), "latency"),
        (op_cost(2.0, 1.0) + Cost(ici_seconds={"x": 2.1}, hidden_seconds=1.9), "compute"),
    ],
)
def test_what_takes_longest_bounds(cost: Cost, bound: str) -> None:
    assert cost.bound_by == bound
