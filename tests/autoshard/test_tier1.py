"""Tier 1 in a run: what it says, and that it ranks what no later tier has judged."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard import refining
from autoshard.errors import CompileError
from autoshard.partitioner.check import PropagationCheck
from autoshard.partitioner.worker import PropagationResult
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.tuning import run


def mlp(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return jnp.maximum(x @ up, 0) @ down


SHAPES = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 512), (512, 128)))


def tune(refine: str) -> tuple[TuneResult, str]:
    """Plan for a slice that is not here, so that no later tier answers; the result, and what was said."""
    stream, target = io.StringIO(), Target("", None, mlp, "mlp", SHAPES, {})
    options = Options("v5e:2x2", refine=refine, top_k=3)
    return run(target, options, Progress(stream)), stream.getvalue()


def checks(monkeypatch: pytest.MonkeyPatch, *answers: PropagationResult) -> list[Plan]:
    """Shardy answers this for the candidates in turn; the list fills with the plans that it is asked of."""
    asked: list[Plan] = []

    def check_candidates(plans: list[Plan], *_: object, on_check: Any, **__: object) -> None:
        asked.extend(plans)
        for index in range(len(plans)):
            on_check(index, PropagationCheck(answers[index]))

    monkeypatch.setattr(refining, "check_candidates", check_candidates)
    return asked


def moving(seconds: float) -> PropagationResult:
    return PropagationResult(status="ok", seconds=seconds)


def test_a_plan_that_moves_more_than_it_says_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = checks(monkeypatch, moving(1.0), moving(0.0), moving(2.0))
    result, said = tune("time")
    assert [each.predicted_seconds for each in result.candidates] == [
        asked[index].predicted_seconds for index in (1, 0, 2)
    ]
    assert result.plan.predicted_seconds == asked[1].predicted_seconds
    assert "candidate 1 partitioned: " in said
    assert "candidate 2 partitioned: " not in said


def test_a_candidate_that_shardy_cannot_partition_is_named_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = PropagationResult(status="crashed", detail="ended by SIGABRT")
    checks(monkeypatch, lost, moving(0.0), moving(0.0))
    result, said = tune("time")
    assert "candidate 1 partitioned: crashed: ended by SIGABRT\n" in said
    assert [each.status for each in result.candidates] == ["ok"] * 3


def test_a_function_that_cannot_be_exported_skips_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object) -> None:
        raise CompileError("it holds a callback")

    monkeypatch.setattr(refining, "export_candidate", export)
    _, said = tune("time")
    assert "tier 1 (partitioner) skipped: it holds a callback\n" in said


def test_nobody_is_asked_where_nothing_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = checks(monkeypatch)
    tune("none")
    assert asked == []
