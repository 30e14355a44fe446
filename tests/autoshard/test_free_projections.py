"""Projections into heads that are left to the compiler: which, and when the plan keeps them so."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import pytest

from autoshard import projection_refinement, refinement, refining
from autoshard.compiled.worker import CompileResult
from autoshard.errors import CompileError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.free_projections import freed_plans, taken_apart
from autoshard.name_patterns import expand_name
from autoshard.partitioner.prices import PropagatedCollective
from autoshard.plan import Plan
from autoshard.plan_records import CollectiveRecord
from autoshard.programs import Program
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.trace import trace
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.tuning import run

X = jax.ShapeDtypeStruct((64, 256), "bfloat16")
W = jax.ShapeDtypeStruct((256, 512), "bfloat16")
GATHER = PropagatedCollective("all-gather", ("x",), 2**20, 1, 1e-5, "", "")
ARGUMENTS = ({"wq": W, "wk": W, "wv": W, "wo": jax.ShapeDtypeStruct((512, 256), "bfloat16")}, X)


def attention(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Only q is taken apart at once: k goes into a product first, v is used whole, too."""
    query = (x @ params["wq"]).reshape(64, 8, 64)
    key = (2 * (x @ params["wk"])).reshape(64, 8, 64)
    value = x @ params["wv"]
    scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", query, key))
    mixed = jnp.einsum("hts,shd->thd", scores, value.reshape(64, 8, 64)).reshape(64, 512)
    return (mixed + value) @ params["wo"]


def tuned(**options: Any) -> tuple[TuneResult, str]:
    """The result of a run, and what it said."""
    said = io.StringIO()
    told = Options("v5e:2x2", **{"refine": "compile", "top_k": 1, **options})
    return run(Target("", None, attention, "attention", ARGUMENTS, {}), told, Progress(said)), said.getvalue()


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[Program]]:
    """A compiler that says one time of the first program, and another of all others."""

    def install(first: float, then: float) -> list[Program]:
        programs: list[Program] = []

        def compile_all(given: list[Program], _: str, *, on_result: Any, on_start: Any, **__: Any) -> None:
            for index, program in enumerate(given):
                programs.append(program)
                on_start(index)
                seconds = first if len(programs) == 1 else then
                status: Literal["ok", "crashed"] = "ok" if seconds > 0 else "crashed"
                result = CompileResult(status=status, seconds_estimated=seconds, hbm_bytes_per_chip=1)
                on_result(index, result)

        monkeypatch.setattr(refining, "compile_all", compile_all)
        monkeypatch.setattr(refinement, "compiler_skip_reason", lambda _: None)
        return programs

    return install


def free(plan: Plan) -> set[str]:
    """The einsums that a plan says nothing of."""
    untold = (each.name for each in plan.einsums if each.result is None and set(each.operands) == {None})
    return {name for pattern in untold for name in expand_name(pattern)}


def test_what_is_taken_apart_at_once() -> None:
    assert taken_apart(trace(attention, ARGUMENTS).equations) == {"wq", "mul"}


def test_the_rest_of_the_plan_stays(compiles: Callable[[float, float], list[Program]]) -> None:
    compiles(1.0, 2.0)
    plan = tuned()[0].plan
    freed, *less = freed_plans(plan, trace(attention, ARGUMENTS).equations)
    assert free(freed) == {"wq"}
    assert not less
    others = [(a, b) for a, b in zip(plan.einsums, freed.einsums, strict=True) if a.name != "wq"]
    assert all(a == b for a, b in others)
    assert freed.tensors == plan.tensors
    assert freed_plans(freed, trace(attention, ARGUMENTS).equations) == ()


def test_projections_that_move_something_are_freed_in_the_first_variant_alone(
    compiles: Callable[[float, float], list[Program]],
) -> None:
    compiles(1.0, 2.0)
    plan = tuned()[0].plan
    gather = CollectiveRecord(kind="all-gather", axes="x", bytes_per_chip=1, seconds=1.0, tensor="params/wq")
    einsums = tuple(
        msgspec.structs.replace(each, collectives=(gather,)) if each.name == "wq" else each
        for each in plan.einsums
    )
    moving = msgspec.structs.replace(plan, einsums=einsums)
    assert [free(each) for each in freed_plans(moving, trace(attention, ARGUMENTS).equations)] == [{"wq"}]


def test_the_faster_program_is_the_plan(compiles: Callable[[float, float], list[Program]]) -> None:
    programs = compiles(2.0, 1.0)
    result, said = tuned()
    assert len(programs) == 2
    assert free(result.plan) == {"wq"}
    assert result.plan.estimated_seconds == 1.0
    assert "projections left to the compiler: estimated 1.00 s, 2.00 s constrained\n" in said
    assert "\nno constraints, sharded so by the partitioner itself: wq\n" in to_text(explain(result.plan))


@pytest.mark.parametrize("then", [2.0, 1.999, 3.0, 0.0])
def test_the_plan_stays_where_little_is_saved(
    then: float, compiles: Callable[[float, float], list[Program]]
) -> None:
    programs = compiles(2.0, then)
    result, said = tuned()
    assert len(programs) == 2
    assert free(result.plan) == set()
    assert result.plan.estimated_seconds == 2.0
    assert "projections left to the compiler: " in said


def test_what_is_pinned_stays_so(compiles: Callable[[float, float], list[Program]]) -> None:
    programs = compiles(2.0, 1.0)
    result, _ = tuned(pins=("einsum:wq=*",))
    assert len(programs) == 1
    assert free(result.plan) == set()


def test_what_shardy_shards_otherwise_is_not_compiled(
    compiles: Callable[[float, float], list[Program]], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = compiles(2.0, 1.0)
    asked = refining.partition_candidates

    def otherwise(*given: Any, on_result: Any, **options: Any) -> None:
        def change(index: int, judged: Any) -> None:
            check = judged.propagated
            result = msgspec.structs.replace(check.result, collectives=(*check.result.collectives, GATHER))
            on_result(index, replace(judged, propagated=replace(check, result=result)))

        asked(*given, on_result=change, **options)

    monkeypatch.setattr(projection_refinement, "partition_candidates", otherwise)
    assert tuned()[0].plan.estimated_seconds == 2.0
    assert len(programs) == 1


def test_what_cannot_be_exported_ends_nothing(
    compiles: Callable[[float, float], list[Program]], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = compiles(2.0, 1.0)

    def refuse(*_: Any, **__: Any) -> None:
        raise CompileError("no export")

    monkeypatch.setattr(projection_refinement, "partition_candidates", refuse)
    assert tuned()[0].plan.estimated_seconds == 2.0
    assert len(programs) == 1
