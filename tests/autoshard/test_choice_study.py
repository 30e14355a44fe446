"""The study over combinations: complete, pruned, seeded, resumable, shared."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autoshard.choice_study import Price, price_combinations
from autoshard.choice_trials import ChoiceTrials, Priced, Values
from autoshard.choices import Choices, combinations
from autoshard.studies import open_study

CHOICES: Choices = {"remat": ("none", "dots", "full"), "parts": (1, 2, 4)}
REMAT_SECONDS = {"none": 1.0, "dots": 1.5, "full": 2.5}
MANY: Choices = {"a": tuple(range(6)), "b": tuple(range(6)), "c": (False, True)}
STORAGES = ("sqlite", "journal")


def price(values: Values, worth_seconds: float = float("inf")) -> Priced:
    """No remat in one or two parts does not fit; a part more takes a quarter of a second."""
    remat, parts = values
    assert isinstance(parts, int)
    if remat == "none" and parts < 4:
        return Priced("does not fit", hbm_bytes=100.0 / parts)
    seconds = REMAT_SECONDS[str(remat)] + 0.25 * parts
    if seconds - 0.01 > worth_seconds:
        return Priced("pruned", bound_seconds=seconds - 0.01)
    return Priced("ok", seconds, seconds - 0.01, 10.0 / parts, ("x=8",))


def price_many(values: Values, worth_seconds: float = float("inf")) -> Priced:
    a, b, c = (int(value or 0) for value in values)
    seconds = 1.0 + (a - 3) ** 2 + (b - 4) ** 2 + c
    if seconds > worth_seconds:
        return Priced("pruned", bound_seconds=seconds)
    return Priced("ok", seconds, seconds)


SHARED = [("sqlite", CHOICES, price), ("journal", MANY, price_many)]


def counted(price: Price) -> tuple[Price, list[Values]]:
    """The price, and the combinations that it is asked about."""
    asked: list[Values] = []

    def ask(values: Values, worth_seconds: float) -> Priced:
        asked.append(values)
        return price(values, worth_seconds)

    return ask, asked


def study(
    price: Price = price,
    choices: Choices = CHOICES,
    *,
    storage: str | None = None,
    trials: int = 16,
    wanted: int = 1,
    seed: int = 0,
    program: str = "p",
    name: str = "s",
) -> dict[Values, Priced]:
    return price_combinations(
        choices,
        lambda values: f"{program} {values}",
        price,
        study_name=name,
        trials=trials,
        wanted=wanted,
        seed=seed,
        storage=storage,
    )


def fastest(known: dict[Values, Priced], count: int = 1) -> list[Values]:
    timed = [values for values in known if known[values].seconds is not None]
    return sorted(timed, key=lambda values: known[values].seconds or 0.0)[:count]


def best(known: dict[Values, Priced]) -> list[tuple[Values, Priced]]:
    return [(values, known[values]) for values in fastest(known)]


def test_few_combinations_are_all_tried_in_order() -> None:
    ask, asked = counted(price)
    known = study(ask, wanted=9)
    assert asked == list(known) == list(combinations(CHOICES))
    assert known == {values: price(values) for values in combinations(CHOICES)}
    # 1.5 + 0.25 s, then 1 + 4 * 0.25 s and, tried later, 1.5 + 2 * 0.25 s.
    assert fastest(known, 3) == [("dots", 1), ("none", 4), ("dots", 2)]


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_what_is_pruned_is_not_among_the_wanted(wanted: int) -> None:
    known = study(wanted=wanted)
    assert fastest(known, wanted) == fastest({v: price(v) for v in combinations(CHOICES)}, wanted)
    assert known["full", 4].status == "pruned"  # 3.49 s at best, and 1.75, 2 and 2 s are known
    assert known["none", 1] == Priced("does not fit", hbm_bytes=100.0)


def test_what_has_no_program_is_left_out() -> None:
    known = price_combinations(
        CHOICES, lambda values: None if values[1] == 4 else "p", price, study_name="s", trials=9
    )
    assert list(known) == [values for values in combinations(CHOICES) if values[1] != 4]


@pytest.mark.parametrize("trials", [1, 7, 30])
def test_of_many_as_many_are_tried_as_asked_for_and_each_once(trials: int) -> None:
    ask, asked = counted(price_many)
    known = study(ask, MANY, trials=trials)
    assert asked == list(known)
    assert len(set(asked)) == trials
    assert asked[0] == (0, 0, False)


def test_the_estimator_finds_the_best_of_many_and_the_seed_decides() -> None:
    known = study(price_many, MANY, trials=60)
    assert fastest(known) == [(3, 4, False)]
    assert list(known) == list(study(price_many, MANY, trials=60))
    assert list(known) != list(study(price_many, MANY, trials=60, seed=1))


def test_the_trials_do_not_depend_on_what_was_pruned() -> None:
    def never_pruned(values: Values, _: float) -> Priced:
        return price_many(values)

    assert list(study(never_pruned, MANY, trials=60)) == list(study(price_many, MANY, trials=60))


@pytest.mark.parametrize("kind", STORAGES)
def test_a_stored_study_is_not_priced_again(kind: str, tmp_path: Path) -> None:
    storage = f"{kind}:///{tmp_path / 'tune'}"
    first = study(storage=storage)
    ask, asked = counted(price)
    assert study(ask, storage=storage) == first
    assert asked == []


def test_a_program_that_has_changed_is_priced_again(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    study(storage=storage)
    ask, asked = counted(price)
    study(ask, storage=storage, program="edited")
    assert asked == list(combinations(CHOICES))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_trial_that_was_stopped_is_tried_again(stop: type[BaseException], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"

    def stopped(values: Values, worth_seconds: float) -> Priced:
        if values == ("dots", 2):
            raise stop
        return price(values, worth_seconds)

    with pytest.raises(stop):
        study(stopped, storage=storage)
    ask, asked = counted(price)
    assert study(ask, storage=storage) == study()
    assert asked == list(combinations(CHOICES))[4:]


def killed(storage: str, after: int, choices: Choices, price: Price, name: str = "s") -> None:
    """Search, and kill this process while it prices one more than so many."""
    done: list[Values] = []

    def dying(values: Values, worth_seconds: float) -> Priced:
        if len(done) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(values)
        return price(values, worth_seconds)

    study(dying, choices, storage=storage, trials=20, name=name)


@pytest.mark.parametrize(("kind", "choices", "priced"), SHARED, ids=["sqlite", "journal"])
def test_a_killed_search_goes_on_to_the_same_end(
    kind: str, choices: Choices, priced: Price, tmp_path: Path
) -> None:
    storage = f"{kind}:///{tmp_path / 'tune'}"
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(storage, 5, choices, priced))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    alone = study(priced, choices, trials=20)
    ask, asked = counted(priced)
    again = study(ask, choices, storage=storage, trials=20)
    assert list(again) == list(alone)
    assert best(again) == best(alone)
    assert sorted(map(repr, asked)) == sorted(map(repr, list(alone)[5:]))


def searching(storage: str, choices: Choices, price: Price, name: str = "s") -> None:
    study(price, choices, storage=storage, trials=20, name=name)


@pytest.mark.parametrize(("kind", "choices", "priced"), SHARED, ids=["sqlite", "journal"])
def test_two_processes_in_one_study_end_as_one_alone(
    kind: str, choices: Choices, priced: Price, tmp_path: Path
) -> None:
    storage, context = f"{kind}:///{tmp_path / 'tune'}", multiprocessing.get_context("spawn")
    both = [context.Process(target=searching, args=(storage, choices, priced)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    alone = study(priced, choices, trials=20)
    ask, asked = counted(priced)
    together = study(ask, choices, storage=storage, trials=20)
    assert asked == []
    assert list(together) == list(alone)
    assert best(together) == best(alone)


def test_what_another_has_begun_is_left_for_last(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    dead = open_study("s", storage)
    ChoiceTrials(dead, CHOICES).begin(("none", 2), "p ('none', 2)")
    assert [trial.state for trial in dead.trials] == [TrialState.RUNNING]
    ask, asked = counted(price)
    assert best(study(ask, storage=storage)) == best(study())
    order = list(combinations(CHOICES))
    assert asked == [*order[:1], *order[2:], order[1]]
