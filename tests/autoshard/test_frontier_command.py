"""`autoshard frontier` from the command line: two small slices, the real search."""

import json
from pathlib import Path
from typing import Any

import pytest

import autoshard
from autoshard.cli import main
from autoshard.search import memory_front

MODEL = """
import jax, jax.numpy as jnp

def step(params, x):
    def layer(x, w):
        hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, w["up"]))
        return x + jnp.einsum("bf,fe->be", hidden, w["down"]), None
    return jax.lax.scan(layer, x, params)[0]

def inputs():
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, "bfloat16")
    return {"up": shape(4, 1024, 4096), "down": shape(4, 4096, 1024)}, shape(8192, 1024)
"""
SLICES = ("--slice", "v5e:1x2", "--slice", "v5e:2x2")


@pytest.fixture
def target(tmp_path: Path) -> list[str]:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return ["frontier", f"{path}:step", "--inputs", f"{path}:inputs", "--quiet"]


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_front_and_its_pick(
    target: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    options = [*SLICES, "--format", "json", "--tokens", "8192", "-o", str(path)]
    assert main([*target, *options]) == 0
    found = facts(capsys)
    rows = found["rows"]
    assert {each["slice"] for each in rows} == {"v5e:1x2", "v5e:2x2"}
    for each in rows:
        assert each["hbm_bytes_per_chip"] <= each["hbm_budget_bytes"]
        assert each["lower_bound_seconds"] <= each["step_seconds"]
        assert each["chip_seconds_per_step"] == pytest.approx(each["chips"] * each["step_seconds"])
        assert each["chip_seconds_per_token"] == pytest.approx(each["chip_seconds_per_step"] / 8192)
    for name in ("v5e:1x2", "v5e:2x2"):
        of_slice = [each for each in rows if each["slice"] == name]
        assert len(of_slice) > 1
        assert [each["step_seconds"] for each in of_slice] == sorted(
            each["step_seconds"] for each in of_slice
        )
        sizes = [each["hbm_bytes_per_chip"] for each in of_slice]
        assert sizes == sorted(sizes, reverse=True)
    fastest = min(range(len(rows)), key=lambda n: rows[n]["step_seconds"])
    assert (found["picked"], found["plan"]) == (fastest, str(path))
    plan = autoshard.load_plan(path)
    assert (plan.slice, plan.objective) == (rows[fastest]["slice"], "latency")
    assert plan.predicted_seconds == rows[fastest]["step_seconds"]
    # The same command gives the same answer.
    assert main([*target, *options]) == 0
    assert facts(capsys) == found


def test_the_cheapest_within_a_latency_limit_as_text(
    target: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    options = [*SLICES, "--points", "1", "--objective", "throughput"]
    assert main([*target, *options, "--format", "json"]) == 0
    rows = facts(capsys)["rows"]
    assert [each["slice"] for each in rows] == ["v5e:1x2", "v5e:2x2"]
    limit = str((rows[0]["step_seconds"] + rows[1]["step_seconds"]) / 2)
    assert main([*target, *options, "--latency-limit", limit, "-o", str(path)]) == 0
    output = capsys.readouterr().out
    assert "\n*2  v5e:2x2" in output
    assert "* cheapest within the latency limit of" in output
    assert output.endswith(f"plan written to {path}\n")
    assert autoshard.load_plan(path).objective == "throughput"


def test_a_limit_that_no_plan_keeps_prints_the_front_and_is_exit_2(
    target: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert main([*target, *SLICES, "--points", "1", "--cost-limit", "1e-9", "-o", str(path)]) == 2
    captured = capsys.readouterr()
    assert "v5e:2x2" in captured.out
    assert captured.err.startswith("autoshard: error: no plan keeps within the cost limit of 1e-09")
    assert not path.exists()


def test_slices_that_are_too_small_are_named(target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*target, *SLICES, "--points", "2", "--format", "json"]) == 0
    least = {each["slice"]: each["hbm_bytes_per_chip"] for each in facts(capsys)["rows"]}
    between = str((least["v5e:1x2"] + least["v5e:2x2"]) / 2 / 2**30)
    assert main([*target, *SLICES, "--points", "1", "--hbm-limit", between]) == 0
    assert "v5e:1x2 does not fit: no plan needs less than" in capsys.readouterr().out
    assert main([*target, *SLICES, "--hbm-limit", "0.001"]) == 2
    assert "fits none of the slices" in capsys.readouterr().err


def test_wrong_options_are_exit_2(target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*target, *SLICES, "--latency-limit", "1"]) == 2
    assert "goes with the objective `throughput`" in capsys.readouterr().err
    assert main([*target, "--slice", "v5e:7x7x7"]) == 2
    assert "autoshard: error:" in capsys.readouterr().err


def test_ctrl_c_keeps_the_plans_found(
    target: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = memory_front.MemoryFront.best
    calls: list[float] = []

    def interrupted(self: memory_front.MemoryFront, limit_bytes: float) -> memory_front.FrontPoint:
        calls.append(limit_bytes)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return best(self, limit_bytes)

    monkeypatch.setattr(memory_front.MemoryFront, "best", interrupted)
    assert main([*target, *SLICES]) == 130
    captured = capsys.readouterr()
    assert "interrupted: the front is not complete" in captured.out
    assert "decode" not in captured.err
    calls.append(0.0)
    assert main([*target, *SLICES]) == 130
    assert "autoshard: interrupted: nothing was changed" in capsys.readouterr().err
