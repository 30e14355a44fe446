"""The command line as a user runs it: each command is a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna import get_all_study_names
from optuna.trial import FrozenTrial, TrialState

from autoshard.plan import load_plan
from autoshard.studies import open_study, storage_of

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = [
    *("plan", "predicted_seconds", "estimated_seconds", "measured_seconds", "hbm_bytes_per_chip", "gap"),
    *("search_seconds", "total_seconds", "candidates"),
]
MLP = """
import jax
import jax.numpy as jnp


def mlp(x, up, down):
    hidden = jnp.maximum(jnp.einsum("be,ef->bf", x, up), 0)
    return jnp.einsum("bf,fe->be", hidden, down)


def inputs():
    return tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in ((64, 128), (128, 512), (512, 128)))
"""
MESHES = {"x=8", "x0=2 x1=4", "x0=4 x1=2", "x0=2 x1=2 x2=2"}
TUNE_MLP = ["tune", "mlp.py:mlp", "--inputs", "mlp.py:inputs", "--slice", "cpu:8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two files: a tiny PaLM, and an MLP."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "examples" / "palm.py", folder)
    (folder / "mlp.py").write_text(MLP, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tuned(folder: Path) -> subprocess.CompletedProcess[str]:
    """The main job: tune on eight CPU devices, write `plan.json`."""
    return autoshard(
        folder, "tune", "palm.py:decode_tiny", "--slice", "cpu:8", "--top-k", "2", *json_to("plan.json")
    )


def json_to(plan: str) -> list[str]:
    return ["-o", plan, "--format", "json"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "OPTUNA_STORAGE")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "autoshard.cli", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """Shells start what runs in the background deaf to Ctrl-C, and so would be all that these tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def autoshard(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return finish(start(folder, *arguments))


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read progress until it has `text`; the lines until then."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was never said, but: {lines}")


def children_of(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# ---- tune, explain, check


def test_tune_writes_the_fastest_measured_plan(tuned: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert tuned.returncode == 0, tuned.stderr
    facts = json.loads(tuned.stdout)
    assert list(facts) == KEYS
    plan = load_plan(folder / "plan.json")
    assert (facts["plan"], plan.function.target) == ("plan.json", "palm.py:decode_tiny")
    measured = [each["measured_seconds"] for each in facts["candidates"]]
    assert len(measured) == 2
    assert measured[0] == min(measured) == facts["measured_seconds"] == plan.measured_seconds
    assert [each["status"] for each in facts["candidates"]] == ["ok", "ok"]
    assert facts["estimated_seconds"] is None
    assert facts["predicted_seconds"] == plan.predicted_seconds
    assert facts["hbm_bytes_per_chip"] == plan.hbm_bytes_per_chip
    assert 0 < facts["search_seconds"] < facts["total_seconds"]


def test_progress_is_on_stderr(tuned: subprocess.CompletedProcess[str]) -> None:
    for said in (
        "load palm.py:decode_tiny",
        "trace decode_tiny",
        "search meshes 1/4",
        "candidate 2: round 1 of 5",
    ):
        assert said in tuned.stderr
    assert "tier 2 (TPU compiler) skipped: cpu is not a TPU" in tuned.stderr


def test_explain_prints_the_einsums(tuned: subprocess.CompletedProcess[str], folder: Path) -> None:
    done = autoshard(folder, "explain", "plan.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("decode_tiny on cpu:8: 8 chips, mesh ")
    assert "layers/w_down" in done.stdout


def test_check_is_fresh_then_stale_then_an_error(
    tuned: subprocess.CompletedProcess[str], folder: Path, tmp_path: Path
) -> None:
    for name in ("palm.py", "plan.json"):
        shutil.copy(folder / name, tmp_path)
    fresh = autoshard(tmp_path, "check", "plan.json")
    assert (fresh.returncode, fresh.stdout) == (0, "plan.json: fresh\n")

    source = (tmp_path / "palm.py").read_text(encoding="utf-8")
    edited = source.replace("d_model=64, d_ff=256", "d_model=64, d_ff=512")
    assert edited != source
    (tmp_path / "palm.py").write_text(edited, encoding="utf-8")
    stale = autoshard(tmp_path, "check", "plan.json")
    assert stale.returncode == 1
    assert stale.stdout.startswith("plan.json: stale\n")
    assert "512" in stale.stdout

    (tmp_path / "plan.json").write_text('{"schema": ', encoding="utf-8")
    broken = autoshard(tmp_path, "check", "plan.json")
    assert broken.returncode == 2
    assert "Traceback" not in broken.stderr
    assert "truncated or damaged" in broken.stderr


def test_the_same_command_writes_the_same_bytes(folder: Path) -> None:
    both = [
        autoshard(folder, *TUNE_MLP, "--refine", "none", "--quiet", "--top-k", "4", *json_to(f"same{i}.json"))
        for i in (1, 2)
    ]
    assert [(done.returncode, done.stderr) for done in both] == [(0, ""), (0, "")]
    assert (folder / "same1.json").read_bytes() == (folder / "same2.json").read_bytes()
    facts = json.loads(both[0].stdout)
    assert (list(facts), facts["measured_seconds"]) == (KEYS, None)


def test_without_output_the_json_holds_the_plan(folder: Path) -> None:
    done = autoshard(folder, *TUNE_MLP, "--refine", "none", "--quiet", "--mesh", "native", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["plan"]["slice"] == "cpu:8"


# ---- Ctrl-C


@pytest.fixture
def timing(folder: Path) -> Iterator[Any]:
    """A run that is timing its candidates."""
    process = start(folder, *TUNE_MLP, "--refine", "time", "--top-k", "2", *json_to("stopped.json"))
    try:
        wait_for(process, "candidate 1: compile and check")
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_writes_the_best_so_far_and_leaves_no_children(timing: Any, folder: Path) -> None:
    timing.send_signal(signal.SIGSTOP)  # on a busy machine it would else end while we look
    children = children_of(timing.pid)
    assert children
    timing.send_signal(signal.SIGINT)
    timing.send_signal(signal.SIGCONT)
    done = finish(timing)
    assert done.returncode == 130
    assert "interrupted: keeping the best plan known so far" in done.stderr
    assert "Traceback" not in done.stderr
    plan = load_plan(folder / "stopped.json")
    assert plan.skipped["measured"] == "the run was interrupted"
    assert json.loads(done.stdout)["plan"] == "stopped.json"
    assert [pid for pid in children if is_alive(pid)] == []


# ---- a shared, resumable study


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> bytes:
    """The plan that a run without storage writes."""
    done = autoshard(folder, *TUNE_MLP, "--refine", "none", "--mesh", "search", *json_to("undisturbed.json"))
    assert done.returncode == 0, done.stderr
    return (folder / "undisturbed.json").read_bytes()


STORAGES = ("sqlite", "journal")


def _search(storage: str, plan: str) -> list[str]:
    options = ["--refine", "none", "--mesh", "search", "--storage", storage]
    return [*TUNE_MLP, *options, *json_to(plan)]


def _trials(storage: str) -> list[FrozenTrial]:
    """All trials of the only study in a storage."""
    kept = storage_of(storage)
    assert kept is not None
    (study,) = get_all_study_names(kept)
    return open_study(study, storage).trials


@pytest.mark.parametrize("kind", STORAGES)
def test_a_killed_run_resumes_and_ends_with_the_same_plan(
    kind: str, undisturbed: bytes, folder: Path, tmp_path: Path
) -> None:
    storage = f"{kind}:///{tmp_path / 'tune'}"
    plan = tmp_path / "resumed.json"
    command = _search(storage, str(plan))
    killed = start(folder, *command)
    wait_for(killed, "search meshes 3/4")
    killed.send_signal(signal.SIGKILL)
    assert finish(killed).returncode == -signal.SIGKILL
    assert not plan.exists()
    finished = [trial for trial in _trials(storage) if trial.state.is_finished()]
    assert len(finished) >= 2

    resumed = autoshard(folder, *command)
    assert resumed.returncode == 0, resumed.stderr
    assert plan.read_bytes() == undisturbed
    assert "search meshes 1/4: x=8" not in resumed.stderr  # the killed run had finished that mesh
    after = [trial for trial in _trials(storage) if trial.state.is_finished()]
    assert after[: len(finished)] == finished
    assert len({trial.params["mesh"] for trial in after}) == len(after) == 4  # none was tried twice

    again = autoshard(folder, *command)
    assert plan.read_bytes() == undisturbed
    assert "search meshes" not in again.stderr.replace("search meshes\n", "")  # no trial was left


@pytest.mark.parametrize("kind", STORAGES)
def test_two_processes_share_one_study(kind: str, undisturbed: bytes, folder: Path, tmp_path: Path) -> None:
    plans, storage = ["first.json", "second.json"], f"{kind}:///{tmp_path / 'tune'}"
    processes = [start(folder, *_search(storage, plan)) for plan in plans]
    for process, plan in zip(processes, plans, strict=True):
        done = finish(process)
        assert done.returncode == 0, done.stderr
        assert (folder / plan).read_bytes() == undisturbed
    states = [trial.state for trial in _trials(storage)]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert {trial.params["mesh"] for trial in _trials(storage)} == MESHES
