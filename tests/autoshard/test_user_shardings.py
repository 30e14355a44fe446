"""Shardings that an author wrote for other meshes are freed, those for the plan's mesh are kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard.constraining import Constraints, run_constrained
from autoshard.errors import TraceError
from autoshard.user_shardings import Freeing, count_freed, shard_maps

P = PartitionSpec
X = jax.ShapeDtypeStruct((8, 16), "float32")
W = jax.ShapeDtypeStruct((16, 16), "float32")


def mesh_of(
    names: str, sizes: tuple[int, ...], kind: AxisType = AxisType.Auto, *, turned: bool = False
) -> Mesh:
    """A mesh over the first devices; `turned`: in another order."""
    devices = np.array(jax.devices()[: int(np.prod(sizes))])
    return Mesh(
        devices[::-1].reshape(sizes) if turned else devices.reshape(sizes), tuple(names), (kind,) * len(sizes)
    )


USER = mesh_of("dm", (4, 2))
EXPLICIT = mesh_of("dm", (4, 2), AxisType.Explicit)
PLAN = mesh_of("xyz", (2, 2, 2), turned=True)
"""Of the same devices, in an order that no program can share with that of the user's meshes."""


def pinned(x: Any, *entries: Any) -> Any:
    return lax.with_sharding_constraint(x, NamedSharding(USER, P(*entries)))


def annotated_everywhere(x: Any, w: Any) -> Any:
    def layer(x: Any, _: Any) -> Any:
        return pinned(jnp.tanh(x @ w), "d", "m"), None

    x = lax.scan(layer, pinned(x, "d"), None, length=2)[0]
    x = jax.checkpoint(lambda x: pinned(jnp.sin(x @ w), "d"))(x)
    x = lax.cond(x[0, 0] > 0, lambda x: pinned(x, "m") * 2, lambda x: x, x)
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, pinned(c[1] @ w, "d")), (0, x))[1]


def nested_jit(x: Any, w: Any) -> Any:
    sharding = NamedSharding(USER, P("d"))
    return jax.jit(lambda x: jnp.sin(x) * 2, in_shardings=sharding, out_shardings=sharding)(x) @ w


def under_a_mesh(x: Any, w: Any) -> Any:
    """The specs are relative to the mesh in the context."""
    x = lax.with_sharding_constraint(x, P("d"))
    return jax.jit(jnp.sin)(lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=2)[0])


def explicit(x: Any, w: Any) -> Any:
    """Types carry shardings, operations are told those of their results."""
    x = jax.sharding.reshard(x, P("d"))
    h = jnp.einsum("be,ef->bf", x, jax.sharding.reshard(w, P(None, "m")), out_sharding=P("d", "m"))
    h = lax.scan(lambda h, _: (jax.jit(jnp.tanh)(h), None), h, None, length=2)[0]
    return jax.sharding.reshard(h, P()) + jnp.zeros((8, 16), out_sharding=P(None, None))


def to_a_sharding(x: Any, w: Any) -> Any:
    return jax.device_put(x @ w, NamedSharding(USER, P("d")))


PROGRAMS: dict[str, tuple[Callable[..., Any], Mesh | None, int]] = {
    "constraints in bodies": (annotated_everywhere, None, 5),
    "a jit with shardings": (nested_jit, None, 0),
    "under a mesh": (under_a_mesh, USER, 1),
    "explicit shardings": (explicit, EXPLICIT, 3),
    "device_put": (to_a_sharding, None, 1),
}


def traced(program: str) -> ClosedJaxpr:
    fn, context, _ = PROGRAMS[program]
    if context is None:
        return jax.make_jaxpr(fn)(X, W)
    with jax.set_mesh(context):
        return jax.make_jaxpr(fn)(X, W)


def arrays() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=t.shape) / 4, t.dtype) for t in (X, W))  # type: ignore[return-value]


def constrain(array: Any, spec: PartitionSpec) -> Any:
    return lax.with_sharding_constraint(array, NamedSharding(PLAN, spec))


def run(closed: ClosedJaxpr, constraints: Constraints, mesh: Mesh | None) -> Callable[..., Any]:
    return lambda *args: run_constrained(closed, args, constraints, constrain, mesh)[0]


def meshes(jaxpr: Jaxpr) -> set[tuple[str, ...]]:
    """Axes of all meshes that a program names."""
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.ctx.cur_abstract_mesh.axis_names)
        for value in jax.tree.leaves(tuple(eqn.params.values())):
            if isinstance(value, NamedSharding):
                found.add(value.mesh.axis_names)
        for inner in jaxprs_in_params(eqn.params):
            found |= meshes(inner)
    return found - {()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_another_mesh_is_freed_everywhere(program: str) -> None:
    """The program runs over the plan's devices, in the plan's order, and computes the same."""
    closed = traced(program)
    matrices = [i for i, e in enumerate(closed.jaxpr.eqns) if all(v.aval.ndim == 2 for v in e.outvars)]
    everything = Constraints(results={str(i): ((P("x", "y"),),) for i in matrices})
    for constraints in (Constraints(), everything):
        planned = run(closed, constraints, PLAN)
        assert meshes(jax.make_jaxpr(planned)(X, W).jaxpr) <= {("x", "y", "z")}
        shardings = (NamedSharding(PLAN, P("x")), NamedSharding(PLAN, P(None, "y")))
        found = jax.jit(planned, in_shardings=shardings, out_shardings=NamedSharding(PLAN, P("z")))(*arrays())
        np.testing.assert_allclose(found, plain(program), rtol=1e-5, atol=1e-6)


def plain(program: str) -> Any:
    """The result without any sharding."""
    closed = traced(program)
    one = mesh_of("q", (1,))
    return jax.jit(lambda *args: run_constrained(closed, args, Constraints(), constrain, one)[0])(*arrays())


@pytest.mark.parametrize("program", PROGRAMS)
def test_annotations_are_counted(program: str) -> None:
    closed = traced(program)
    assert count_freed(closed, PLAN) == PROGRAMS[program][2]


@pytest.mark.parametrize("program", ["under a mesh", "explicit shardings", "a jit with shardings"])
def test_gradients_are_those_without_shardings(program: str) -> None:
    closed, one = traced(program), mesh_of("q", (1,))
    x, w = arrays()

    def gradient(mesh: Mesh) -> Any:
        planned = run(closed, Constraints(), mesh)
        return jax.jit(jax.grad(lambda w: jnp.sum(planned(x, w) ** 2)))(w)

    np.testing.assert_allclose(gradient(PLAN), gradient(one), rtol=1e-5, atol=1e-6)


def test_numerics_of_the_user_are_those_without_shardings() -> None:
    x, w = arrays()
    np.testing.assert_allclose(jax.jit(annotated_everywhere)(x, w), plain("constraints in bodies"), rtol=1e-5)


def test_what_is_annotated_for_the_plans_axes_is_kept() -> None:
    """Over the plan's devices, whatever the order of those that the author had."""
    own = mesh_of("xyz", (2, 2, 2))

    def model(x: Any) -> Any:
        return lax.with_sharding_constraint(jnp.sin(x), NamedSharding(own, P("x")))

    closed = jax.make_jaxpr(model)(X)
    assert count_freed(closed, PLAN) == 0
    planned = jax.make_jaxpr(run(closed, Constraints(), PLAN))(X)
    (kept,) = [e for e in planned.jaxpr.eqns if e.primitive.name == "sharding_constraint"]
    assert kept.params["sharding"] == NamedSharding(PLAN, P("x"))
    jax.jit(run(closed, Constraints(), PLAN), in_shardings=NamedSharding(PLAN, P("y")))(arrays()[0])


def test_without_a_mesh_nothing_is_freed() -> None:
    closed = traced("constraints in bodies")
    assert ("d", "m") in meshes(jax.make_jaxpr(run(closed, Constraints(), None))(X, W).jaxpr)


def test_what_has_no_annotation_is_bound_as_it_was() -> None:
    closed = jax.make_jaxpr(lambda x, w: lax.scan(lambda x, _: (x @ w, None), x, None, length=2)[0])(X, W)
    planned = jax.make_jaxpr(run(closed, Constraints(), PLAN))(X, W)
    assert planned.jaxpr.eqns[0].params["jaxpr"] is closed.jaxpr.eqns[0].params["jaxpr"]


# ---- shard_map


def mapped(mesh: Mesh | None) -> Callable[..., Any]:
    def body(x: Any) -> Any:
        return lax.psum(x * (1 + lax.axis_index("d")), "m")

    manual = jax.shard_map(body, mesh=mesh, in_specs=P("d", "m"), out_specs=P("d"))
    return lambda x: manual(x)


@pytest.mark.parametrize("in_context", [False, True])
def test_a_shard_map_runs_over_the_plans_devices(in_context: bool) -> None:
    def model(x: Any) -> Any:
        return lax.scan(
            lambda x, _: (jnp.tile(mapped(None if in_context else USER)(x), 2), None), x, None, length=2
        )[0]

    with jax.set_mesh(USER):
        closed = jax.make_jaxpr(model)(X)
    x = arrays()[0]
    expected = jax.jit(model)(x) if not in_context else in_users_mesh(model, x)
    planned = run(closed, Constraints(results={"0": ((P("y"),),)}), PLAN)
    found = jax.jit(planned, in_shardings=NamedSharding(PLAN, P("x")))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.sharding.device_set == set(PLAN.devices.flat)


def in_users_mesh(fn: Callable[..., Any], x: Any) -> Any:
    with jax.set_mesh(USER):
        return np.asarray(jax.jit(fn)(np.asarray(x)))


def test_a_shard_map_for_another_number_of_devices_says_what_to_do() -> None:
    closed = jax.make_jaxpr(mapped(USER))(X)
    small = mesh_of("xy", (2, 2))
    with pytest.raises(TraceError) as caught:
        jax.make_jaxpr(run(closed, Constraints(), small))(X)
    message = str(caught.value)
    assert "test_user_shardings.py:" in message
    assert "8 devices (d=4, m=2)" in message
    assert "the plan is for 4" in message
    assert "build the model's mesh over 4 devices" in message


def test_shard_maps_are_listed_wherever_they_are() -> None:
    def model(x: Any) -> Any:
        return lax.scan(lambda x, _: (jnp.tile(jax.jit(mapped(USER))(x), 2), None), x, None, length=2)[0]

    (found,) = shard_maps(jax.make_jaxpr(model)(X))
    assert (found.axes, found.devices) == ((("d", 4), ("m", 2)), 8)
    assert found.source.startswith("test_user_shardings.py:")
    assert shard_maps(jax.make_jaxpr(jnp.sin)(X)) == ()


def test_the_work_of_a_shard_map_is_that_of_one_device() -> None:
    """A device multiplies its 2x8 part three times, and once more after it has gathered the rows."""

    def body(x: Any, w: Any) -> Any:
        x = lax.scan(lambda x, _: (x @ w, None), x, None, length=3)[0]
        return jax.jit(lambda x: x @ w)(lax.all_gather(x, "d", tiled=True))

    manual = jax.shard_map(
        body, mesh=USER, in_specs=(P("d", "m"), P(None, None)), out_specs=P(None, "m"), check_vma=False
    )
    w = jax.ShapeDtypeStruct((8, 8), "float32")
    (found,) = shard_maps(jax.make_jaxpr(lambda x, w: manual(x, w))(X, w))
    assert found.flops_per_device == 3 * (2 * 2 * 8 * 8) + 2 * 8 * 8 * 8


def test_an_abstract_plan_mesh_has_an_abstract_shard_map() -> None:
    closed = jax.make_jaxpr(mapped(USER))(X)
    params = Freeing(AbstractMesh((2, 4), ("x", "y"))).params(closed.jaxpr.eqns[0])
    assert params["mesh"] == AbstractMesh((4, 2), ("d", "m"), axis_types=(AxisType.Auto,) * 2)
