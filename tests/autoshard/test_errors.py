"""Errors as a user meets them: exit code 2, no traceback; what was wrong, what is expected, what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.cli import main
from autoshard.errors import PlanMismatchError

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = """
import jax
import jax.numpy as jnp


def shapes(*each):
    return tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in each)


def mlp(x, w):
    return jnp.einsum("be,ef->bf", x, w)


def other(x, w):
    return jnp.einsum("be,ef->bf", x, w) + 1


def inputs():
    return shapes((8, 16), (16, 32))


def larger_inputs():
    return shapes((16, 16), (16, 32))


def prime_inputs():
    return shapes((5, 3), (3, 11))


def mismatched_inputs():
    return shapes((8, 16), (8, 32))


def raising_inputs():
    raise RuntimeError("no config file")


def branching(x, w):
    if x[0, 0] > 0:
        return mlp(x, w)
    return x


NUMBER = 3
"""


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a model's file in the working directory; the module's name is that of no other test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"model_{tmp_path.name}.py"
    Path(name).write_text(MODEL, encoding="utf-8")
    return name


def tune(model: str, *options: str, function: str = "mlp", inputs: str | None = "inputs") -> int:
    given = [] if inputs is None else ["--inputs", f"{model}:{inputs}"]
    return main(["tune", f"{model}:{function}", "--refine", "none", "--top-k", "1", *given, *options])


def plan_of(model: str, *options: str) -> Path:
    assert tune(model, "--slice", "cpu:8", "-o", "plan.json", "--quiet", *options) == 0
    return Path("plan.json")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The message on stderr, of one error without a traceback; nothing was printed as a result."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("autoshard: error: ") == 1
    return captured.err.partition("autoshard: error: ")[2]


# ---- slices


@pytest.mark.parametrize(
    ("slice_name", "fragments"),
    [
        (
            "v9:2x2",
            [
                "unknown chip 'v9'",
                "v2, v3, v4, v5e, v5p, v6e, tpu7x, h100, h200, b200, a100, cpu",
                "choose one",
            ],
        ),
        ("v5e:3x3", ["'v5e:3x3' cannot exist", "must be 1, 2, 4, 8 or 16", "for example 'v5e:"]),
        ("v5e:1x7", ["'v5e:1x7' cannot exist", "must be 1, 2, 4, 8 or 16"]),
        ("v5e:2x2x2", ["v5e topologies have 2 dims, this one has 3", "for example"]),
        ("v4:3x4x4", ["'v4:3x4x4' cannot exist", "must be 1, 2 or a multiple of 4"]),
        ("v5e", ["'v5e' is not a slice", "expected CHIP:TOPOLOGY, such as"]),
    ],
)
def test_a_slice_that_cannot_exist(
    slice_name: str, fragments: list[str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(model, "--slice", slice_name) == 2
    message = said(capsys)
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_a_model_that_cannot_fit_names_the_smallest_slice_that_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = f"{ROOT / 'examples' / 'palm.py'}:decode_540b"
    assert main(["tune", target, "--slice", "v5e:2x4", "--refine", "none"]) == 2
    message = said(capsys)
    assert message.startswith("`decode_540b` does not fit v5e:2x4: its arguments alone take ")
    assert message.endswith(
        "and 8 chips of 15.75 GiB hold 126.0 GiB in all; the smallest v5e slice that fits is v5e:8x16\n"
    )


def test_dims_that_no_axis_divides_still_give_a_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    never = ("--padding", "never")
    assert tune(model, "--slice", "cpu:8", "-o", "plan.json", *never, inputs="prime_inputs") == 0
    message = capsys.readouterr().err
    assert "no mesh axis of cpu:8 divides a dim of any einsum of `mlp`: they are replicated" in message
    assert {argument.spec for argument in autoshard.load_plan("plan.json").arguments.values()} == {";"}


# ---- the target and its inputs


@pytest.mark.parametrize(
    ("target", "inputs", "fragments"),
    [
        ("{model}:mlp", None, ["`{model}:mlp` has no inputs", "give --inputs MODULE_OR_FILE:FUNCTION"]),
        ("{model}:mlp", "{model}:raising_inputs", ["raising_inputs` failed: RuntimeError: no config file"]),
        ("{model}:mlp", "{model}:none", ["`{model}` has no `none`; it has:", "raising_inputs"]),
        ("{model}:mlp", "{model}:mismatched_inputs", ["`mlp` cannot be traced", "Size of label 'e'"]),
        ("{model}:branching", "{model}:inputs", ["`branching` cannot be traced", "jax.lax.cond"]),
        ("{model}:absent", "{model}:inputs", ["`{model}` has no `absent`; it has:", "mlp"]),
        ("{model}:NUMBER", "{model}:inputs", ["`{model}:NUMBER` is a", "not a function"]),
        ("{model}", "{model}:inputs", ["`{model}` is not a target", "expected MODULE_OR_FILE:FUNCTION"]),
        ("none.py:f", "{model}:inputs", ["there is no file `none.py`", "expected MODULE_OR_FILE:FUNCTION"]),
        ("no.module:f", "{model}:inputs", ["there is no module `no.module`"]),
    ],
)
def test_a_target_that_cannot_be_used(
    target: str,
    inputs: str | None,
    fragments: list[str],
    model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [] if inputs is None else ["--inputs", inputs.format(model=model)]
    assert main(["tune", target.format(model=model), "--slice", "cpu:8", "--refine", "none", *given]) == 2
    message = said(capsys)
    wanted = [fragment.format(model=model) for fragment in fragments]
    assert [fragment for fragment in wanted if fragment not in message] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "price"], "--objective: invalid choice: 'price' (choose from "),
        (["--refine", "hard"], "--refine: invalid choice: 'hard' (choose from "),
        (["--mesh", "all"], "--mesh: invalid choice: 'all' (choose from "),
    ],
)
def test_a_choice_that_is_not_known(
    options: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tune(model, "--slice", "cpu:8", *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_storage_that_cannot_be_opened(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(model, "--slice", "cpu:8", "--storage", "sqlite:///none/tune.db") == 2
    message = said(capsys)
    assert "the study storage `sqlite:///none/tune.db` cannot be opened: " in message
    assert "such as sqlite:///tune.db" in message


# ---- plans


def test_a_plan_that_cannot_be_written(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert tune(model, "--slice", "cpu:8", "-o", "file/plan.json") == 2
    assert "is a file, not a directory; choose a directory" in said(capsys)
    assert tune(model, "--slice", "cpu:8", "-o", ".") == 2
    assert "it is a directory; name a file in it" in said(capsys)


def test_a_plan_in_a_directory_without_permission(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    assert tune(model, "--slice", "cpu:8", "-o", "plan.json") == 2
    assert "; change its permissions, or choose another place" in said(capsys)


def _truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:200])


def _from_the_future(plan: Path) -> None:
    facts = json.loads(plan.read_text())
    plan.write_text(
        json.dumps(facts | {"schema": {"version": 3, "revision": 0}, "created_by": "autoshard 9"})
    )


def _without_target(plan: Path) -> None:
    facts = json.loads(plan.read_text())
    plan.write_text(json.dumps(facts | {"function": facts["function"] | {"target": None}}))


@pytest.mark.parametrize(
    ("spoil", "commands", "fragments"),
    [
        (_truncate, ["explain", "check"], ["not JSON at line", "truncated or damaged", "`autoshard tune`"]),
        (_from_the_future, ["explain", "check"], ["made by autoshard 9, schema 3", "upgrade autoshard"]),
        (_without_target, ["check"], ["does not say where its function is", "autoshard tune MODULE"]),
        (Path.unlink, ["explain", "check"], ["plan.json: no such plan file", "`autoshard tune` makes it"]),
    ],
)
def test_a_plan_that_cannot_be_read(
    spoil: Any,
    commands: list[str],
    fragments: list[str],
    model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_of(model)
    spoil(plan)
    capsys.readouterr()
    for command in commands:
        assert main([command, str(plan)]) == 2
        message = said(capsys)
        assert [fragment for fragment in fragments if fragment not in message] == []


def test_a_plan_of_another_model_or_other_shapes_is_stale_and_never_applied_half(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(model)
    facts = json.loads(plan.read_text())
    facts["function"]["inputs"] = f"{model}:larger_inputs"
    plan.write_text(json.dumps(facts))
    capsys.readouterr()
    assert main(["check", str(plan)]) == 1
    printed = capsys.readouterr().out
    assert "plan.json: stale" in printed
    assert "float32[16,16]" in printed and "float32[8,16]" in printed
    fast = autoshard.jit(lambda x, w: jnp.einsum("be,ef->bf", x, w), plan=plan)
    with pytest.raises(PlanMismatchError, match=r"float32\[16,16\]"):
        fast(jnp.ones((16, 16)), jnp.ones((16, 32)))


# ---- devices


def test_seven_devices_asked_of_eight(model: str) -> None:
    """This process has 8 devices; a plan for 7 is refused, and so is a plan for 8 on 7 of them."""
    assert len(jax.devices()) == 8
    plan_of(model)
    eight = autoshard.load_plan("plan.json")
    with pytest.raises(PlanMismatchError, match=r"8.*7|7.*8"):
        eight.mesh(jax.devices()[:7])
    assert tune(model, "--slice", "cpu:7", "-o", "seven.json", "--quiet") == 0
    fast = autoshard.jit(lambda x, w: jnp.einsum("be,ef->bf", x, w), plan="seven.json")
    with pytest.raises(PlanMismatchError, match=r"8.*7|7.*8"):
        fast(jnp.ones((8, 16)), jnp.ones((16, 32)))


def test_local_is_what_is_attached(model: str) -> None:
    code = (
        "import sys; from autoshard.cli import main; "
        f"sys.exit(main(['tune', '{model}:mlp', '--slice', 'local', '--inputs', '{model}:inputs', "
        "'--refine', 'none', '-o', 'plan.json', '--quiet']))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert autoshard.load_plan("plan.json").slice == "cpu:4"
