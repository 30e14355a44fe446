import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest

from autoshard import mesh_solving, refinement, refining, topology
from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.cost.torus import MeshAxis
from autoshard.errors import InfeasibleError
from autoshard.judged import Judged, with_estimate, with_measurement
from autoshard.plan import Plan
from autoshard.programs import Program, argument_specs, load
from autoshard.progress import Progress
from autoshard.refinement import compile_limit_seconds, shortfall_bytes
from autoshard.refining import export_candidate, host_memory_reason
from autoshard.search import planner
from autoshard.search.problem import Problem
from autoshard.targets import Target, load_target
from autoshard.timing_bench import TimingResult
from autoshard.topology import mesh_of
from autoshard.trace import Traced, trace
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult, to_json
from autoshard.tuning import run

EXAMPLES = ("palm.py:decode_tiny", "palm.py:prefill_tiny", "llama.py:decode_tiny", "llama.py:prefill_tiny")


def mlp(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    hidden = jnp.maximum(jnp.einsum("be,ef->bf", x, up), 0)
    return jnp.einsum("bf,fe->be", hidden, down)


SHAPES = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 512), (512, 128)))
TARGET = Target("", None, mlp, "mlp", SHAPES, {})


def tune(slice_text: str, target: Target = TARGET, **options: Any) -> tuple[TuneResult, str]:
    """The result, and what was said on the way."""
    stream = io.StringIO()
    return run(target, Options(slice_text, **options), Progress(stream)), stream.getvalue()


@pytest.fixture
def candidate() -> Judged:
    plan = tune("v5e:2x2", refine="none", top_k=1)[0].plan
    return Judged(msgspec.structs.replace(plan, predicted=_with_peak(plan, 3 * 2**30)))


def _with_peak(plan: Plan, nbytes: int) -> Any:
    return msgspec.structs.replace(plan.predicted, hbm_bytes_per_chip=nbytes, hbm_limit_bytes=4 * 2**30)


# ---- the compiled program has the plan's argument shardings


def _planned(example: str, slice_text: str) -> tuple[Traced, Plan]:
    target = load_target(f"examples/{example}")
    plan = tune(slice_text, target, refine="none", top_k=1, mesh="native")[0].plan
    return trace(target.function, target.arguments, **target.jit_options), plan


def _planned_specs(plan: Plan) -> tuple[str, ...]:
    return tuple(argument.spec for argument in plan.arguments.values())


@pytest.mark.parametrize("example", EXAMPLES)
def test_cpu_programs_expect_their_arguments_as_planned(example: str) -> None:
    traced, plan = _planned(example, "cpu:8")
    program = export_candidate(traced, plan, "cpu")
    devices = topology.in_coordinate_order(jax.devices()[:8], (8,))
    loaded = load(program, mesh_of(devices, program.mesh_axes))
    compiled = loaded.jitted.lower(*loaded.arguments).compile()
    assert argument_specs(compiled, loaded.arguments) == _planned_specs(plan)
    assert any("x" in spec for spec in _planned_specs(plan))


@pytest.mark.skipif(not topology.libtpu_available(), reason="needs the package libtpu")
def test_tpu_programs_expect_their_arguments_as_planned() -> None:
    planned = [_planned(example, "v5e:2x2") for example in EXAMPLES]
    programs = [export_candidate(traced, plan, "tpu") for traced, plan in planned]
    for result, (_, plan) in zip(compile_all(programs, "v5e:2x2"), planned, strict=True):
        assert result.status == "ok", result.detail
        assert result.argument_specs == _planned_specs(plan)


@pytest.mark.skipif(not topology.libtpu_available(), reason="needs the package libtpu")
def test_the_compiler_judges_every_candidate() -> None:
    result, said = tune("v5e:2x2", refine="compile", top_k=2)
    assert "compile 1/2: candidate 1" in said
    assert [each.status for each in result.candidates] == ["ok", "ok"]
    estimated = [each.estimated_seconds for each in result.candidates]
    assert estimated == sorted(estimated, key=lambda seconds: seconds or 0.0)
    assert result.plan.estimated_seconds == estimated[0] is not None
    assert result.plan.estimated is not None
    assert result.plan.hbm_bytes_per_chip == result.plan.estimated.hbm_bytes_per_chip
    assert result.plan.skipped == {"measured": "not asked for (--refine)"}


def test_without_libtpu_the_compiler_is_skipped_and_the_command_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topology, "libtpu_available", lambda: False)
    result, said = tune("v5e:2x2", refine="compile", top_k=1)
    command = "pip install 'jax[tpu]'"
    assert "tier 2 (TPU compiler) skipped: the package `libtpu` is not installed" in said
    assert command in said
    assert command in result.plan.skipped["estimated"]
    assert result.plan.estimated is None


def test_devices_that_are_not_attached_are_named() -> None:
    result, said = tune("h100:8", refine="time", top_k=1)
    assert "tier 3 (timing) skipped: h100:8 is not attached to this machine" in said
    assert "--slice local" in result.plan.skipped["measured"]


# ---- timing


def test_the_fastest_measured_wins_and_a_wrong_result_is_disqualified_loudly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second candidate's program is that of another function, with the same arguments and results."""

    def other(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        return 2 * mlp(x, up, down)

    exported = []

    def export(traced: Traced, plan: Plan, platform: str) -> Program:
        exported.append(plan)
        return export_candidate(trace(other, SHAPES) if len(exported) == 2 else traced, plan, platform)

    monkeypatch.setattr(refining, "export_candidate", export)
    result, said = tune("cpu:8", refine="time", top_k=3)
    assert len(exported) == 3
    assert "candidate 2 disqualified: mismatch: " in said
    statuses = [each.status.partition(":")[0] for each in result.candidates]
    assert statuses == ["ok", "ok", "mismatch"]
    wrong = result.candidates[-1]
    assert wrong.measured_seconds is None
    assert wrong.predicted_seconds == exported[1].predicted_seconds
    measured = [each.measured_seconds or 0.0 for each in result.candidates[:2]]
    assert measured == sorted(measured)
    assert result.plan.measured_seconds == measured[0] > 0
    assert result.plan.measured is not None
    assert result.plan.measured.device_kind == "cpu"


def test_attached_devices_are_used_in_this_process() -> None:
    result, _ = tune("local", refine="time", top_k=1, mesh="native")
    assert result.plan.slice == f"cpu:{len(jax.devices())}"
    assert result.plan.measured_seconds is not None


def test_arrays_that_this_host_cannot_hold_are_not_timed() -> None:
    """Eight arrays of 2**45 bytes: 256 TiB."""
    huge = jax.ShapeDtypeStruct((2**45,), jnp.int8)
    reason = host_memory_reason(trace(lambda x: x, (huge,)))
    assert reason is not None
    assert reason.startswith("the function's arrays take 65536.0 GiB, too much")
    assert host_memory_reason(trace(mlp, SHAPES)) is None


# ---- what the tiers say of a candidate


def test_an_estimate_joins_the_plan(candidate: Judged) -> None:
    result = CompileResult(
        status="ok",
        seconds_estimated=4.0,
        hbm_bytes_per_chip=7,
        compute_seconds=1.0,
        filled_seconds=2.0,
        exposed_collective_seconds=1.0,
    )
    found = with_estimate(candidate, result)
    assert (found.status, found.seconds, found.tier) == ("ok", 4.0, 1)
    assert found.plan.estimated is not None
    assert (found.plan.estimated.compute_seconds, found.plan.estimated.ici_seconds) == (3.0, 1.0)


def test_out_of_memory_gives_the_bytes(candidate: Judged) -> None:
    found = with_estimate(candidate, CompileResult(status="out of memory", hbm_bytes_per_chip=5 * 2**30))
    assert found.status == "out of memory: needs 5.00 GiB per chip of 4.00 GiB, 1073741824 bytes over"


def test_a_lost_candidate_keeps_the_first_line_of_the_reason(candidate: Judged) -> None:
    found = with_estimate(candidate, CompileResult(status="crashed", detail="SIGSEGV\nstack"))
    assert found.status == "crashed: SIGSEGV"
    found = with_measurement(candidate, TimingResult(status="timed out"))
    assert (found.status, found.plan) == ("timed out", candidate.plan)


# ---- when nothing fits by the compiler's count


def test_the_shortfall_is_that_of_the_leanest_and_a_margin(candidate: Judged) -> None:
    """3 GiB were predicted and 5 GiB are needed: 2 GiB, and 64 MiB of margin."""
    lean, fat = [
        with_estimate(candidate, CompileResult(status="out of memory", hbm_bytes_per_chip=nbytes * 2**30))
        for nbytes in (5, 6)
    ]
    assert shortfall_bytes([fat, lean]) == 2 * 2**30 + 2**26
    assert shortfall_bytes([fat, candidate]) is None
    unknown = with_estimate(candidate, CompileResult(status="out of memory"))
    assert shortfall_bytes([fat, unknown]) is None


def _compiler(monkeypatch: pytest.MonkeyPatch, *answers: int | None) -> list[int]:
    """A compiler that needs so many bytes per chip in its first, second ... round; None: it fits.

    Returns the number of candidates of each round.
    """
    rounds: list[int] = []

    def compile_candidates(_: Traced, candidates: list[Judged], **options: Any) -> None:
        needed = answers[len(rounds)]
        rounds.append(len(candidates))
        for index, each in enumerate(candidates):
            result = CompileResult(status="out of memory", hbm_bytes_per_chip=needed)
            if needed is None:
                result = CompileResult(status="ok", seconds_estimated=1.0, hbm_bytes_per_chip=1)
            options["on_result"](index, with_estimate(each, result))

    monkeypatch.setattr(refinement, "compile_candidates", compile_candidates)
    monkeypatch.setattr(refinement, "compiler_skip_reason", lambda _: None)
    return rounds


def test_when_nothing_fits_the_search_is_repeated_with_more_memory_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-in compiler asks for 8 GiB where the model predicts about 1 MiB."""
    limits: list[float] = []

    def search_plans(problem: Problem, limit_bytes: float, **options: Any) -> Any:
        limits.append(limit_bytes)
        return planner.search_plans(problem, limit_bytes, **options)

    monkeypatch.setattr(mesh_solving, "search_plans", search_plans)
    rounds = _compiler(monkeypatch, 8 * 2**30, None)
    result, said = tune("v5e:2x2", refine="compile", top_k=2)
    assert len(rounds) == 2
    assert "candidate 1 dropped: out of memory: needs 8.00 GiB" in said
    assert "no candidate that fits; searching again with 8.06 GiB per chip held back" in said
    least = min(each.hbm_bytes_per_chip or 0 for each in result.candidates if each.status != "ok")
    assert least == 8 * 2**30
    assert limits[1] == pytest.approx(limits[0] - 8 * 2**30 - 2**26, abs=2**21)
    assert result.plan.estimated_seconds == 1.0


def test_when_it_never_fits_the_compilers_count_and_a_larger_slice_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = _compiler(monkeypatch, *(17 * 2**30,) * 4)
    with pytest.raises(InfeasibleError) as caught:
        tune("v5e:2x2", refine="compile", top_k=1)
    assert str(caught.value) == (
        "`mlp` does not fit v5e:2x2: by the compiler's count the leanest candidate needs 17.00 GiB per "
        "chip of 15.75 GiB; the smallest v5e slice that fits is v5e:2x4"
    )
    assert len(rounds) <= 4


# ---- the result for programs


def test_json_holds_the_plan_where_none_was_written() -> None:
    result, _ = tune("cpu:8", refine="none", top_k=1, mesh="native")
    facts = json.loads(to_json(result, None))
    assert msgspec.convert(facts["plan"], Plan) == result.plan
    assert json.loads(to_json(result, "p.json"))["plan"] == "p.json"


def test_mesh_axes_of_a_program_are_those_of_the_plan() -> None:
    plan = tune("v4:2x2x2", refine="none", top_k=1)[0].plan
    program = export_candidate(trace(mlp, SHAPES), plan, "tpu")
    assert program.mesh_axes == tuple(MeshAxis(name, 2, dim, 1) for dim, name in enumerate("xyz"))
    assert program.argument_paths == ("x", "up", "down")


# ---- a compiler that does not answer in time


def test_larger_programs_may_compile_longer() -> None:
    assert compile_limit_seconds(200) == 300.0
    assert compile_limit_seconds(20_000) == pytest.approx(1000.0)
    assert compile_limit_seconds(10**7) == 3600.0


def test_a_compiler_that_is_late_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late = CompileResult(status="timed out", detail="no answer within 300 s")

    def compile_candidates(traced: Traced, candidates: list[Judged], **options: Any) -> list[Judged]:
        found = [with_estimate(candidate, late) for candidate in candidates]
        for index, each in enumerate(found):
            options["on_result"](index, each)
        return found

    monkeypatch.setattr(refinement, "compile_candidates", compile_candidates)
    result, said = tune("v5e:2x2", refine="compile", top_k=2)
    assert result.plan.estimated is None
    assert result.plan.skipped["estimated"] == "timed out: no answer within 300 s"
    assert "dropped: timed out" in said
    assert result.plan.predicted_seconds <= min(r.predicted_seconds for r in result.plan.runners_up)
