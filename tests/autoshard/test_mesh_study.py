from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.errors import AutoshardError
from autoshard.mesh_study import Score, Tried, best_meshes, mesh_label, meshes_to_try

MESHES = meshes_to_try(parse_slice("cpu:8"), "search")
SECONDS = {"x=8": 3.0, "x0=2 x1=4": 1.0, "x0=4 x1=2": 2.0, "x0=2 x1=2 x2=2": 1.0}


def price(mesh: TorusMesh) -> tuple[float, float]:
    seconds = SECONDS[mesh_label(mesh)]
    return seconds, seconds / 2


def counted(score: Score) -> tuple[Score, list[str]]:
    """The score, and the labels of the meshes that it is asked about."""
    asked: list[str] = []

    def ask(mesh: TorusMesh) -> tuple[float, float] | None:
        asked.append(mesh_label(mesh))
        return score(mesh)

    return ask, asked


def study(
    score: Callable[[TorusMesh], tuple[float, float] | None] = price,
    *,
    storage: str | None = None,
    trials: int = 16,
) -> list[Tried]:
    return best_meshes(MESHES, score, study_name="s", trials=trials, storage=storage)


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
    tried = study(lambda mesh: None if mesh_label(mesh) == "x0=2 x1=4" else price(mesh))
    assert [mesh_label(each.mesh) for each in tried] == ["x0=2 x1=2 x2=2", "x0=4 x1=2", "x=8"]
    assert study(lambda mesh: None) == []


def test_trials_limits_how_many_are_tried() -> None:
    score, asked = counted(price)
    assert len(study(score, trials=2)) == 2
    assert asked == ["x=8", "x0=2 x1=4"]


def test_a_stored_study_is_not_priced_again(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    first = study(storage=storage)
    score, asked = counted(price)
    assert study(score, storage=storage) == first
    assert asked == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_trial_that_was_stopped_is_tried_again(stop: type[BaseException], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"

    def stopped(mesh: TorusMesh) -> tuple[float, float]:
        if mesh_label(mesh) == "x0=2 x1=4":
            raise stop
        return price(mesh)

    with pytest.raises(stop):
        study(stopped, storage=storage)
    score, asked = counted(price)
    assert study(score, storage=storage) == study()
    assert asked == ["x0=2 x1=4", "x0=4 x1=2", "x0=2 x1=2 x2=2"]


def test_a_trial_that_another_process_died_over_is_tried_last(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    dead = optuna.create_study(study_name="s", storage=storage)
    labels = [mesh_label(mesh) for mesh in MESHES]
    dead.sampler = optuna.samplers.GridSampler({"mesh": ["x=8"]})
    dead.ask({"mesh": optuna.distributions.CategoricalDistribution(labels)})
    assert [trial.state for trial in dead.trials] == [TrialState.RUNNING]
    score, asked = counted(price)
    assert study(score, storage=storage) == study()
    assert asked == [*labels[1:], "x=8"]


def test_a_storage_that_cannot_be_opened_says_what_is_expected() -> None:
    with pytest.raises(AutoshardError, match=r"`nonsense` cannot be opened.*such as sqlite:///tune.db"):
        study(storage="nonsense")
