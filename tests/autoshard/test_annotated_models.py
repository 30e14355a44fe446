"""Models that come with shardings of their own, from tuning to running."""

from __future__ import annotations

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import TraceError
from autoshard.progress import Progress

SHAPES = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 64), (64, 128)))


def their_mesh(count: int) -> Mesh:
    """The author's mesh, in an order of devices that is not ours."""
    devices = np.array(jax.devices()[:count][::-1]).reshape(2, count // 2)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def annotated(x: Any, w: Any) -> Any:
    x = jax.lax.with_sharding_constraint(x, NamedSharding(their_mesh(8), P("data", None)))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        return jax.lax.with_sharding_constraint(carry, NamedSharding(their_mesh(8), P("model"))) * 2, None

    return jax.lax.scan(step, x @ w, None, length=3)[0]


def test_annotations_for_another_mesh_are_freed() -> None:
    said = io.StringIO()
    plan = autoshard.tune(annotated, *SHAPES, slice="cpu:8", refine="none", progress=Progress(said))
    assert "2 sharding annotations of `annotated` are freed: the plan decides instead" in said.getvalue()
    x, w = (np.random.default_rng(i).normal(size=s.shape).astype("float32") for i, s in enumerate(SHAPES))
    planned = autoshard.jit(annotated, plan=plan)(x, w)
    np.testing.assert_allclose(planned, 8 * (x @ w), rtol=1e-4, atol=1e-4)
    assert planned.sharding.mesh.axis_names == tuple(axis.name for axis in plan.mesh_axes)


def doubled(a: Any) -> Any:
    return a * 2


def mapped(count: int) -> Any:
    def model(x: Any, w: Any) -> Any:
        mesh, rows = their_mesh(count), P("data")
        return jax.shard_map(doubled, mesh=mesh, in_specs=rows, out_specs=rows)(x) @ w

    return model


def test_a_shard_map_for_other_devices_is_refused_before_the_search() -> None:
    with pytest.raises(TraceError, match=r"_models.py:\d+ is written for 4 devices, and cpu:8 has 8"):
        autoshard.tune(mapped(4), *SHAPES, slice="cpu:8", refine="none")


def test_a_shard_map_for_as_many_devices_runs_under_the_plan() -> None:
    plan = autoshard.tune(mapped(8), *SHAPES, slice="cpu:8", refine="none")
    x, w = (np.random.default_rng(i).normal(size=s.shape).astype("float32") for i, s in enumerate(SHAPES))
    np.testing.assert_allclose(autoshard.jit(mapped(8), plan=plan)(x, w), 2 * x @ w, rtol=1e-4, atol=1e-4)
