import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import autoshard
from autoshard.cli import COMMANDS, main
from autoshard.coverage_records import Coverage
from autoshard.errors import InfeasibleError, TraceError
from autoshard.mending import mend_command
from autoshard.plan import Plan, load_plan
from autoshard.progress import Progress
from autoshard.tune_result import TuneResult

TUNE = ["tune", "palm.py:decode_step", "--slice", "v4:4x4x4"]


@pytest.fixture
def tuned(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the search; the list holds the arguments of every call."""
    calls: list[dict[str, Any]] = []

    def tune_target(target: str, **arguments: Any) -> TuneResult:
        calls.append({"target": target, **arguments})
        arguments["progress"].stage("search")
        return TuneResult(plan, search_seconds=0.5, total_seconds=7.25, candidates=plan.runners_up)

    _stand_in(monkeypatch, "autoshard.tuning", tune_target)
    return calls


def _stand_in(monkeypatch: pytest.MonkeyPatch, module_name: str, function: Callable[..., Any]) -> None:
    module = ModuleType(module_name)
    setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module_name, module)


def _raising(name: str, error: BaseException) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    function.__name__ = name
    return function


# ---- the frame


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"autoshard {autoshard.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_has_examples(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command.name, "--help"])
    assert stopped.value.code == 0
    assert f"examples:\n  autoshard {command.name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["tune", "a.py:f"], "--slice"),
        (["polish"], "invalid choice"),
        ([*TUNE, "--top-k", "0"], "expected a whole number of at least 1, got `0`"),
        ([*TUNE, "--time-limit", "soon"], "expected a number of seconds above 0, got `soon`"),
        ([*TUNE, "--refine", "hard"], "invalid choice"),
        ([*TUNE, "--hbm-limit", "-1"], "expected a number of GiB above 0, got `-1`"),
    ],
)
def test_wrong_usage_is_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_is_a_message_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path / "none.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("autoshard: error: ")
    assert captured.err.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "explain", str(tmp_path / "none.json")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_crash_is_exit_2_and_never_reads_as_stale(
    plan_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(monkeypatch, "autoshard.checking", _raising("check_plan", ZeroDivisionError("oops")))
    assert main(["check", str(plan_path)]) == 2
    error = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in error
    assert "internal error" in error


@pytest.mark.smoke
def test_the_module_runs_and_explains_without_jax(plan_path: Path) -> None:
    code = (
        "import sys; from autoshard.cli import main; "
        f"code = main(['explain', {str(plan_path)!r}]); sys.exit(code or 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == plan_path.with_suffix(".explain.txt").read_text(encoding="utf-8")


def test_a_reader_that_goes_away_gets_no_traceback(plan_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "autoshard.cli", "explain", str(plan_path)]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (2, "")


# ---- explain


def test_explain_as_json(plan_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(plan_path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["function"] == "decode_step"


def _covering(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> list[tuple[str, str | None]]:
    """Stands in for tracing; the list holds the target and the inputs of every call."""
    calls: list[tuple[str, str | None]] = []

    def coverage_of_target(target: str, inputs: str | None, progress: Progress) -> tuple[str, Coverage]:
        calls.append((target, inputs))
        progress.note("traced 412 equations in 1.00 s")
        return "decode_step", plan.coverage

    _stand_in(monkeypatch, "autoshard.target_coverage", coverage_of_target)
    return calls


def test_the_coverage_of_a_plan_is_in_the_plan(plan_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(plan_path), "--coverage"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("decode_step: 3 einsums among 412 equations\n")
    assert captured.err == ""
    assert main(["explain", str(plan_path), "--coverage", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["coverage"]["flops_fraction"] == 0.9987


@pytest.mark.parametrize("inputs", [[], ["--inputs", "palm.py:decode_inputs"]])
def test_the_coverage_of_a_function_needs_no_plan(
    inputs: list[str], plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = _covering(monkeypatch, plan)
    assert main(["explain", "palm.py:decode_step", "--coverage", *inputs, "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["function"] == "decode_step"
    assert captured.err == "traced 412 equations in 1.00 s\n"
    assert calls == [("palm.py:decode_step", inputs[-1] if inputs else None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["palm.py:decode_step"], "is a function, and what is explained is a plan"),
        (["plan.json", "--coverage", "--inputs", "palm.py:inputs"], "--inputs goes with a function"),
    ],
)
def test_a_plan_and_a_function_are_told_apart(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_file_with_a_colon_in_its_name_is_a_plan(
    plan_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "decode:v4"
    odd.write_bytes(plan_path.read_bytes())
    assert main(["explain", str(odd), "--coverage"]) == 0
    assert capsys.readouterr().out.startswith("decode_step: ")


# ---- tune


def test_tune_as_json_is_one_object(
    tuned: list[dict[str, Any]], tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plan.json"
    assert main([*TUNE, "-o", str(output), "--format", "json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert list(facts) == [
        *("plan", "predicted_seconds", "estimated_seconds", "measured_seconds", "hbm_bytes_per_chip", "gap"),
        *("search_seconds", "total_seconds", "candidates"),
    ]
    assert (facts["plan"], facts["measured_seconds"], facts["total_seconds"]) == (str(output), None, 7.25)
    assert [each["measured_seconds"] for each in facts["candidates"]] == [None, None]
    assert load_plan(output) == plan
    assert captured.err.endswith("] search\n")


def test_tune_as_text_says_where_the_plan_is(
    tuned: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plan.json"
    assert main([*TUNE, "-o", str(output), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("decode_step on v4:4x4x4")
    ending = f"\nplan written to {output}; search took 500 ms, the whole run 7.25 s\n"
    assert captured.out.endswith(ending)
    assert captured.err == ""


def test_tune_without_output_says_that_nothing_was_written(
    tuned: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TUNE, "--quiet"]) == 0
    assert "plan not written: give -o PLAN to keep it" in capsys.readouterr().out
    assert main([*TUNE, "--quiet", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["function"]["name"] == "decode_step"


def test_tune_hands_every_option_on(tuned: list[dict[str, Any]]) -> None:
    options = [
        *("--inputs", "palm.py:decode_inputs", "--refine", "compile", "--top-k", "3", "--mesh", "search"),
        *("--trials", "7", "--storage", "sqlite:///t.db", "--time-limit", "2.5", "--seed", "11", "--quiet"),
        *("--pin", "params/wi=x;y,z", "--pin", "einsum:wi=;;x | *"),
        *("--compile-options", "search", "--option-trials", "5", "--shardings", "keep"),
        *("--forbid", "params/wi=x;*", "--hbm-limit", "1.5", "--choice", "remat=none,full"),
        *("--padding", "never"),
    ]
    assert main([*TUNE, *options]) == 0
    (call,) = tuned
    del call["progress"]
    assert call == {
        "target": "palm.py:decode_step",
        "slice": "v4:4x4x4",
        "inputs": "palm.py:decode_inputs",
        "objective": "latency",
        "refine": "compile",
        "top_k": 3,
        "mesh": "search",
        "trials": 7,
        "storage": "sqlite:///t.db",
        "time_limit_seconds": 2.5,
        "seed": 11,
        "pins": ["params/wi=x;y,z", "einsum:wi=;;x | *"],
        "compile_options": "search",
        "option_trials": 5,
        "shardings": "keep",
        "hbm_limit_bytes": 1.5 * 2**30,
        "forbid": ["params/wi=x;*"],
        "choices": {"remat": ("none", "full")},
        "padding": "never",
        "profile": None,
    }


def test_storage_comes_from_the_environment(
    tuned: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///shared.db")
    assert main([*TUNE, "--quiet"]) == 0
    assert tuned[0]["storage"] == "sqlite:///shared.db"


def test_an_output_that_cannot_be_written_fails_before_the_search(
    tuned: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*TUNE, "-o", str(tmp_path / "file" / "plan.json")]) == 2
    assert "is a file, not a directory" in capsys.readouterr().err
    assert tuned == []


@pytest.mark.parametrize(
    ("slice_name", "before", "after"),
    [("v4:4x4x4", None, "cpu"), ("v4:4x4x4", "tpu", "tpu"), ("local", None, None)],
)
def test_planning_grabs_no_accelerator(
    slice_name: str,
    before: str | None,
    after: str | None,
    tuned: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", before or "")
    if before is None:
        monkeypatch.delenv("JAX_PLATFORMS")
    assert main(["tune", "palm.py:f", "--slice", slice_name, "--quiet"]) == 0
    assert os.environ.get("JAX_PLATFORMS") == after


def test_a_plan_that_does_not_exist_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(monkeypatch, "autoshard.tuning", _raising("tune_target", InfeasibleError("nothing fits")))
    assert main(TUNE) == 2
    assert capsys.readouterr().err == "autoshard: error: nothing fits\n"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], "nothing was kept: give --storage"),
        (
            ["--storage", "sqlite:///t.db"],
            "finished trials are kept in sqlite:///t.db: the same command resumes",
        ),
    ],
)
def test_an_interrupted_run_says_what_is_kept(
    options: list[str], kept: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    _stand_in(monkeypatch, "autoshard.tuning", _raising("tune_target", KeyboardInterrupt()))
    assert main([*TUNE, *options]) == 130
    error = capsys.readouterr().err
    assert error.startswith("autoshard: interrupted: no plan was written")
    assert kept in error


# ---- check


def _checking(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | Exception) -> None:
    remaining = list(answers)

    def check_plan(plan: Plan) -> list[str]:
        answer = remaining.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    _stand_in(monkeypatch, "autoshard.checking", check_plan)


def test_a_fresh_plan_is_exit_0(
    plan_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _checking(monkeypatch, [])
    assert main(["check", str(plan_path)]) == 0
    assert capsys.readouterr().out == f"{plan_path}: fresh\n"


def test_a_stale_plan_is_exit_1_and_says_why(
    plan_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _checking(monkeypatch, [], ["argument `x` is float32[8], the plan has bfloat16[8]"])
    assert main(["check", str(plan_path), str(plan_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{plan_path}: fresh",
        f"{plan_path}: stale",
        "    argument `x` is float32[8], the plan has bfloat16[8]",
        f"    make it again with: {mend_command(load_plan(plan_path), plan_path)}",
    ]


def test_an_error_beats_a_stale_plan_and_the_rest_is_checked_still(
    plan_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _checking(monkeypatch, TraceError("cannot be traced"), ["other jaxpr"])
    missing = tmp_path / "none.json"
    assert main(["check", str(plan_path), str(missing), str(plan_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{plan_path}: stale\n    other jaxpr\n")
    assert captured.err.splitlines() == [
        f"autoshard: error: {plan_path}: cannot be traced",
        f"autoshard: error: {missing}: no such plan file: `autoshard tune` makes it.",
    ]


def test_check_as_json(
    plan_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _checking(monkeypatch, [], ["other jaxpr"], TraceError("no"))
    path = str(plan_path)
    assert main(["check", path, path, path, "--format", "json"]) == 2
    assert json.loads(capsys.readouterr().out) == [
        {"plan": path, "state": "fresh"},
        {
            "plan": path,
            "state": "stale",
            "differences": ["other jaxpr"],
            "mend": mend_command(load_plan(path), path),
        },
        {"plan": path, "state": "error", "error": f"{path}: no"},
    ]
