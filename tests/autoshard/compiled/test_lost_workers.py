"""A tuning run whose compile workers are killed, with the real compiler."""

import io
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from autoshard.errors import CompileError
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.topology import libtpu_available
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.tuning import run

needs_compiler = pytest.mark.skipif(
    not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system does not list processes")


def mlp(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    hidden = jnp.maximum(jnp.einsum("be,ef->bf", x, up), 0)
    return jnp.einsum("bf,fe->be", hidden, down)


SHAPES = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 512), (512, 128)))


def compile_workers() -> list[int]:
    """Ids of this process's children that compile."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended since
        if parent == os.getpid() and "autoshard.compiled.worker" in words:
            found.append(int(folder.name))
    return found


def started_workers() -> list[int]:
    """The same, as soon as there is one: a process that has just been started has no command line yet."""
    deadline = time.monotonic() + 30
    while not (found := compile_workers()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


class Killing(Progress):
    """Kills the worker that a candidate of these numbers has just been sent to."""

    def __init__(self, *victims: int) -> None:
        self.said = io.StringIO()
        self.victims = victims
        super().__init__(self.said)

    def step(self, detail: str = "") -> None:
        super().step(detail)
        if detail in [f"candidate {number}" for number in self.victims]:
            for worker in started_workers():
                os.kill(worker, signal.SIGKILL)


def tune(progress: Progress, monkeypatch: pytest.MonkeyPatch, cache: Path) -> TuneResult:
    monkeypatch.setenv("AUTOSHARD_CACHE", str(cache))
    options = Options("v5e:2x2", refine="compile", top_k=2, workers=1)
    return run(Target("", None, mlp, "mlp", SHAPES, {}), options, progress)


@needs_proc
@needs_compiler
def test_a_killed_worker_costs_its_candidate_and_the_next_run_compiles_that_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    progress = Killing(1)
    result = tune(progress, monkeypatch, tmp_path)
    assert "candidate 1 dropped: crashed: the child process was ended by SIGKILL" in progress.said.getvalue()
    assert [each.status.partition(";")[0] for each in result.candidates] == [
        "ok",
        "crashed: the child process was ended by SIGKILL",
    ]
    assert result.plan.estimated_seconds is not None
    (lost,) = result.plan.runners_up
    assert lost.predicted_seconds <= result.plan.predicted_seconds  # candidate 1 was the model's best

    again = Progress(said := io.StringIO())
    whole = tune(again, monkeypatch, tmp_path)
    lines = [line.partition("] ")[2] for line in said.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("compile ")] == [
        "compile 1/2: candidate 2, from the cache",
        "compile 2/2: candidate 1",
    ]
    assert {each.status for each in whole.candidates} == {"ok"}


@needs_proc
@needs_compiler
def test_where_every_worker_is_killed_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        CompileError, match=r"none of the 2 candidates of `mlp` survived.*SIGKILL.*--refine none"
    ):
        tune(Killing(1, 2), monkeypatch, tmp_path)
