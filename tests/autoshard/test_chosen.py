"""A plan with choices in use: what the arguments are, and that the program computes the same."""

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import autoshard
from autoshard.checking import check_plan
from autoshard.choices import Choices
from autoshard.cli import main
from autoshard.decorator import PlannedFunction
from autoshard.errors import PlanMismatchError, TargetError
from autoshard.plan import Plan, load_plan
from autoshard.targets import load_target
from autoshard.tuning import tune_target
from tests.autoshard.choice_model import abstract, arrays, step

VALUES = {"remat": "full", "parts": 4}


@functools.cache
def plan() -> Plan:
    """A plan that chose what the function has not by default."""
    choices: Choices = {"remat": ("full",), "parts": (4,)}
    return autoshard.tune(step, *abstract(), slice="cpu:8", refine="none", mesh="native", choices=choices)


@pytest.fixture
def planned() -> PlannedFunction:
    return autoshard.jit(step, plan=plan())


def close(result: Any, expected: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), result, expected)


def test_under_the_plan_the_arguments_have_its_values(planned: PlannedFunction) -> None:
    assert plan().choices == VALUES
    jaxpr = str(planned.trace(*arrays()).jaxpr)
    assert "checkpoint" in jaxpr or "remat" in jaxpr
    assert f"length={VALUES['parts']}" in jaxpr


def test_the_gradient_in_parts_on_eight_devices_is_that_of_the_whole_batch_on_one(
    planned: PlannedFunction,
) -> None:
    close(planned(*arrays()), jax.jit(step)(*arrays()))


def test_a_call_may_say_what_the_plan_says(planned: PlannedFunction) -> None:
    close(planned(*arrays(), remat="full", parts=4), jax.jit(step)(*arrays()))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"remat": "none"},
            r"`remat` is 'none' in the call of `step`, and the plan chose 'full': leave",
        ),
        ({"parts": 2}, r"`parts` is 2 .* the plan chose 4: .*`autoshard tune ... --choice parts=2`"),
    ],
)
def test_a_call_may_not_say_otherwise(keywords: Any, message: str, planned: PlannedFunction) -> None:
    with pytest.raises(PlanMismatchError, match=message):
        planned(*arrays(), **keywords)
    with pytest.raises(PlanMismatchError, match=message):
        planned.lower(*arrays(), **keywords)
    with pytest.raises(PlanMismatchError, match=message):
        autoshard.apply(step, plan())(*arrays(), **keywords)


def test_a_choice_by_position_is_refused() -> None:
    def by_position(params: Any, x: Any, remat: str = "none", parts: int = 1) -> Any:
        return step(params, x, remat=remat, parts=parts)

    with pytest.raises(PlanMismatchError, match=r"`remat` of `step` is passed by position.*remat=full"):
        autoshard.jit(by_position, plan=plan())(*arrays(), "full")
    close(autoshard.jit(by_position, plan=plan())(*arrays()), jax.jit(step)(*arrays()))


def test_apply_binds_them_and_composes() -> None:
    applied = jax.jit(autoshard.apply(step, plan()))
    close(applied(*arrays()), jax.jit(step)(*arrays()))


def test_the_shapes_of_the_results_are_those_under_the_plan(planned: PlannedFunction) -> None:
    value, new = planned.eval_shape(*abstract())
    assert (value.shape, jax.tree.structure(new)) == ((), jax.tree.structure(abstract()[0]))


def test_without_a_plan_a_declared_choice_is_a_static_argument() -> None:
    untuned = autoshard.jit(step, choices={"remat": ("none", "full"), "parts": (1, 4)})
    close(untuned(*arrays(), remat="full", parts=4), jax.jit(step)(*arrays()))


def test_the_error_for_other_shapes_repeats_the_choices(planned: PlannedFunction) -> None:
    params, x = arrays()
    with pytest.raises(PlanMismatchError, match=r"cpu:8 --choice remat=full --choice parts=4 -o PLAN"):
        planned(params, x[:64])


# ---- on the command line

MODEL = """
import autoshard
from tests.autoshard.choice_model import inputs, step as plain

@autoshard.jit(inputs=inputs, choices={"remat": ("none",), "parts": (1, 2)})
def step(params, x, *, remat="none", parts=1):
    return plain(params, x, remat=remat, parts=parts)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "chosen_model", raising=False)
    path = tmp_path / "chosen_model.py"
    path.write_text(MODEL)
    return path


def edit(model: Path, old: str, new: str) -> None:
    assert old in MODEL
    model.write_text(MODEL.replace(old, new))
    sys.modules.pop("chosen_model", None)
    importlib.invalidate_caches()


def test_tune_overrides_by_name_and_check_traces_with_what_was_chosen(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = ["tune", "chosen_model.py:step", "--slice", "cpu:8", "--refine", "none", "--mesh", "native"]
    assert main([*tuned, "--choice", "parts=4", "-o", "plan.json", "--quiet"]) == 0
    assert "\nchosen: remat=none parts=4\n" in capsys.readouterr().out
    written = load_plan("plan.json")
    assert written.choices == {"remat": "none", "parts": 4}
    assert check_plan(written) == []
    edit(model, "x, *, remat", "x, *, checkpoint")
    with pytest.raises(TargetError, match="`step` has no keyword argument `remat`, which is declared"):
        load_target(f"{model}:step")


def test_a_plan_whose_choice_is_gone_is_stale(model: Path) -> None:
    written = tune_target("chosen_model.py:step", slice="cpu:8", refine="none", mesh="native").plan
    edit(
        model,
        MODEL[MODEL.index("@") :],
        "@autoshard.jit(inputs=inputs)\ndef step(params, x):\n    return x\n",
    )
    assert check_plan(written)[0] == "choice `remat` of the plan is no keyword argument of the function"


def test_phases_take_no_choices(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["tune", "chosen_model.py:step", "chosen_model.py:step", "--slice", "cpu:8", "--choice", "parts=1"]
    assert main(two) == 2
    assert "--choice is of one target" in capsys.readouterr().err
