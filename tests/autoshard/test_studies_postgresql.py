"""Studies in PostgreSQL, for real: where a URL is given, or where a server can be started (`pgserver`)."""

import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from autoshard.choice_study import Price
from autoshard.choices import Choices
from autoshard.mesh_study import mesh_label
from autoshard.studies import open_study, storage_of
from tests.autoshard import test_choice_study as choices
from tests.autoshard import test_mesh_study as meshes

URL = "AUTOSHARD_TEST_POSTGRESQL"
SEARCHES = [(choices.CHOICES, choices.price), (choices.MANY, choices.price_many)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database: the given one, or a new one of a server of its own."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("the driver `psycopg` is not installed")
    if URL in os.environ:
        yield os.environ[URL]
        return
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip(f"no PostgreSQL: ${URL} is not set and `pgserver` is not installed")
    pgserver: Any = importlib.import_module("pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgresql"))
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def name(url: str, tmp_path: Path) -> Iterator[str]:
    """The name of a study that is not there yet, and will not be afterwards."""
    name = f"autoshard test {os.getpid()} {tmp_path.name}"
    yield name
    storage = storage_of(url)
    assert storage is not None
    for study in optuna.get_all_study_names(storage):
        if study.startswith(name):
            optuna.delete_study(study_name=study, storage=storage)


def test_a_study_is_kept(url: str, name: str) -> None:
    study = open_study(name, url)
    study.add_trial(optuna.trial.create_trial(value=float("inf")))
    study.add_trial(optuna.trial.create_trial(value=1 / 3))
    assert [trial.value for trial in open_study(name, url).trials] == [float("inf"), 1 / 3]


@pytest.mark.parametrize(("asked", "price"), SEARCHES, ids=["grid", "tpe"])
def test_a_killed_search_goes_on_to_the_same_end(asked: Choices, price: Price, url: str, name: str) -> None:
    arguments = (url, 5, asked, price, name)
    process = multiprocessing.get_context("spawn").Process(target=choices.killed, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    ask, priced = choices.counted(price)
    again = choices.study(ask, asked, storage=url, trials=20, name=name)
    alone = choices.study(price, asked, trials=20)
    assert (list(again), choices.best(again)) == (list(alone), choices.best(alone))
    assert len(priced) == len(alone) - 5


@pytest.mark.parametrize(("asked", "price"), SEARCHES, ids=["grid", "tpe"])
def test_two_processes_in_one_study_end_as_one_alone(
    asked: Choices, price: Price, url: str, name: str
) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=choices.searching, args=(url, asked, price, name)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    ask, priced = choices.counted(price)
    together = choices.study(ask, asked, storage=url, trials=20, name=name)
    alone = choices.study(price, asked, trials=20)
    assert priced == []
    assert (list(together), choices.best(together)) == (list(alone), choices.best(alone))


def test_meshes_are_not_priced_again(url: str, name: str) -> None:
    first = meshes.study(storage=url, name=name)
    score, priced = meshes.counted(meshes.price)
    assert meshes.study(score, storage=url, name=name) == first
    assert mesh_label(first[0].mesh) == "x0=2 x1=4"
    assert priced == []
