"""Time of matrix multiplications by mark, from schedules of a few lines."""

import pytest

from autoshard.compiled.hlo import parse_module
from autoshard.compiled.matmul_times import matmul_seconds
from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

MESH = native_mesh(parse_slice("v4:4x4x4"))
ARRAY = "bf16[512,512]{1,0}"


def config(cycles: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


def named(*path: str) -> str:
    return f'metadata={{op_name="{"/".join(path)}"}}'


def fused(name: str, *marks: str) -> str:
    """A computation that multiplies for equations, and whose root has the name of another."""
    dots = "\n".join(
        f"  %{name}.{i} = {ARRAY} convolution(%{name}.p, %{name}.p), dim_labels=bf_io->bf, "
        f"{named('jit(f)', f'plan.{mark}', 'dot_general')}"
        for i, mark in enumerate(marks)
    )
    root = f"  ROOT %{name}.r = {ARRAY} multiply(%{name}.0, %{name}.0), {named('jit(f)', 'plan.9', 'mul')}"
    return f"%{name} (p: {ARRAY}) -> {ARRAY} {{\n  %{name}.p = {ARRAY} parameter(0)\n{dots}\n{root}\n}}\n"


def seconds_of(*lines: str, more: str) -> dict[str, float]:
    body = "\n".join(f"  {line}" for line in (f"%p = {ARRAY} parameter(0)", *lines))
    text = f"HloModule m, num_partitions=64\n{more}\nENTRY %main (p: {ARRAY}) -> {ARRAY} {{\n{body}\n}}\n"
    module = parse_module(text)
    return matmul_seconds(module, estimate_timeline(module, MESH))


def test_a_fusion_is_timed_for_the_equation_that_multiplies_in_it() -> None:
    found = seconds_of(
        f"%a = {ARRAY} fusion(%p), kind=kOutput, calls=%f, {config(700)}, {named('jit(f)', 'plan.9', 'mul')}",
        f"%b = {ARRAY} fusion(%a), kind=kOutput, calls=%f, {config(300)}",
        more=fused("f", "3.1"),
    )
    assert found == {"3.1": pytest.approx(1000 / MESH.slice.chip.clock_hz)}


def test_several_multiplications_of_one_fusion_share_its_time() -> None:
    found = seconds_of(
        f"%a = {ARRAY} fusion(%p), kind=kOutput, calls=%f, {config(1000)}", more=fused("f", "1", "2")
    )
    half = pytest.approx(500 / MESH.slice.chip.clock_hz)
    assert found == {"1": half, "2": half}
