"""Coverage as the plan records it, and of functions that are traced for it and have no plan."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard.coverage import coverage_record
from autoshard.coverage_records import Coverage, OpaqueRecord, UnruledPrimitive
from autoshard.errors import TargetError
from autoshard.graph_building import build_graph
from autoshard.progress import Progress
from autoshard.target_coverage import coverage_of_target
from autoshard.trace import trace


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def coverage_of(function: Any, *arguments: Any) -> Coverage:
    return coverage_record(build_graph(trace(function, arguments)))


def test_a_matmul_is_covered() -> None:
    coverage = coverage_of(lambda x, w: x @ w, f32(16, 64), f32(64, 64))
    assert coverage == Coverage(
        equations=1,
        einsums=1,
        flops_fraction=1.0,
        unruled=(),
        flops=2 * 16 * 64 * 64,
        bytes=4 * (16 * 64 + 64 * 64 + 16 * 64),
        bytes_fraction=1.0,
        replicated_bytes=0,
        constants=0,
        constant_bytes=0,
        small_arguments=0,
        small_argument_bytes=0,
        tables=0,
        table_bytes=0,
        freed_annotations=0,
    )


def test_a_callback_is_an_opaque_call_without_a_rule() -> None:
    def fn(x: Any, w: Any) -> Any:
        y = x @ w
        jax.debug.callback(print, y)
        return y

    coverage = coverage_of(fn, f32(16, 64), f32(64, 64))
    x, w = 4 * 16 * 64, 4 * 64 * 64
    assert coverage.unruled == (UnruledPrimitive(primitive="debug_callback", count=1, bytes=x),)
    (call,) = coverage.opaque
    line = fn.__code__.co_firstlineno + 2
    assert call == OpaqueRecord(
        primitive="debug_callback", source=f"test_coverage.py:{line}", count=1, bytes=x
    )
    assert coverage.replicated_bytes == x
    assert coverage.bytes_fraction == pytest.approx((2 * x + w) / (3 * x + w), rel=1e-5)
    assert coverage.flops_fraction == 1.0


def test_a_loop_that_ends_on_a_value_is_named() -> None:
    def fn(x: Any, w: Any) -> Any:
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1, lambda y: y @ w, x)

    (loop,) = coverage_of(fn, f32(64, 64), f32(64, 64)).unknown_loops
    line = fn.__code__.co_firstlineno + 1
    assert (loop.source, loop.count, loop.flops) == (f"test_coverage.py:{line}", 1, 2 * 64**3)


def test_a_scalar_without_a_rule_is_counted_with_no_bytes() -> None:
    def fn(x: Any) -> Any:
        jax.debug.callback(print, jnp.sum(x))
        return x * 2

    coverage = coverage_of(fn, f32(64, 64))
    assert [(call.primitive, call.count, call.bytes) for call in coverage.opaque] == [
        ("debug_callback", 1, 0)
    ]
    assert coverage.bytes_fraction == 1.0


def test_closed_over_arrays_are_on_every_chip() -> None:
    mask = jnp.tril(jnp.ones((512, 1024)))
    coverage = coverage_of(lambda x: x * mask, f32(512, 1024))
    assert (coverage.constants, coverage.constant_bytes) == (1, 512 * 1024 * 4)
    assert coverage.bytes_fraction == pytest.approx(2 / 3, rel=1e-5)


MODEL = """
import jax

def step(w, x):
    return x @ w

def inputs():
    return jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((8, 64), "float32")
"""


def test_a_target_is_traced_and_its_seconds_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "covered_model.py"
    path.write_text(MODEL)
    stream = io.StringIO()
    name, coverage = coverage_of_target(f"{path}:step", f"{path}:inputs", Progress(stream))
    assert name == "step"
    assert (coverage.einsums, coverage.flops) == (1, 2 * 8 * 64 * 64)
    notes = [line for line in stream.getvalue().splitlines() if not line.startswith("[")]
    assert [note.rpartition(" in ")[0] for note in notes] == [
        "traced 1 equations",
        "graph of 2 ops and 4 values",
    ]


def test_a_target_without_inputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "uncovered_model.py"
    path.write_text(MODEL)
    with pytest.raises(TargetError, match="has no inputs: give --inputs"):
        coverage_of_target(f"{path}:step", None, Progress(quiet=True))


def test_nearly_all_is_not_all() -> None:
    measured = build_graph(trace(lambda x, w: (x @ w, x[0] @ w), (f32(4096, 1024), f32(1024, 1024))))
    last = measured.einsums[-1]
    ops = tuple(replace(op, ruled=op is not last) for op in measured.ops)
    lost = 2 * 1024**2 / (2 * 1024**2 * 4097)
    assert coverage_record(replace(measured, ops=ops)).flops_fraction == math.floor(1e6 * (1 - lost)) / 1e6
    tiny = tuple(replace(op, flops=op.flops if op.ruled else 1.0) for op in ops)
    assert coverage_record(replace(measured, ops=tiny)).flops_fraction == 0.999999
