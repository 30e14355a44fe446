"""Compiler options: a TPU plan has them, its file keeps them, and other devices never see them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct
from msgspec.structs import replace

import autoshard
from autoshard.compiled.options import default_options, options_of, purpose_of, searched_choices
from autoshard.compiled.worker import compile_all
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.plan import Plan
from autoshard.plan_file import format_record, parse_record
from autoshard.programs import Program
from autoshard.refining import export_candidate
from autoshard.topology import libtpu_available
from autoshard.trace import trace


def double(x: jax.Array) -> jax.Array:
    return x @ x.T


ARGUMENT = ShapeDtypeStruct((16, 16), "float32")


def test_plans_for_tpus_have_options_and_keep_them_in_their_files() -> None:
    plan = autoshard.tune(double, ARGUMENT, slice="v5e:2x2", refine="none", top_k=1)
    assert plan.compiler_options == default_options(parse_slice("v5e:2x2")) != {}
    text = format_record(plan)
    assert '"compiler_options"' in text
    assert parse_record(text, Plan, source="test") == plan


def test_candidates_are_compiled_with_the_options_of_their_plan() -> None:
    plan = autoshard.tune(double, ARGUMENT, slice="v5e:2x2", refine="none", top_k=1)
    program = export_candidate(trace(double, (ARGUMENT,), {}), plan, "tpu")
    assert program.compiler_options == plan.compiler_options


def test_plans_for_other_devices_have_none() -> None:
    plan = autoshard.tune(double, ARGUMENT, slice="cpu:1", refine="none", top_k=1)
    assert plan.compiler_options == {}
    assert '"compiler_options"' not in format_record(plan)


def test_a_tpu_plan_runs_on_cpu_devices_without_them() -> None:
    plan = autoshard.tune(double, ARGUMENT, slice="v5e:1x1", refine="none", top_k=1)
    x = jnp.arange(256.0).reshape(16, 16)
    mesh = plan.mesh(jax.devices()[:1])
    from autoshard.application import Application

    assert jnp.allclose(Application(double, plan, mesh=mesh)(x), double(x))


def stack(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]


def gathering_program(slice_name: str) -> Program:
    """Layers of weights that lie sharded and are gathered where they are read."""
    arguments = (ShapeDtypeStruct((8, 2048, 2048), "bfloat16"), ShapeDtypeStruct((65536, 2048), "bfloat16"))
    axes = ",".join(axis.name for axis in native_mesh(parse_slice(slice_name)).axes if axis.size > 1)
    plan = autoshard.tune(
        stack, *arguments, slice=slice_name, refine="none", top_k=1, pins=[f"weights=;{axes};"]
    )
    return export_candidate(trace(stack, arguments, {}), plan, "tpu")


@pytest.mark.skipif(not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu")
@pytest.mark.parametrize("slice_name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_compiler_accepts_the_default_options_and_all_that_are_searched(slice_name: str) -> None:
    program, choices = gathering_program(slice_name), searched_choices(parse_slice(slice_name))
    changed = options_of(choices, [next(filter(None, choice.values[1:]), None) for choice in choices])
    programs = [program, replace(program, compiler_options=changed)]
    results = compile_all(programs, slice_name, time_limit_seconds=240)
    assert [(result.status, result.detail) for result in results] == [("ok", "")] * 2
    assert any(each.kind == "all-gather" and each.trips == 8 for each in results[0].collectives)


@pytest.mark.parametrize("slice_name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_every_option_that_a_plan_may_have_says_what_it_decides(slice_name: str) -> None:
    slice_ = parse_slice(slice_name)
    names = {name for choice in searched_choices(slice_) for name in choice.options}
    purposes = [purpose_of(name) for name in sorted(names | set(default_options(slice_)))]
    assert all(purposes)
    assert purpose_of("xla_no_such_option") is None
