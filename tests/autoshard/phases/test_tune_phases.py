"""Phases planned together: plans that agree, what they cost, what is said, and the command line."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.cli import main
from autoshard.errors import InfeasibleError, OptionError
from autoshard.phases.phase import checked_runs, unique_names
from autoshard.phases.result import JointPlans, plan_paths
from autoshard.search.errors import PinError

LAYERS, B, T, E, F = 2, 64, 32, 256, 1024


def weights(e: int = E, f: int = F) -> dict[str, Any]:
    shapes = {"up": (LAYERS, e, f), "down": (LAYERS, f, e)}
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}


def layer(x: jax.Array, w: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    hidden = jnp.tanh(jnp.einsum("...e,ef->...f", x, w["up"]))
    return x + jnp.einsum("...f,fe->...e", hidden, w["down"]), x


def prefill(params: dict[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[b, t, e] to itself, and all that the layers saw [layers, b, t, e]."""
    return jax.lax.scan(layer, x, params)


def decode(params: dict[str, Any], seen: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step [b, e], which looks at what was seen and puts itself at its end."""

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        w, past = inputs
        scores = jnp.einsum("be,bte->bt", x, past)
        return layer(x + jnp.einsum("bt,bte->be", scores, past), w)[0], x

    x, new = jax.lax.scan(step, x, (params, seen))
    return x, jax.lax.dynamic_update_slice(seen, new[:, :, None], (0, 0, T - 1, 0))


def prefill_inputs() -> tuple[Any, ...]:
    return weights(), jax.ShapeDtypeStruct((B, T, E), "float32")


def decode_inputs() -> tuple[Any, ...]:
    seen = jax.ShapeDtypeStruct((LAYERS, B, T, E), "float32")
    return weights(), seen, jax.ShapeDtypeStruct((B, E), "float32")


step = autoshard.jit(decode, inputs=decode_inputs, donate_argnames=("seen",))


def planned(
    *, runs: tuple[float, ...] | None = (1, 64), slice_name: str = "v5e:2x4", **options: Any
) -> JointPlans:
    return autoshard.tune_phases(
        *options.pop("phases", ((prefill, prefill_inputs()), step)),
        share=options.pop("share", "params"),
        handover=options.pop("handover", "seen"),
        weights=runs,
        slice=slice_name,
        **{"refine": "none", "top_k": 1, **options},
    )


@pytest.fixture(scope="module")
def joint() -> JointPlans:
    return planned()


def test_what_is_shared_lies_alike_axis_by_axis(joint: JointPlans) -> None:
    first, second = joint.plans["prefill"], joint.plans["decode"]
    assert first.mesh_axes == second.mesh_axes
    assert joint.shared == ("params/down", "params/up")
    for name in joint.shared:
        assert first.arguments[name].spec == second.arguments[name].spec


def test_the_handover_says_what_the_plans_say(joint: JointPlans) -> None:
    between, again = joint.handovers
    assert (between.source, between.target, between.runs) == ("prefill", "decode", 1)
    assert (again.source, again.target, again.runs) == ("decode", "decode", 63)
    assert between.given == joint.plans["prefill"].results["result/1"].spec
    assert between.taken == joint.plans["decode"].arguments["seen"].spec
    assert (between.seconds == 0) == (between.given == between.taken)
    assert again.given == again.taken  # donated: one buffer
    assert again.seconds == 0


def test_times_add_up(joint: JointPlans) -> None:
    first, second = joint.phases
    assert joint.seconds == pytest.approx(
        first.plan.predicted_seconds + 64 * second.plan.predicted_seconds + joint.handover_seconds
    )
    assert joint.separate_seconds == pytest.approx(first.separate_seconds + 64 * second.separate_seconds)
    assert joint.loss == pytest.approx(joint.seconds / joint.separate_seconds - 1)
    assert joint.loss >= -1e-2
    assert joint.bound_seconds <= joint.seconds * (1 + 1e-6)  # plans hold rounded times
    assert 0 <= joint.gap < 0.02


def test_each_plan_is_one_of_its_own_and_names_what_was_agreed(joint: JointPlans) -> None:
    for plan in joint.plans.values():
        pins = [pin for pin in plan.pins if pin.startswith("params/")]
        assert pins == [f"{name}={plan.arguments[name].spec}" for name in joint.shared]
        assert plan.predicted.lower_bound_seconds <= plan.predicted_seconds
    assert f"result:1={joint.handovers[0].given}" in joint.plans["prefill"].pins


def test_the_shardings_of_what_is_shared_are_equal(joint: JointPlans) -> None:
    axes = joint.plans["prefill"].mesh_axes
    mesh = jax.sharding.AbstractMesh(
        tuple(axis.size for axis in axes),
        tuple(axis.name for axis in axes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
    )
    first, second = (plan.in_shardings(mesh)[0] for plan in joint.plans.values())
    assert jax.tree.leaves(first) == jax.tree.leaves(second)


def test_pins_hold_in_the_phases_that_they_match() -> None:
    found = planned(mesh="native", pins=["seen=;x,y;;", "params/up=;;x,y"])
    assert found.plans["decode"].arguments["seen"].spec.replace("y,x", "x,y") == ";x,y;;"
    assert found.plans["prefill"].arguments["params/up"].spec.replace("y,x", "x,y") == ";;x,y"


def test_a_pin_that_matches_in_no_phase_is_refused() -> None:
    with pytest.raises(PinError, match="`cash=x;;;` matches nothing of `prefill` nor of `decode`"):
        planned(pins=["cash=x;;;"])


def test_bans_hold_in_the_phases_that_they_match_and_the_limit_in_all() -> None:
    free = planned(pins=["params/up=;;x"], mesh="native").plans["prefill"]
    assert free.arguments["params/up"].spec == ";;x"
    ban = "params/up=*;*;x"
    limit = 2**30
    held = planned(forbid=[ban, "seen=any;*;*;*"], hbm_limit_bytes=limit, mesh="native")
    assert [plan.forbidden for plan in held.plans.values()] == [(ban,), (ban, "seen=any;*;*;*")]
    for plan in held.plans.values():
        assert "x" not in plan.arguments["params/up"].spec.split(";")[2].split(",")
        assert plan.hbm_limit_bytes == limit
        assert plan.hbm_bytes_per_chip <= limit


def test_a_limit_that_no_phase_keeps_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="GiB"):
        planned(hbm_limit_bytes=1000)


def test_the_default_runs_are_said() -> None:
    found = planned(runs=None)
    assert [phase.runs for phase in found.phases] == [1, 64]
    assert found.assumed_runs


def test_phases_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(OptionError, match="planned one by one"):
        planned(share=(), handover=())


def test_what_does_not_fit_alone_is_said_of_the_phase() -> None:
    big = (
        {
            "up": jax.ShapeDtypeStruct((64, 2**14, 2**16), "float32"),
            "down": jax.ShapeDtypeStruct((64, 2**16, 2**14), "float32"),
        },
        jax.ShapeDtypeStruct((B, T, 2**14), "float32"),
    )
    with pytest.raises(InfeasibleError, match="`prefill` does not fit v5e:1x1"):
        planned(phases=((prefill, big), (prefill, big)), slice_name="v5e:1x1", handover=())


def test_a_study_is_taken_up_again(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    first, second = (planned(storage=storage) for _ in range(2))
    assert [p.arguments for p in first.plans.values()] == [p.arguments for p in second.plans.values()]
    assert first.seconds == second.seconds


# ---- small parts


@pytest.mark.parametrize("runs", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf")), (1.0, 2.0, 3.0)])
def test_wrong_runs_are_refused(runs: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="expected a number above 0 for each of the 2 phases"):
        checked_runs(runs, 2)


def test_names_are_told_apart() -> None:
    assert unique_names(["step", "step", "other", "step"]) == ["step", "step-2", "other", "step-3"]


def test_each_phase_has_a_file(tmp_path: Path) -> None:
    assert plan_paths("plans/v4.json", ["prefill", "decode"]) == (
        "plans/v4.prefill.json",
        "plans/v4.decode.json",
    )
    assert plan_paths("plan", ["a"]) == ("plan.a",)


def test_a_loss_is_of_the_whole(joint: JointPlans) -> None:
    dear = dataclasses.replace(joint.handovers[0], seconds=joint.separate_seconds)
    slower = dataclasses.replace(joint, handovers=(dear, *joint.handovers[1:]))
    assert slower.loss == pytest.approx(joint.loss + 1)


# ---- the command line


def tune(*arguments: str) -> int:
    fixed = ["--slice", "v5e:2x4", "--refine", "none", "--top-k", "1", "--quiet"]
    return main(["tune", *arguments, *fixed])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "phases_model.py"
    source = Path(__file__).read_text().partition("\nstep = ")[0]
    path.write_text(
        source + "\nstep = autoshard.jit(decode, inputs=decode_inputs, donate_argnames=('seen',))\n"
    )
    return path


def test_the_command_writes_a_plan_for_each_phase(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [f"--inputs={model}:prefill_inputs", f"--inputs={model}:decode_inputs"]
    out = tmp_path / "plan.json"
    targets = [f"{model}:prefill", f"{model}:step", *inputs]
    assert tune(*targets, "--share", "params", "--handover", "seen", "--weights", "1,8", "-o", str(out)) == 0
    text = capsys.readouterr().out
    assert "shared, at rest in all phases" in text
    assert "all runs" in text
    plans = [autoshard.load_plan(tmp_path / f"plan.{name}.json") for name in ("prefill", "step")]
    assert plans[0].arguments["params/up"] == plans[1].arguments["params/up"]
    assert f"{tmp_path}/plan.prefill.json, {tmp_path}/plan.step.json" in text
    assert main(["check", *(str(tmp_path / f"plan.{name}.json") for name in ("prefill", "step"))]) == 0


def test_the_printed_command_makes_stale_plans_of_phases_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [f"--inputs={model}:prefill_inputs", f"--inputs={model}:decode_inputs"]
    paths = [str(tmp_path / f"plan.{name}.json") for name in ("prefill", "step")]
    wishes = ["--share", "params", "--handover", "seen", "--weights", "1,8", "--hbm-limit", "4.5"]
    bans = ["--forbid", "params/up=*;x;*", "--pin", "params/down=;y;"]
    assert (
        tune(f"{model}:prefill", f"{model}:step", *inputs, *wishes, *bans, "-o", f"{tmp_path}/plan.json") == 0
    )
    old = autoshard.load_plan(paths[1])
    sys.modules.pop("phases_model", None)
    model.write_text(model.read_text().replace("LAYERS, B, T, E, F = 2, 64", "LAYERS, B, T, E, F = 2, 128"))
    capsys.readouterr()
    assert main(["check", *paths]) == 1
    commands = [
        line.partition(": ")[2]
        for line in capsys.readouterr().out.splitlines()
        if "make it again with" in line
    ]
    assert commands[0] == commands[1]  # either file names the one command that makes both
    program, verb, *words = shlex.split(commands[0])
    assert (program, verb) == ("autoshard", "tune")
    assert main(["tune", *words, "--refine", "none", "--top-k", "1", "--quiet"]) == 0
    assert main(["check", *paths]) == 0
    new = autoshard.load_plan(paths[1])
    assert new != old
    assert new.together == old.together
    assert (new.forbidden, new.hbm_limit_bytes) == (old.forbidden, old.hbm_limit_bytes)


def test_a_plan_of_phases_keeps_what_was_asked_of_them(joint: JointPlans) -> None:
    for plan in joint.plans.values():
        assert plan.together is not None
        assert [phase.name for phase in plan.together.phases] == ["prefill", "decode"]
        assert (plan.together.share, plan.together.handover) == (("params",), ("seen",))
        assert plan.together.weights == (1, 64)
        assert plan.together.pins == () != plan.pins


def test_the_command_prints_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [f"--inputs={model}:prefill_inputs", f"--inputs={model}:decode_inputs"]
    assert tune(f"{model}:prefill", f"{model}:decode", *inputs, "--share=params", "--format", "json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["phases"]) == ["prefill", "decode"]
    assert facts["phases"]["decode"]["runs"] == 64
    assert facts["handovers"] == []
    assert facts["joint_seconds"] >= facts["separate_seconds"] * 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.py:f", "--share", "params"], "--share is of phases that are planned together"),
        (["m.py:f", "--weights", "1,2"], "--weights is of phases that are planned together"),
        (["m.py:f", "m.py:g", "--share", "p", "--trace", "t.json"], "--trace is of one target"),
        (["m.py:f", "m.py:g", "--share", "p", "--shardings", "keep"], "--shardings keep is of one target"),
        (
            ["m.py:f", "m.py:g", "--share", "p", "--inputs", "m.py:i"],
            "--inputs is given 1 times for 2 targets",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["1,x", "1,0", "", "1,-2", "1,inf"])
def test_weights_are_numbers_above_zero(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune("m.py:f", "m.py:g", f"--weights={weights}")
    assert "expected a number above 0 for each phase" in capsys.readouterr().err
