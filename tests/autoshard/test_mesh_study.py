import multiprocessing
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.errors import AutoshardError
from autoshard.mesh_study import Score, Tried, best_meshes, mesh_label, meshes_to_try
from autoshard.search.errors import NotWorthError
from autoshard.studies import open_study

MESHES = meshes_to_try(parse_slice("cpu:8"), "search")
STORAGES = ("sqlite", "journal")
SECONDS = {"x=8": 3.0, "x0=2 x1=4": 1.0, "x0=4 x1=2": 2.0, "x0=2 x1=2 x2=2": 1.0}


def price(mesh: TorusMesh, worth_seconds: float = float("inf")) -> tuple[float, float]:
    del worth_seconds
    seconds = SECONDS[mesh_label(mesh)]
    return seconds, seconds / 2


def counted(score: Score) -> tuple[Score, list[str]]:
    """The score, and the labels of the meshes that it is asked about."""
    asked: list[str] = []

    def ask(mesh: TorusMesh, worth_seconds: float) -> tuple[float, float] | None:
        asked.append(mesh_label(mesh))
        return score(mesh, worth_seconds)

    return ask, asked


def pruning(mesh: TorusMesh, worth_seconds: float) -> tuple[float, float]:
    """The price, as a search finds it that ends where the lower bound says that it is not worth it."""
    seconds, bound_seconds = price(mesh)
    if bound_seconds > worth_seconds:
        raise NotWorthError(bound_seconds, worth_seconds)
    return seconds, bound_seconds


def study(
    score: Score = price,
    *,
    meshes: Sequence[TorusMesh] = MESHES,
    storage: str | None = None,
    trials: int = 16,
    wanted: int = 1,
    on_pruned: Callable[[str], None] = lambda _: None,
    name: str = "s",
) -> list[Tried]:
    return best_meshes(
        meshes, score, study_name=name, trials=trials, storage=storage, wanted=wanted, on_pruned=on_pruned
    )


def states(storage: str) -> list[tuple[str, TrialState]]:
    """What a stored study has tried, in the order of the trials."""
    return [(trial.params["mesh"], trial.state) for trial in open_study("s", storage).trials]


@pytest.mark.parametrize(
    ("slice_name", "choice", "labels"),
    [
        ("cpu:8", "native", {"x=8"}),
        ("cpu:8", "auto", set(SECONDS)),
        ("v4:4x4x4", "native", {"x=4 y=4 z=4"}),
        ("v4:4x4x4", "auto", {"x=4 y=4 z=4"}),
        ("v5e:2x2", "auto", {"x=2 y=2"}),
    ],
)
def test_meshes_to_try(slice_name: str, choice: str, labels: set[str]) -> None:
    found = [mesh_label(mesh) for mesh in meshes_to_try(parse_slice(slice_name), choice)]
    assert set(found) == labels
    assert len(found) == len(labels)


def test_the_native_mesh_comes_first_and_search_goes_up_to_four_axes() -> None:
    found = meshes_to_try(parse_slice("v4:4x4x4"), "search")
    assert mesh_label(found[0]) == "x=4 y=4 z=4"
    assert {len(mesh.axes) for mesh in found} == {3, 4}


def test_best_first_and_among_equals_in_the_order_of_the_choices() -> None:
    tried = study()
    assert [mesh_label(each.mesh) for each in tried] == ["x0=2 x1=4", "x0=2 x1=2 x2=2", "x0=4 x1=2", "x=8"]
    assert [(each.seconds, each.bound_seconds) for each in tried] == [(1, 0.5), (1, 0.5), (2, 1), (3, 1.5)]


def test_a_mesh_that_cannot_hold_the_program_is_left_out() -> None:
    tried = study(lambda mesh, _: None if mesh_label(mesh) == "x0=2 x1=4" else price(mesh))
    assert [mesh_label(each.mesh) for each in tried] == ["x0=2 x1=2 x2=2", "x0=4 x1=2", "x=8"]
    assert study(lambda mesh, _: None) == []


def test_trials_limits_how_many_are_tried() -> None:
    score, asked = counted(price)
    assert len(study(score, trials=2)) == 2
    assert asked == ["x=8", "x0=2 x1=4"]


@pytest.mark.parametrize("kind", STORAGES)
def test_a_stored_study_is_not_priced_again(kind: str, tmp_path: Path) -> None:
    storage = f"{kind}:///{tmp_path / 'tune'}"
    first = study(storage=storage)
    score, asked = counted(price)
    assert study(score, storage=storage) == first
    assert asked == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_trial_that_was_stopped_is_tried_again(stop: type[BaseException], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"

    def stopped(mesh: TorusMesh, _: float) -> tuple[float, float]:
        if mesh_label(mesh) == "x0=2 x1=4":
            raise stop
        return price(mesh)

    with pytest.raises(stop):
        study(stopped, storage=storage)
    score, asked = counted(price)
    assert study(score, storage=storage) == study()
    assert asked == ["x0=2 x1=4", "x0=4 x1=2", "x0=2 x1=2 x2=2"]


@pytest.mark.parametrize("kind", STORAGES)
def test_a_trial_that_another_process_died_over_is_tried_last(kind: str, tmp_path: Path) -> None:
    storage = f"{kind}:///{tmp_path / 'tune'}"
    dead = open_study("s", storage)
    labels = [mesh_label(mesh) for mesh in MESHES]
    dead.sampler = optuna.samplers.GridSampler({"mesh": ["x=8"]})
    dead.ask({"mesh": optuna.distributions.CategoricalDistribution(labels)})
    assert [trial.state for trial in dead.trials] == [TrialState.RUNNING]
    score, asked = counted(price)
    assert study(score, storage=storage) == study()
    assert asked == [*labels[1:], "x=8"]


def test_a_mesh_that_cannot_be_among_the_best_is_pruned_and_reported(tmp_path: Path) -> None:
    # Cut last is fastest: 1 s twice, then 2 s whose bound is 1 s, then 3 s whose bound is 1.5 s > 1 s.
    storage, said = f"sqlite:///{tmp_path / 'tune.db'}", list[str]()
    tried = study(pruning, meshes=MESHES[::-1], storage=storage, on_pruned=said.append)
    assert [mesh_label(each.mesh) for each in tried] == ["x0=2 x1=2 x2=2", "x0=2 x1=4", "x0=4 x1=2"]
    assert said == ["mesh x=8 is pruned: no plan on it is faster than 1.50 s, and 1.00 s are known"]
    assert states(storage)[-1] == ("x=8", TrialState.PRUNED)
    score, asked = counted(pruning)
    assert study(score, meshes=MESHES[::-1], storage=storage) == tried
    assert asked == []


def test_as_many_meshes_as_are_wanted_are_never_pruned() -> None:
    # The third best takes 2 s: above it no bound lies.
    tried = study(pruning, meshes=MESHES[::-1], wanted=3)
    assert len(tried) == 4


@pytest.mark.parametrize("wanted", [1, 2])
def test_whichever_are_tried_first_the_wanted_ones_are_the_same(wanted: int) -> None:
    best = {
        tuple(sorted(each.seconds for each in study(pruning, meshes=order, wanted=wanted)[:wanted]))
        for order in permutations(MESHES)
    }
    assert best == {(1.0,) * wanted}


@pytest.mark.parametrize("kind", STORAGES)
def test_two_processes_in_one_study_try_each_mesh(kind: str, tmp_path: Path) -> None:
    storage, context = f"{kind}:///{tmp_path / 'tune'}", multiprocessing.get_context("spawn")
    both = [context.Process(target=study, kwargs={"storage": storage}) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert {label for label, state in states(storage) if state is TrialState.COMPLETE} == set(SECONDS)
    score, asked = counted(price)
    assert study(score, storage=storage) == study()
    assert asked == []


def test_a_storage_that_cannot_be_opened_says_what_is_expected() -> None:
    with pytest.raises(AutoshardError, match=r"`nonsense` cannot be opened.*such as sqlite:///tune.db"):
        study(storage="nonsense")
