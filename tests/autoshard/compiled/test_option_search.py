"""The search for compiler options: its trials on made-up times, and whole runs with a stand-in compiler."""

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard import refinement, refining
from autoshard.compiled.option_search import OptionTrial, search_options
from autoshard.compiled.options import (
    OptionChoice,
    default_options,
    describe_options,
    options_of,
    searched_choices,
)
from autoshard.compiled.verdict_study import Verdict, VerdictStudy
from autoshard.compiled.worker import CompileResult
from autoshard.cost.slices import parse_slice
from autoshard.errors import OptionError
from autoshard.progress import Progress
from autoshard.studies import open_study
from autoshard.targets import Target
from autoshard.topology import libtpu_available
from autoshard.tune_options import Options
from autoshard.tune_result import TuneResult
from autoshard.tuning import run

needs_compiler = pytest.mark.skipif(
    not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu"
)

CHOICES = (
    OptionChoice(("memory",), (None, "big", "huge")),
    OptionChoice(("loops",), ("never", None)),
    OptionChoice(("gathers", "fused"), ("true", "false")),
    OptionChoice(("overlap",), (None, "false")),
)
DEFAULT = {"loops": "never", "gathers": "true", "fused": "true"}
VMEM = "xla_tpu_scoped_vmem_limit_kib"


def price(options: Mapping[str, str]) -> Verdict:
    """10 s by default; `big` takes 2 off, loops 1; without gathers it is slower; `huge` does not fit."""
    if options.get("memory") == "huge":
        return Verdict(None, "out of memory")
    seconds = (
        10.0 - 2 * ("memory" in options) - ("loops" not in options) + 3 * (options["gathers"] == "false")
    )
    return Verdict(seconds)


Price = Callable[[Mapping[str, str]], Verdict]


def search(
    price: Price = price, *, backwards: bool = False, **given: Any
) -> tuple[OptionTrial, list[OptionTrial]]:
    """The fastest trial, and all that were judged."""
    asked: list[OptionTrial] = []

    def judge(trials: Sequence[OptionTrial], on_verdict: Callable[[int, Verdict], None]) -> None:
        asked.extend(trials)
        for index in sorted(range(len(trials)), reverse=backwards):
            on_verdict(index, price(trials[index].options))

    told = {"study_name": "s", "trials": 12, **given}
    return search_options(CHOICES, price(DEFAULT), judge, **told), asked


# ---- the trials


@pytest.mark.parametrize(
    "slice_name", ["v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
)
def test_the_first_values_of_the_choices_are_the_default_options(slice_name: str) -> None:
    slice_ = parse_slice(slice_name)
    choices = searched_choices(slice_)
    assert options_of(choices, [choice.values[0] for choice in choices]) == default_options(slice_)
    assert all(len(set(choice.values)) == len(choice.values) > 1 for choice in choices)


@pytest.mark.parametrize(
    ("slice_name", "limits"),
    [
        ("v4:2x2x1", None),
        ("v5p:2x2x1", (None, "32768")),
        ("v5e:2x2", (None, "65536", "98304", "32768")),
        ("v6e:2x2", (None, "65536", "98304", "32768")),
    ],
)
def test_no_limit_is_above_what_a_core_has(slice_name: str, limits: tuple[str | None, ...] | None) -> None:
    choices = {choice.name: choice.values for choice in searched_choices(parse_slice(slice_name))}
    assert choices.pop(VMEM, None) == limits
    assert "xla_tpu_enable_latency_hiding_scheduler" in choices


def test_each_choice_is_changed_alone_and_then_what_helped_together() -> None:
    best, asked = search(trials=7)
    assert [(trial.number, describe_options(trial.options, DEFAULT)) for trial in asked] == [
        (2, "memory=big"),
        (3, "memory=huge"),
        (4, "loops left to the compiler"),
        (5, "gathers=false, fused=false"),
        (6, "overlap=false"),
        (7, "memory=big, loops left to the compiler"),
    ]
    assert best == OptionTrial(7, {"memory": "big", "gathers": "true", "fused": "true"})


def test_the_default_options_win_where_nothing_is_faster_and_are_not_judged_again() -> None:
    best, asked = search(lambda options: Verdict(1.0 if options == DEFAULT else 1.5))
    assert best == OptionTrial(1, DEFAULT)
    assert DEFAULT not in [trial.options for trial in asked]


def test_among_equals_the_fewest_changes_win() -> None:
    assert search(lambda _: Verdict(1.0))[0] == OptionTrial(1, DEFAULT)
    best, _ = search(lambda options: Verdict(1.0 if options.get("memory") == "big" else 2.0))
    assert best == OptionTrial(2, {**DEFAULT, "memory": "big"})


def test_where_all_others_are_lost_the_default_options_win() -> None:
    best, asked = search(lambda options: Verdict(1.0) if options == DEFAULT else Verdict(None, "crashed"))
    assert best.options == DEFAULT
    assert len(asked) == 11


@pytest.mark.parametrize("trials", [1, 3, 9, 12])
def test_there_are_as_many_trials_as_asked_for_and_no_two_alike(trials: int) -> None:
    _, asked = search(trials=trials)
    assert len(asked) == trials - 1
    assert len({str(trial.options) for trial in asked}) == trials - 1


def test_it_ends_when_everything_was_tried() -> None:
    best, asked = search(trials=100)
    assert len(asked) <= 3 * 2 * 2 * 2 - 1
    assert price(best.options).seconds == 7.0


def test_the_seed_decides_and_who_answers_first_does_not() -> None:
    assert search(seed=3) == search(seed=3) == search(seed=3, backwards=True)
    assert any(search(seed=seed)[1] != search(seed=3)[1] for seed in range(8))


def test_a_stored_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    best, asked = search()
    _, first = search(trials=9, storage=storage)
    again, rest = search(storage=storage)
    assert (again, first + rest) == (best, asked)
    assert search(storage=storage) == (best, [])


STORAGES = ("sqlite", "journal")


def killed(storage: str, after: int) -> None:
    """Search, and kill this process when so many options are judged."""
    count = 0

    def price_or_die(options: Mapping[str, str]) -> Verdict:
        nonlocal count
        count += 1
        if count > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return price(options)

    search(price_or_die, storage=storage)


@pytest.mark.parametrize(("after", "kind"), [(4, "sqlite"), (9, "journal")])
def test_a_killed_search_keeps_what_is_judged(after: int, kind: str, tmp_path: Path) -> None:
    """The default options and three that are changed alone; or those up to one of two that are proposed."""
    storage = f"{kind}:///{tmp_path / 'tune'}"
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(storage, after))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    best, asked = search()
    again, rest = search(storage=storage)
    assert again == best
    assert sorted(trial.number for trial in rest) == list(range(after + 1, 13))
    assert all(trial in asked for trial in rest)
    assert search(storage=storage) == (best, [])


def searched(storage: str, barrier: Any, results: Any) -> None:
    """Search with another process, both at once from the start on."""

    def slowly(options: Mapping[str, str]) -> Verdict:
        time.sleep(0.02)
        return price(options)

    barrier.wait(60)
    best, asked = search(slowly, storage=storage, at_once=1)
    results.put((best, len(asked)))


@pytest.mark.parametrize("kind", STORAGES)
def test_two_processes_share_the_work_and_end_as_one_alone(kind: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results, storage = context.Barrier(2), context.Queue(), f"{kind}:///{tmp_path / 'tune'}"
    both = [context.Process(target=searched, args=(storage, barrier, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    alone, asked = search()
    assert [best for best, _ in found] == [alone, alone]
    assert sum(count for _, count in found) < 2 * len(asked)
    assert search(storage=storage) == (alone, [])


def test_what_another_has_begun_is_left_for_last(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    _, asked = search()
    other = VerdictStudy(open_study("s", storage), CHOICES)
    other.begin(("big", "never", "true", None))
    _, rest = search(storage=storage, at_once=1)
    assert [trial.number for trial in rest[:5]] == [3, 4, 5, 6, 2]
    assert sorted(rest, key=lambda trial: trial.number) == asked


def test_what_is_never_judged_ends_nothing() -> None:
    def silent(trials: Sequence[OptionTrial], on_verdict: Callable[[int, Verdict], None]) -> None:
        for index, trial in enumerate(trials):
            if "memory" not in trial.options:
                on_verdict(index, price(trial.options))

    best = search_options(CHOICES, price(DEFAULT), silent, study_name="s", trials=12, at_once=2)
    assert best.options == {"gathers": "true", "fused": "true"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [2, 8])
def test_a_stopped_search_keeps_what_is_judged(stop: type[BaseException], after: int, tmp_path: Path) -> None:
    """The first to go are among those that are changed alone, the ninth is one of two proposed ones."""
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    kept: list[Mapping[str, str]] = []

    def stopping(options: Mapping[str, str]) -> Verdict:
        if len(kept) == after:
            raise stop
        kept.append(options)
        return price(options)

    with pytest.raises(stop):
        search(stopping, storage=storage, trials=10)
    best, rest = search(storage=storage, trials=10)
    assert best.options == {"memory": "big", "gathers": "true", "fused": "true"}
    assert [trial.number for trial in rest] == list(range(after + 1, 11))
    assert not [trial for trial in rest if trial.options in kept]


# ---- whole runs


def mlp(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    hidden = jnp.maximum(jnp.einsum("be,ef->bf", x, up), 0)
    return jnp.einsum("bf,fe->be", hidden, down)


SHAPES = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 512), (512, 128)))
Compile = Callable[[dict[str, str], int], CompileResult]


def fine(seconds: float) -> CompileResult:
    """An answer; the second argument lies in memory the other way round where it takes 2 s."""
    order = (1, 0) if seconds == 2.0 else (0, 1)
    return CompileResult(
        status="ok",
        seconds_estimated=seconds,
        hbm_bytes_per_chip=int(seconds * 100),
        compute_seconds=seconds,
        filled_seconds=0.0,
        exposed_collective_seconds=0.0,
        argument_orders=((0, 1), order, (0, 1)),
        result_orders=((0, 1),),
    )


def scripted(options: dict[str, str], candidate: int) -> CompileResult:
    """3 s by default, 2 s with 64 MiB of on-chip memory; three options end badly."""
    if options.get(VMEM) == "98304":
        return CompileResult(status="out of memory", detail="too much", hbm_bytes_per_chip=2**40)
    if "xla_tpu_enable_latency_hiding_scheduler" in options:
        return CompileResult(status="crashed", detail="ended by SIGABRT")
    if (name := "xla_tpu_overlap_compute_collective_tc") in options:
        return CompileResult(status="failed", detail=f"INVALID_ARGUMENT: No such compile option: '{name}'")
    return fine((2.0 if options.get(VMEM) == "65536" else 3.0) + candidate)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Compile], list[dict[str, str]]]:
    """Puts a stand-in in the compiler's place; gives the options of every compile."""

    def stand_in(answer: Compile) -> list[dict[str, str]]:
        asked: list[dict[str, str]] = []

        def compile_all(programs: Any, slice_: str, *, on_start: Any, on_result: Any, **_: Any) -> None:
            for index, program in enumerate(programs):
                on_start(index)
                asked.append(program.compiler_options)
                same = len(programs) > 1 and all(
                    each.compiler_options == program.compiler_options for each in programs
                )
                on_result(index, answer(program.compiler_options, index if same else 0))

        monkeypatch.setattr(refining, "compile_all", compile_all)
        monkeypatch.setattr(refinement, "compiler_skip_reason", lambda _: None)
        return asked

    return stand_in


Compiles = Callable[[Compile], list[dict[str, str]]]


def tune(**options: Any) -> tuple[TuneResult, str]:
    """The result, and what was said on the way."""
    said = io.StringIO()
    told = Options("v5e:2x2", **{"refine": "compile", "top_k": 1, "compile_options": "search", **options})
    return run(Target("", None, mlp, "mlp", SHAPES, {}), told, Progress(said)), said.getvalue()


TPU = default_options(parse_slice("v5e:2x2"))


def test_the_winner_is_in_the_plan_with_what_the_compiler_says_of_it(compiles: Compiles) -> None:
    asked = compiles(scripted)
    result, said = tune()
    plan = result.plan
    assert asked[0] == TPU
    assert len(asked) == 12
    assert plan.compiler_options == {**TPU, VMEM: "65536"}
    assert (plan.estimated_seconds, plan.hbm_bytes_per_chip) == (2.0, 200)
    assert [argument.order for argument in plan.arguments.values()] == [None, "1,0", None]
    assert f"compile options: {VMEM}=65536: estimated 2.00 s, 3.00 s by default" in said
    assert f"compile options, trial 2: {VMEM}=65536: estimated 2.00 s\n" in said


def test_lost_trials_are_named_and_end_nothing(compiles: Compiles) -> None:
    compiles(scripted)
    _, said = tune()
    assert f"{VMEM}=98304: pruned: out of memory: needs 1024.00 GiB per chip" in said
    assert "xla_tpu_enable_latency_hiding_scheduler=false: pruned: crashed: ended by SIGABRT\n" in said
    assert (
        "xla_tpu_overlap_compute_collective_tc=false: pruned: the installed libtpu does not know the option "
        "`xla_tpu_overlap_compute_collective_tc`\n"
    ) in said


def test_where_nothing_is_faster_the_plan_is_that_of_a_run_without_a_search(compiles: Compiles) -> None:
    compiles(lambda options, _: fine(2.0 if options == TPU else 2.5))
    searched, said = tune()
    assert searched.plan == tune(compile_options="default")[0].plan
    assert "no compile options are estimated faster than the default ones" in said


def test_what_wins_is_tried_on_the_other_candidates(compiles: Compiles) -> None:
    asked = compiles(scripted)
    result, said = tune(top_k=2)
    assert asked[-1] == result.plan.compiler_options == {**TPU, VMEM: "65536"}
    assert [each.estimated_seconds for each in result.candidates] == [2.0, 2.0]
    assert "compile under these options 1/1: candidate 2" in said


def test_ctrl_c_keeps_the_best_so_far(compiles: Compiles) -> None:
    def interrupted(options: dict[str, str], candidate: int) -> CompileResult:
        if options.get(VMEM) == "98304":
            raise KeyboardInterrupt
        return scripted(options, candidate)

    compiles(interrupted)
    result, _ = tune()
    assert result.interrupted
    assert result.plan.compiler_options == {**TPU, VMEM: "65536"}
    assert result.plan.estimated_seconds == 2.0


def test_a_stored_search_compiles_the_default_and_the_winner_alone(
    compiles: Compiles, tmp_path: Path
) -> None:
    asked = compiles(scripted)
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    first = tune(storage=storage)[0].plan
    del asked[:]
    again, said = tune(storage=storage)
    assert again.plan == first
    assert asked == [TPU, first.compiler_options]
    assert f"compile options, trial 2: {VMEM}=65536: estimated 2.00 s\n" in said


def test_the_same_run_gives_the_same_plan_whoever_compiles(compiles: Compiles) -> None:
    asked = compiles(scripted)
    plans = []
    for _ in range(2):
        plans.append((tune(seed=5, option_trials=14)[0].plan, list(asked)))
        del asked[:]
    assert plans[0] == plans[1]


def test_none_compiles_without_any_of_our_options(compiles: Compiles) -> None:
    asked = compiles(scripted)
    result, _ = tune(compile_options="none")
    assert asked == [{}]
    assert result.plan.compiler_options == {}


def test_the_function_takes_the_same_options(compiles: Compiles) -> None:
    compiles(scripted)
    plan = autoshard.tune(
        mlp, *SHAPES, slice="v5e:2x2", refine="compile", top_k=1, compile_options="search", option_trials=2
    )
    assert plan.compiler_options == {**TPU, VMEM: "65536"}


def test_a_slice_that_the_compiler_does_not_know_is_not_searched() -> None:
    said = io.StringIO()
    options = Options("cpu:8", refine="compile", top_k=1, compile_options="search")
    run(Target("", None, mlp, "mlp", SHAPES, {}), options, Progress(said))
    assert "compile options are not searched: tier 2 judges them\n" in said.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile_options": "best"}, "`compile_options` is `best`, expected one of `default`, `none`"),
        ({"compile_options": "search", "refine": "time"}, "`refine` is `time`, expected `compile` or `auto`"),
        ({"option_trials": 0}, "`option_trials` is `0`, expected a whole number of at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Options("v5e:2x2", **options)


@needs_compiler
def test_an_option_that_the_compiler_does_not_know_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, *_ = (c for c in searched_choices(parse_slice("v5e:2x2")) if "windowed_einsum" in c.name)
    choices = (windows, OptionChoice(("xla_no_such_option",), (None, "1")))
    monkeypatch.setattr("autoshard.option_refinement.searched_choices", lambda _: choices)
    result, said = tune(option_trials=3)
    assert "pruned: the installed libtpu does not know the option `xla_no_such_option`\n" in said
    assert said.count("pruned: ") == 1
    assert said.count("compile options, trial ") == 2
    assert result.plan.estimated_seconds is not None
