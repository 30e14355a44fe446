"""What is settled for all phases: one order of axes, and the pins that say it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.mesh_solving import pinned_problem
from autoshard.phases.held import held_specs, pins_of
from autoshard.phases.joint_search import Found, JointSearch, Links
from autoshard.phases.phase import make_phases
from autoshard.progress import Progress
from autoshard.search.ordering import Orders
from autoshard.search.planner import search_plans
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import Session, open_session

B, E, F = 64, 256, 1024


def multiply(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("be,ef->bf", x, w)


def session(pins: tuple[str, ...] = (), ordered: tuple[str, ...] = ()) -> Session:
    arguments = (jax.ShapeDtypeStruct((E, F), "float32"), jax.ShapeDtypeStruct((B, E), "float32"))
    opened = open_session(
        Target("", None, multiply, "multiply", arguments, {}),
        Options("v5e:4x4", refine="none", mesh="native", pins=pins),
        Progress(quiet=True),
    )
    return replace(opened, ordered_pins=ordered)


def found(shared: tuple[str, ...] = ("w",)) -> tuple[JointSearch, Found]:
    phases = make_phases([session(("w=;x,y",)), session()], (1.0, 2.0))
    search = JointSearch(phases, Links(shared, ()))
    return search, search.run()


@pytest.mark.parametrize("order", ["x,y", "y,x"])
def test_an_ordered_pin_fixes_the_order_of_axes(order: str) -> None:
    pin = f"w=;{order}"
    held = session((pin,), (pin,))
    mesh = native_mesh(parse_slice("v5e:4x4"))
    problem = pinned_problem(held, mesh)
    labels = [int(np.argmin(unary)) for unary in problem.network.unary]
    value = held.graph.arguments[0]
    axes = tuple(mesh.names.index(name) for name in order.split(","))
    assert Orders(problem, labels).spec_of_value(value) == ((), axes)


def test_the_pins_of_all_phases_say_one_spec() -> None:
    search, best = found()
    held = held_specs(best, search.shared())
    pins = pins_of(search.phases, best, search.links, held)
    assert pins[0] == pins[1]
    assert pins[0] in {("w=;x,y",), ("w=;y,x",)}


def test_what_is_not_shared_is_not_pinned() -> None:
    search, best = found(())
    assert pins_of(search.phases, best, search.links, held_specs(best, search.shared())) == [(), ()]


def test_an_order_that_does_not_suit_is_priced() -> None:
    """`w` is kept over (x, y) and read over (x): the axis that stays has to be the major one."""
    mesh = native_mesh(parse_slice("v5e:4x4"))
    pins = ("w=;x,y", "einsum:be,ef->bf=* | ;x")
    seconds = {}
    for order in ("x,y", "y,x"):
        pin = f"w=;{order}"
        problem = pinned_problem(session((pin, pins[1]), (pin,)), mesh)
        labels = search_plans(problem, 16e9).candidates[0].labels
        seconds[order] = Orders(problem, labels).permute_seconds
    assert seconds["x,y"] == 0
    local = 4.0 * E * F / 16
    assert seconds["y,x"] == pytest.approx(collective_seconds(Kind.COLLECTIVE_PERMUTE, local, (0, 1), mesh))
