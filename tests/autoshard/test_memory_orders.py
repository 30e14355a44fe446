"""Memory orders: what the compiler chose reaches the plan, its file and the jitted function."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import autoshard
from autoshard.errors import PlanError
from autoshard.memory_orders import holds_on, parse_order, placed, with_orders
from autoshard.plan_records import ArgumentRecord
from autoshard.refining import export_candidate
from autoshard.topology import compiler_environment, libtpu_available
from autoshard.trace import trace

CACHE = ArgumentRecord(type="bf16[4,8,2,16]", spec=";;;", donated=True)
KEY = ArgumentRecord(type="key<fry>[]", spec="")


def test_an_order_is_kept_where_it_is_not_the_written_one() -> None:
    arrays = {"cache": CACHE, "other": CACHE, "key": KEY, "unused": CACHE}
    found = with_orders(arrays, [(0, 2, 1, 3), (0, 1, 2, 3), (0,), ()])
    assert {path: record.order for path, record in found.items()} == {
        "cache": "0,2,1,3",
        "other": None,
        "key": None,
        "unused": None,
    }


def test_records_stay_as_they_are_where_no_order_is_known() -> None:
    assert with_orders({"cache": CACHE}, ()) == {"cache": CACHE}


@pytest.mark.parametrize("text", ["0,1", "0,1,1", "a,b,c", "", "0,1,2,3"])
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="memory order of an array of 3 dims"):
        parse_order(text, 3)


def test_orders_do_not_hold_on_cpu_devices() -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec())
    (record,) = with_orders({"cache": CACHE}, [(0, 2, 1, 3)]).values()
    assert not holds_on(mesh)
    assert placed(record, sharding) is sharding


_CHILD = """
import sys

import jax.numpy as jnp
import jax
from jax import ShapeDtypeStruct

import autoshard
from autoshard.application import Application
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis
from autoshard.topology import mesh_for


def attend(cache, queries):
    scores = jnp.einsum("bkd,btkd->bkt", queries, cache)
    return jnp.einsum("bkt,btkd->bkd", jax.nn.softmax(scores), cache)


plan = autoshard.load_plan(sys.argv[1])
axes = [MeshAxis(a.name, a.size, a.torus_dim, a.stride) for a in plan.mesh_axes]
mesh = mesh_for(parse_slice(plan.slice), axes)
arguments = ShapeDtypeStruct((8, 2048, 8, 16), "bfloat16"), ShapeDtypeStruct((8, 8, 16), "bfloat16")
compiled = Application(attend, plan, mesh=mesh).lower(*arguments).compile()
print(compiled.input_formats[0][0].layout.major_to_minor)
print(plan.in_formats(mesh)[0].layout.major_to_minor)
"""


@pytest.mark.skipif(not libtpu_available(), reason="needs the TPU compiler")
def test_the_planned_function_is_compiled_with_the_orders_of_its_plan(tmp_path: Path) -> None:
    def attend(cache: jax.Array, queries: jax.Array) -> jax.Array:
        scores = jax.numpy.einsum("bkd,btkd->bkt", queries, cache)
        return jax.numpy.einsum("bkt,btkd->bkd", jax.nn.softmax(scores), cache)

    arguments = (
        jax.ShapeDtypeStruct((8, 2048, 8, 16), "bfloat16"),
        jax.ShapeDtypeStruct((8, 8, 16), "bfloat16"),
    )
    path = tmp_path / "attend.json"
    plan = autoshard.tune(attend, *arguments, slice="v5e:2x2", refine="compile", top_k=1)
    plan.save(path)
    order = autoshard.load_plan(path).arguments["cache"].order
    assert order is not None, "the compiler reads this cache in another order than the written one"
    environment = {**os.environ, **compiler_environment(), "TPU_LOG_DIR": "disabled"}
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    expected = str(tuple(int(dim) for dim in order.split(",")))
    assert child.stdout.splitlines() == [expected, expected]


def write(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(cache, new, (0, position, 0))


def write_layers(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    def layer(carry: None, slices: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        return carry, jax.lax.dynamic_update_slice(slices[0], slices[1], (0, position, 0))

    return jax.lax.scan(layer, None, (cache, new))[1]


@pytest.mark.parametrize(
    ("function", "layers", "spec", "order"),
    [
        (write, (), ";x,y;", "0,1,2"),  # along the dim that is written
        (write, (), "x,y;;", None),
        (write_layers, (4,), ";;y;", "0,1,2,3"),
        (write_layers, (4,), ";y;;", None),
    ],
)
def test_what_is_written_along_a_sharded_dim_stays_as_written(
    function: Callable[..., Any], layers: tuple[int, ...], spec: str, order: str | None
) -> None:
    arguments = (
        jax.ShapeDtypeStruct((*layers, 64, 2048, 128), "bfloat16"),
        jax.ShapeDtypeStruct((*layers, 64, 1, 128), "bfloat16"),
        jax.ShapeDtypeStruct((), "int32"),
    )
    plan = autoshard.tune(
        function,
        *arguments,
        slice="v5e:2x4",
        mesh="native",
        refine="none",
        top_k=1,
        pins=[f"cache={spec}"],
        donate_argnames=("cache",),
    )
    assert plan.arguments["cache"].order == order
    assert plan.results["result"].order == order
    assert plan.arguments["new"].order is None
    program = export_candidate(trace(function, arguments, {}, donate_argnames=("cache",)), plan, "tpu")
    assert program.as_written == (order is not None)


def test_a_table_that_depends_on_no_array_may_be_written() -> None:
    def scaled(x: jax.Array, position: jax.Array) -> jax.Array:
        table = jax.lax.dynamic_update_slice(jnp.zeros((4, 4)), jnp.ones((1, 4)), (position, 0))
        return x * table.sum()

    arguments = (jax.ShapeDtypeStruct((1024, 1024), "float32"), jax.ShapeDtypeStruct((), "int32"))
    plan = autoshard.tune(scaled, *arguments, slice="v5e:2x4", refine="none", top_k=1)
    assert [record.order for record in plan.arguments.values()] == [None, None]
