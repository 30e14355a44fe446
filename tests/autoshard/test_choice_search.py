"""Tuning with choices: the best combination and its plan, what is dropped, pruned, resumed, shared."""

import functools
import io
import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import autoshard
from autoshard import choice_search, combination_pricing, refinement
from autoshard.choices import Choices, combination_label
from autoshard.errors import InfeasibleError, PinError, TraceError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.judged import Judged
from autoshard.mesh_solving import require_solved
from autoshard.plan import Plan, load_plan
from autoshard.progress import Progress
from autoshard.trace import Traced
from autoshard.units import format_seconds
from tests.autoshard.choice_model import abstract, step

CHOICES: Choices = {"remat": ("none", "full"), "parts": (1, 2, 4)}


def tune(choices: Choices | None = None, function: Any = step, **options: Any) -> Plan:
    asked = {"slice": "cpu:8", "refine": "none", "mesh": "native", **options}
    return autoshard.tune(function, *abstract(), choices=CHOICES if choices is None else choices, **asked)


@functools.cache
def alone(remat: str, parts: int, **options: Any) -> Plan:
    """The plan of one combination, without a study."""
    fixed = functools.partial(step, remat=remat, parts=parts)
    return autoshard.tune(fixed, *abstract(), slice="cpu:8", refine="none", mesh="native", **options)


@functools.cache
def every_plan() -> dict[tuple[str, int], Plan]:
    return {(remat, parts): alone(remat, parts) for remat in ("none", "full") for parts in (1, 2, 4)}


@functools.cache
def chosen() -> Plan:
    return tune()


def test_the_result_is_that_of_trying_everything() -> None:
    plan, every = chosen(), every_plan()
    best = min(every, key=lambda key: every[key].predicted_seconds)
    assert plan.choices == dict(zip(CHOICES, best, strict=True))
    assert plan.predicted_seconds == every[best].predicted_seconds
    assert plan.function.fingerprint == every[best].function.fingerprint
    assert plan.einsums == every[best].einsums


def test_the_plan_says_what_became_of_every_combination() -> None:
    plan, every = chosen(), every_plan()
    assert len(plan.combinations) == len(every)
    assert {each.status for each in plan.combinations} == {"ok"}
    found = [
        (*each.values.values(), each.predicted_seconds, each.hbm_bytes_per_chip) for each in plan.combinations
    ]
    alone = [(*key, one.predicted_seconds, one.hbm_bytes_per_chip) for key, one in every.items()]
    assert found == sorted(alone, key=lambda row: row[2])


def test_the_slow_ones_are_pruned_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_search, "_PRICED", 2)
    said = io.StringIO()
    plan, every = tune(progress=Progress(said)), every_plan()
    assert plan.combinations[:2] == chosen().combinations[:2]
    assert {each.status for each in plan.combinations[2:]} == {"slower than the 2 fastest"}
    assert re.search(r"remat=full parts=4: pruned: no plan is faster than [\d.]+ ms", said.getvalue())
    assert plan.predicted_seconds == min(one.predicted_seconds for one in every.values())


def test_remat_and_parts_save_memory_by_the_model() -> None:
    every = every_plan()
    for key, lean in [(("none", 1), ("full", 1)), (("none", 1), ("none", 4)), (("full", 1), ("full", 4))]:
        assert every[lean].hbm_bytes_per_chip < every[key].hbm_bytes_per_chip


def test_where_memory_is_short_the_best_that_fits_is_chosen() -> None:
    """The limit lies between the lean combinations and the fastest."""
    every = every_plan()
    leanest = min(plan.hbm_bytes_per_chip for plan in every.values())
    limit = float((leanest + chosen().hbm_bytes_per_chip) // 2)
    found: dict[tuple[str, int], Plan] = {}
    for key in every:
        try:
            found[key] = alone(*key, hbm_limit_bytes=limit)
        except InfeasibleError:
            continue
    plan = tune(hbm_limit_bytes=limit)
    best = min(found, key=lambda key: found[key].predicted_seconds)
    assert plan.choices == dict(zip(CHOICES, best, strict=True))
    assert plan.choices != chosen().choices
    assert plan.predicted_seconds == found[best].predicted_seconds
    assert plan.hbm_bytes_per_chip <= limit


def test_where_nothing_fits_the_leanest_is_named() -> None:
    with pytest.raises(InfeasibleError, match=r"that is with remat=full parts=4, which needs least memory"):
        tune(hbm_limit_bytes=1000.0)


def test_runners_up_are_of_other_combinations_too() -> None:
    combinations = {each.summary.partition(":")[0] for each in chosen().runners_up}
    assert len(combinations - {combination_label(chosen().choices)}) == 2


def test_what_cannot_be_traced_is_named_and_dropped() -> None:
    said = io.StringIO()
    plan = tune({"parts": (1, 3)}, progress=Progress(said))
    assert plan.choices == {"parts": 1}
    assert "parts=3 is dropped: cannot be traced: " in said.getvalue()
    assert "4096 rows do not split into 3" in plan.combinations[-1].status
    with pytest.raises(
        TraceError, match=r"none of 2 combinations .*`step` can be planned; parts=3 cannot be"
    ):
        tune({"parts": (3, 5)})


def test_a_choice_may_not_change_what_the_function_gives() -> None:
    def double(params: Any, x: Any, *, twice: bool = False) -> Any:
        value, new = step(params, x)
        return (value, value, new) if twice else (value, new)

    plan = tune({"twice": (False, True)}, double)
    assert plan.choices == {"twice": False}
    assert (
        plan.combinations[-1].status
        == "takes or gives other arrays than twice=False: only the program may change"
    )


def test_a_pin_that_no_combination_can_keep_is_refused() -> None:
    with pytest.raises(PinError, match="nothing"):
        tune({"parts": (1, 2)}, pins=("nothing=x",))


def test_choices_of_the_decorator_are_overridden_by_name() -> None:
    declared = autoshard.jit(step, choices={"remat": ("full",), "parts": (2, 4)})
    assert tune({"parts": (4,)}, declared).choices == {"remat": "full", "parts": 4}


def test_the_explanation_has_the_choices_and_their_times() -> None:
    text = to_text(explain(chosen()))
    assert f"\nchosen: {combination_label(chosen().choices)}\n" in text
    table = text[text.index("\nchoices ") :].splitlines()[2:8]
    times = [format_seconds(each.predicted_seconds) for each in chosen().combinations]
    assert all(time in line for time, line in zip(times, table, strict=True))


def test_the_plan_is_a_value(tmp_path: Path) -> None:
    chosen().save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == chosen()


def test_results_are_compared_with_those_of_the_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[str, str]] = []

    def time_candidates(traced: Traced, candidates: list[Judged], **_: Any) -> list[Judged]:
        pairs.extend((traced.fingerprint(), each.plan.function.fingerprint) for each in candidates)
        return candidates

    monkeypatch.setattr(refinement, "time_candidates", time_candidates)
    plan = tune({"remat": ("none", "full")}, refine="time", top_k=2)
    assert plan.skipped == {"estimated": "not asked for (--refine)"}
    assert len({own for own, _ in pairs}) == 2
    assert all(own == planned for own, planned in pairs)


def test_ctrl_c_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return require_solved(*arguments, **options)

    monkeypatch.setattr(combination_pricing, "require_solved", interrupted)
    plan, first = tune(), [{"remat": "none", "parts": parts} for parts in (1, 2)]
    best = next(each for each in chosen().combinations if each.values in first)
    assert plan.choices == best.values
    assert len(plan.combinations) == 2
    assert set(plan.skipped.values()) == {"the run was interrupted"}


# ---- one study, several processes


def tune_into(storage: str, path: str, dies_after: int | None = None) -> None:
    """Tune, and write the plan; or kill this process when so many combinations are priced."""
    asked: list[Any] = []

    def dying(*arguments: Any, **options: Any) -> Any:
        if len(asked) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        asked.append(arguments)
        return require_solved(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combination_pricing, "require_solved", dying)
        tune(storage=storage).save(path)


def test_a_killed_run_goes_on_to_the_same_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    process = multiprocessing.get_context("spawn").Process(target=tune_into, args=(storage, "", 2))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    asked: list[Any] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return require_solved(*arguments, **options)

    monkeypatch.setattr(combination_pricing, "require_solved", counting)
    assert tune(storage=storage) == chosen()
    priced = [arguments for arguments in asked if len(arguments) == 4]
    assert len(priced) == 4  # two of six were priced before; the rest of the calls are for runners-up


def test_two_processes_share_a_study_and_end_with_the_plan_of_one(tmp_path: Path) -> None:
    storage, context = f"sqlite:///{tmp_path / 'tune.db'}", multiprocessing.get_context("spawn")
    paths = [str(tmp_path / f"{number}.json") for number in range(2)]
    both = [context.Process(target=tune_into, args=(storage, path)) for path in paths]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    assert [load_plan(path) for path in paths] == [chosen()] * 2
