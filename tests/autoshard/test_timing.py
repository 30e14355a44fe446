from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autoshard import timing_worker
from autoshard.cost.torus import MeshAxis
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.timing_bench import TimingResult
from autoshard.timing_worker import time_all
from autoshard.workers import run_jobs

AXES = (MeshAxis("x", 2, 0, 1), MeshAxis("y", 2, 1, 1))
BATCH, MODEL, HIDDEN, VOCABULARY = 8, 32, 64, 50

CRASHING_CHILD = """
import os
from autoshard.timing_bench import REFERENCE, TimingRequest, TimingResult
from autoshard.workers import serve

def handle(request, report):
    if request.reference is not None:
        report(f"{REFERENCE}: compile and run")
        if request.reference.platform == "crash":
            os.abort()
    for number, program in enumerate(request.programs):
        report(f"{number}: compile and check")
        if program.platform == "crash":
            os.abort()
    return [TimingResult(status="ok", device_kind=program.platform) for program in request.programs]

serve(handle, TimingRequest)
"""


def step(weights: Any, cache: jax.Array, tokens: jax.Array, *, wrong: float = 0.0) -> Any:
    x = weights["table"][tokens] + wrong
    x = x + jax.nn.relu(x @ weights["up"]) @ weights["down"]
    return {"logits": x @ weights["table"].T, "cache": cache.at[tokens].add(x)}


def program(hidden: Any = None, batch: Any = None, sharded: bool = True, wrong: float = 0.0) -> Program:
    """`step` with the hidden dim and the batch over some mesh axes."""

    def shaped(shape: tuple[int, ...], dtype: Any, *spec: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(abstract_mesh(AXES), PartitionSpec(*spec)) if sharded else None
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    weights = {
        "table": shaped((VOCABULARY, MODEL), jnp.float32),
        "up": shaped((MODEL, HIDDEN), jnp.float32, None, hidden),
        "down": shaped((HIDDEN, MODEL), jnp.float32, hidden, None),
    }
    return export_program(
        partial(step, wrong=wrong),
        (weights, shaped((VOCABULARY, MODEL), jnp.float32), shaped((BATCH,), jnp.int32, batch)),
        platform="cpu",
        donate=[3],
        mesh_axes=AXES if sharded else (),
    )


def test_candidates_in_a_child_are_timed_and_a_wrong_one_is_found() -> None:
    lines: list[str] = []
    right, other, wrong = time_all(
        [program(("x", "y")), program("y", batch="x"), program("y", wrong=0.01)],
        program(sharded=False),
        cpu_devices=4,
        rounds=2,
        runs_per_round=2,
        integer_bound=VOCABULARY,
        on_progress=lines.append,
    )
    for result in (right, other):
        assert (result.status, result.detail, result.checked, result.runs) == ("ok", "", True, 4)
        assert result.seconds is not None
        assert result.seconds > 0
        assert result.spread_seconds is not None
        assert result.max_error is not None
        assert result.max_error < 1e-5
        assert (result.tolerance, result.device_kind, result.device_count) == (1e-3, "cpu", 4)
    assert right.argument_specs == ("x,y;", ";", ";x,y", ";", "")
    assert other.argument_specs == ("y;", ";", ";y", ";", "x")
    assert (wrong.status, wrong.seconds) == ("mismatch", None)
    assert wrong.max_error is not None
    assert wrong.max_error > 1e-3
    assert lines[:2] == ["unsharded program: compile and run", "candidate 1: compile and check"]
    assert lines[-4:] == [f"candidate {n}: round {r} of 2" for r in (1, 2) for n in (1, 2)]


def test_the_attached_devices_are_used_in_this_process() -> None:
    """The tests' process has eight CPU devices; the candidate takes four of them."""
    (result,) = time_all([program("x")], None, cpu_devices=None, rounds=1, runs_per_round=3)
    assert (result.status, result.checked, result.runs, result.device_count) == ("ok", False, 3, 4)
    assert "no reference program" in result.detail


def test_a_candidate_for_more_devices_than_there_are_fails_alone() -> None:
    large = export_program(
        lambda x: x + 1,
        (
            jax.ShapeDtypeStruct(
                (32,),
                jnp.float32,
                sharding=NamedSharding(abstract_mesh([MeshAxis("x", 16, 0, 1)]), PartitionSpec("x")),
            ),
        ),
        platform="cpu",
        mesh_axes=[MeshAxis("x", 16, 0, 1)],
    )
    reference = export_program(lambda x: x + 1, (jax.ShapeDtypeStruct((32,), jnp.float32),), platform="cpu")
    failed, fine = time_all([large, reference], reference, cpu_devices=None, rounds=1)
    assert (failed.status, fine.status) == ("failed", "ok")
    assert "16" in failed.detail


def test_where_outputs_are_not_finite_non_negative_inputs_are_tried() -> None:
    root = export_program(jnp.sqrt, (jax.ShapeDtypeStruct((8, 8), jnp.float32),), platform="cpu")
    absolute = export_program(
        lambda x: jnp.sqrt(jnp.abs(x)), (jax.ShapeDtypeStruct((8, 8), jnp.float32),), platform="cpu"
    )
    (result,) = time_all([absolute], root, cpu_devices=None, rounds=1)
    assert (result.status, result.max_error) == ("ok", 0.0)


def marked(mark: str) -> Program:
    return Program(
        serialised=b"", donated=(), mesh_axes=(), platform=mark, argument_paths=(), result_paths=()
    )


@pytest.fixture
def crashing_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing_child.py").write_text(CRASHING_CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(requests: Any, *, module: str, **options: Any) -> Any:
        assert module == "autoshard.timing_worker"
        return run_jobs(requests, module="crashing_child", **options)

    monkeypatch.setattr(timing_worker, "run_jobs", run)


def timed(programs: list[Program], reference: Program | None) -> list[TimingResult]:
    return time_all(programs, reference, cpu_devices=2, time_limit_seconds=30)


@pytest.mark.usefixtures("crashing_child")
def test_a_crash_costs_one_candidate_and_the_others_run_again() -> None:
    results = timed([marked("a"), marked("crash"), marked("b"), marked("crash")], marked("fine"))
    assert [result.status for result in results] == ["ok", "crashed", "ok", "crashed"]
    assert [results[0].device_kind, results[2].device_kind] == ["a", "b"]
    assert "SIGABRT" in results[1].detail


@pytest.mark.usefixtures("crashing_child")
def test_when_the_unsharded_program_crashes_the_candidates_are_still_timed() -> None:
    results = timed([marked("a"), marked("b")], marked("crash"))
    assert [result.status for result in results] == ["ok", "ok"]
    assert results[0].detail == "outputs not checked: the unsharded program crashed"
