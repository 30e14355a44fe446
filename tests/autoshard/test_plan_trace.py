import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest

import autoshard
from autoshard import plan_trace
from autoshard.cli import main
from autoshard.compiled.worker import CompileResult
from autoshard.cost.slices import Slice
from autoshard.errors import CompileError, PlanError, PlanMismatchError
from autoshard.plan import Plan
from autoshard.plan_trace import write_plan_trace
from autoshard.programs import Program
from autoshard.progress import Progress

MODEL = """
import jax, jax.numpy as jnp

def inputs():
    return jax.ShapeDtypeStruct((8, 64), jnp.float32), jax.ShapeDtypeStruct((64, WIDTH), jnp.float32)

def step(x, w):
    return jnp.einsum("be,ef->bf", x, w)
"""
SCHEDULE = (
    "HloModule m, num_partitions=4\n\nENTRY %main (p: f32[8]) -> f32[8] {\n"
    "  %p = f32[8]{0} parameter(0)\n  ROOT %f = f32[8]{0} fusion(%p), kind=kLoop, calls=%c, "
    'backend_config={"window_config":{"estimated_cycles":"3000"}}\n}\n'
)
QUIET = Progress(quiet=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL.replace("WIDTH", "128"))
    return path


@pytest.fixture
def plan(model: Path) -> Plan:
    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.einsum("be,ef->bf", x, w)

    shapes = (jax.ShapeDtypeStruct((8, 64), jnp.float32), jax.ShapeDtypeStruct((64, 128), jnp.float32))
    made = autoshard.tune(step, *shapes, slice="v5e:2x2", refine="none", top_k=1)
    function = msgspec.structs.replace(made.function, target=f"{model}:step", inputs=f"{model}:inputs")
    return msgspec.structs.replace(made, function=function)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """What reached the compiler, which answers with one fusion of 2 us."""
    programs: list[Program] = []

    def compile_all(found: Sequence[Program], slice_: Slice, **options: Any) -> list[CompileResult]:
        programs.extend(found)
        options["on_known"](0)
        return [CompileResult(status="ok", text=SCHEDULE)]

    monkeypatch.setattr(plan_trace, "compile_all", compile_all)
    monkeypatch.setattr(plan_trace, "compiler_skip_reason", lambda _: None)
    return programs


@pytest.mark.parametrize("name", ["step.json", "step.json.gz"])
def test_the_trace_of_a_plan_is_that_of_its_compiled_program(
    plan: Plan, compiled: list[Program], tmp_path: Path, name: str
) -> None:
    write_plan_trace(plan, tmp_path / name, QUIET)
    written = (tmp_path / name).read_bytes()
    events = json.loads(gzip.decompress(written) if name.endswith(".gz") else written)["traceEvents"]
    (fusion,) = (event for event in events if event["ph"] == "X")
    assert (fusion["name"], fusion["ts"], fusion["dur"]) == ("f", 0.0, 2.0)  # 3000 cycles of 1.5 GHz
    assert [program.platform for program in compiled] == ["tpu"]


def test_explain_writes_a_trace_beside_its_table(
    plan: Plan, compiled: list[Program], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.save(tmp_path / "plan.json")
    assert main(["explain", str(tmp_path / "plan.json"), "--trace", str(tmp_path / "t.json")]) == 0
    output = capsys.readouterr()
    assert "be,ef->bf" in output.out
    assert f"trace written to {tmp_path / 't.json'}" in output.err
    assert "compile the plan: from the cache" in output.err
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_tune_writes_the_trace_of_its_plan(compiled: list[Program], model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    options = ["--slice", "v5e:2x2", "--inputs", f"{model}:inputs", "--refine", "none", "--top-k", "1"]
    assert main(["tune", f"{model}:step", *options, "--trace", str(trace), "--quiet"]) == 0
    assert json.loads(trace.read_text())["traceEvents"]
    assert len(compiled) == 1


def test_a_plan_of_another_program_is_refused(
    plan: Plan, compiled: list[Program], model: Path, tmp_path: Path
) -> None:
    model.write_text(MODEL.replace("WIDTH", "256"))
    with pytest.raises(PlanMismatchError, match="argument `w` is"):
        write_plan_trace(plan, tmp_path / "t.json", QUIET)
    assert not (tmp_path / "t.json").exists()


def test_a_plan_without_a_target_is_refused(plan: Plan, compiled: list[Program], tmp_path: Path) -> None:
    function = msgspec.structs.replace(plan.function, target=None)
    with pytest.raises(PlanError, match=r"does not say where its function is.*--trace FILE"):
        write_plan_trace(msgspec.structs.replace(plan, function=function), tmp_path / "t.json", QUIET)


def test_a_plan_that_does_not_compile_is_refused(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan_trace, "compiler_skip_reason", lambda _: None)
    lost = CompileResult(status="crashed", detail="SIGSEGV")
    monkeypatch.setattr(plan_trace, "compile_all", lambda *_, **__: [lost])
    with pytest.raises(CompileError, match="`step` does not compile: crashed: SIGSEGV"):
        write_plan_trace(plan, tmp_path / "t.json", QUIET)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["tune", "m.py:f", "--slice", "h100:8", "--trace", "t.json"],
            "no compiled schedule to trace",
        ),
        (["tune", "m.py:f", "--slice", "v5e:2x2", "--trace", "/"], "The trace cannot be written to `/`"),
        (["tune", "m.py:f", "--slice", "v5e:2x2", "--trace", "/no/t.json"], "there is no directory `/no`"),
        (["explain", "m.py:f", "--coverage", "--trace", "t.json"], "give one of them"),
    ],
)
def test_a_trace_that_cannot_be_is_refused_before_the_work(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
