"""Compiler options: a TPU plan has them, its file keeps them, and other devices never see them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

import autoshard
from autoshard.compiled.options import default_options
from autoshard.cost.slices import parse_slice
from autoshard.plan import Plan
from autoshard.plan_file import format_record, parse_record
from autoshard.refining import export_candidate
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
