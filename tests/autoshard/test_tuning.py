import functools
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest

import autoshard
from autoshard import mesh_solving, tuning
from autoshard.errors import CompileError, InfeasibleError, OptionError, SliceError, TargetError
from autoshard.judged import Judged, rank
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.refinement import Refinement
from autoshard.search import planner
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.verdict_records import Estimate, Measurement

B, E, F = 64, 128, 512


def mlp(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    hidden = jnp.maximum(jnp.einsum("be,ef->bf", x, up), 0)
    return jnp.einsum("bf,fe->be", hidden, down)


def shapes(b: int = B, e: int = E, f: int = F) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((b, e), (e, f), (f, e)))


def run(
    *arguments: Any, slice_text: str = "cpu:8", progress: Progress | None = None, **options: Any
) -> TuneResult:
    target = Target("", None, mlp, "mlp", arguments or shapes(), {})
    chosen = Options(slice_text, **{"refine": "none", **options})
    return tuning.run(target, chosen, progress or Progress(quiet=True))


@functools.cache
def small_plan() -> Plan:
    return run(mesh="native").plan


# ---- the plan


def test_the_plan_is_that_of_the_function() -> None:
    plan = autoshard.tune(mlp, *shapes(), slice="cpu:8", refine="none")
    assert {path: record.type for path, record in plan.arguments.items()} == {
        "x": "float32[64,128]",
        "up": "float32[128,512]",
        "down": "float32[512,128]",
    }
    assert (plan.function.name, plan.function.target, plan.slice) == ("mlp", None, "cpu:8")
    assert plan.estimated_seconds is None
    assert plan.measured_seconds is None
    assert plan.skipped == {
        "estimated": "not asked for (--refine)",
        "measured": "not asked for (--refine)",
    }


def test_the_same_search_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        run().plan.save(tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_candidates_are_distinct_and_best_first() -> None:
    result = run(top_k=4)
    seconds = [candidate.predicted_seconds for candidate in result.candidates]
    assert seconds == sorted(seconds)
    assert len({(each.predicted_seconds, each.hbm_bytes_per_chip) for each in result.candidates}) == len(
        seconds
    )
    assert seconds[0] == result.plan.predicted_seconds
    assert result.plan.runners_up == result.candidates[1:]


def test_top_k_limits_the_candidates() -> None:
    assert len(run(top_k=1).candidates) == 1


def test_no_mesh_that_was_searched_can_beat_the_bound() -> None:
    """The bound of a plan covers every mesh that was tried, not only the plan's own."""
    every = [run(mesh="native").plan, run(mesh="auto").plan]
    assert every[1].predicted_seconds <= every[0].predicted_seconds
    assert every[1].predicted.lower_bound_seconds <= every[0].predicted.lower_bound_seconds
    assert all(plan.predicted.lower_bound_seconds <= plan.predicted_seconds for plan in every)


def test_a_decorated_function_brings_its_inputs_and_options() -> None:
    decorated = autoshard.jit(mlp, inputs=shapes, donate_argnames=("x",))
    plan = autoshard.tune(decorated, slice="cpu:8", refine="none", top_k=1)
    assert [record.donated for record in plan.arguments.values()] == [True, False, False]


def test_a_partial_keeps_its_name() -> None:
    plan = autoshard.tune(functools.partial(mlp), *shapes(), slice="cpu:8", refine="none", top_k=1)
    assert plan.function.name == "mlp"


def test_progress_counts_the_meshes() -> None:
    stream = io.StringIO()
    run(progress=Progress(stream))
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("search meshes ")] == [
        "search meshes 1/4: x=8",
        "search meshes 2/4: x0=2 x1=4",
        "search meshes 3/4: x0=4 x1=2",
        "search meshes 4/4: x0=2 x1=2 x2=2",
    ]


def test_what_no_axis_divides_is_replicated_and_said() -> None:
    stream = io.StringIO()
    plan = run(*shapes(5, 3, 11), progress=Progress(stream), padding="never").plan
    assert {record.spec for record in plan.arguments.values()} == {";"}
    assert "no mesh axis of cpu:8 divides a dim of any einsum of `mlp`" in stream.getvalue()
    assert stream.getvalue().count("choose another slice, or allow padding") == 1


def test_what_can_be_padded_is_not_called_replicated() -> None:
    stream = io.StringIO()
    plan = run(*shapes(5, 3, 11), progress=Progress(stream)).plan
    assert {record.spec for record in plan.arguments.values()} == {";"}
    assert "replicated" not in stream.getvalue()


def test_what_an_axis_divides_is_not_called_replicated() -> None:
    stream = io.StringIO()
    run(progress=Progress(stream))
    assert "replicated" not in stream.getvalue()


# ---- what does not fit


def test_the_smallest_slice_that_fits_is_named() -> None:
    """48 GiB of weights: 4 v5e chips hold 63 GiB in all, and 2 hold 31.5 GiB."""
    big = shapes(8, 2**14, 3 * 2**17)
    with pytest.raises(InfeasibleError, match=r"arguments alone take 48\.0 GiB") as caught:
        run(*big, slice_text="v5e:1x2")
    assert "2 chips of 15.75 GiB hold 31.5 GiB in all; the smallest v5e slice that fits is v5e:2x2" in str(
        caught.value
    )


def test_the_smallest_slice_may_be_several_nvlink_domains() -> None:
    """2048 GiB of weights: 31 GPUs of 72e9 bytes hold them."""
    with pytest.raises(InfeasibleError, match=r"the smallest h100 slice that fits is 4\*h100:8"):
        run(*shapes(8, 2**14, 2**24), slice_text="h100:8")


def test_what_fits_no_slice_says_what_to_do() -> None:
    """128 TiB of weights: 1024 GPUs hold 67 TiB."""
    with pytest.raises(InfeasibleError, match="no h100 slice fits; shrink the batch"):
        run(*shapes(8, 2**14, 2**30), slice_text="h100:8")


# ---- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "cost"}, "`objective` is `cost`, expected one of `latency`"),
        ({"refine": "hard"}, "`refine` is `hard`, expected one of `none`, `compile`, `time`, `auto`"),
        ({"mesh": "all"}, "`mesh` is `all`, expected one of `native`, `auto`, `search`"),
        ({"top_k": 0}, "`top_k` is `0`, expected a whole number of at least 1"),
        ({"trials": 0}, "`trials` is `0`, expected a whole number of at least 1"),
        ({"gap": -0.1}, "`gap` is `-0.1`, expected a share of the step time"),
        ({"time_limit_seconds": 0.0}, "`time_limit_seconds` is `0.0`, expected seconds above 0"),
        ({"donate": (0,)}, r"tune\(\) does not know the options \['donate'\]"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        autoshard.tune(mlp, *shapes(), slice="cpu:8", **options)


def test_a_slice_is_checked_before_the_model_is_loaded() -> None:
    with pytest.raises(SliceError, match="'5' is not a slice"):
        tuning.tune_target("no_such_file.py:f", slice="5")


def test_inputs_of_the_decorator_that_fail_are_named() -> None:
    def broken() -> Any:
        raise LookupError("no config")

    with pytest.raises(TargetError, match="`inputs of the decorator` failed: LookupError: no config"):
        autoshard.tune(autoshard.jit(mlp, inputs=broken), slice="cpu:8", refine="none")


# ---- the ranking


def judged(
    predicted: float, estimated: float | None = None, measured: float | None = None, status: str = "ok"
) -> Judged:
    plan = small_plan()
    estimate = (
        None
        if estimated is None
        else Estimate(seconds=estimated, hbm_bytes_per_chip=1, compute_seconds=0.0, ici_seconds=0.0)
    )
    measurement = (
        None
        if measured is None
        else Measurement(seconds=measured, spread_seconds=0.0, runs=3, device_kind="cpu")
    )
    prediction = msgspec.structs.replace(plan.predicted, seconds=predicted)
    return Judged(
        msgspec.structs.replace(plan, predicted=prediction, estimated=estimate, measured=measurement), status
    )


def test_surer_tiers_rank_first_and_the_disqualified_last() -> None:
    wrong = judged(0.1, measured=0.1, status="mismatch")
    slow, fast = judged(1.0, 2.0, 4.0), judged(3.0, 5.0, 3.0)
    estimated, predicted = judged(0.5, 0.5), judged(0.2)
    assert rank([wrong, predicted, estimated, slow, fast]) == [fast, slow, estimated, predicted, wrong]


# ---- Ctrl-C


def test_ctrl_c_before_any_plan_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_solving, "search_plans", _interrupting_after(0))
    with pytest.raises(KeyboardInterrupt):
        run()


def test_ctrl_c_between_meshes_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_solving, "search_plans", _interrupting_after(1))
    result = run(refine="auto")
    assert result.interrupted
    assert [axis.size for axis in result.plan.mesh_axes] == [8]
    assert set(result.plan.skipped.values()) == {"the run was interrupted"}


def _interrupting_after(number: int) -> Any:
    calls = iter(range(number))

    def search_plans(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return planner.search_plans(*arguments, **options)

    return search_plans


def test_ctrl_c_while_refining_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_one(refinement: Refinement) -> None:
        last = refinement.candidates[-1]
        estimate = Estimate(seconds=1.0, hbm_bytes_per_chip=5, compute_seconds=1.0, ici_seconds=0.0)
        refinement.candidates[-1] = Judged(msgspec.structs.replace(last.plan, estimated=estimate))
        raise KeyboardInterrupt

    monkeypatch.setattr(Refinement, "run", compile_one)
    stream = io.StringIO()
    result = run(slice_text="v5e:2x2", refine="compile", top_k=3, progress=Progress(stream))
    assert result.interrupted
    assert "interrupted: keeping the best plan known so far" in stream.getvalue()
    assert result.plan.estimated_seconds == 1.0
    assert result.plan.skipped == {"measured": "the run was interrupted"}


# ---- nothing survives


def test_when_every_candidate_is_lost_the_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(refinement: Refinement) -> None:
        refinement.candidates[:] = [Judged(c.plan, "crashed: SIGSEGV") for c in refinement.candidates]

    monkeypatch.setattr(Refinement, "run", lose)
    with pytest.raises(
        CompileError, match=r"none of the \d candidates of `mlp` survived.*SIGSEGV.*--refine none"
    ):
        run()
