"""Storages of studies: databases go to Optuna by their URL, journal files are opened here."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from autoshard.errors import AutoshardError
from autoshard.studies import open_study, storage_of


@pytest.mark.parametrize(
    "url", ["sqlite:///tune.db", "postgresql+psycopg://me@host/tune", "mysql+pymysql://me@host/tune"]
)
def test_the_url_of_a_database_goes_to_optuna_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(optuna, "create_study", lambda **options: told.update(options))
    open_study("s", url)
    assert told == {"study_name": "s", "storage": url, "direction": "minimize", "load_if_exists": True}


@pytest.mark.parametrize(
    ("url", "missing", "remedy"),
    [
        ("postgresql://me@host/tune", "psycopg", r"pip install 'autoshard\[postgresql\]'"),
        ("postgresql+psycopg://me@host/tune", "psycopg", r"pip install 'autoshard\[postgresql\]'"),
        ("mysql+pymysql://me@host/tune", "pymysql", "install the database's driver for Python"),
    ],
)
def test_a_missing_driver_is_named(
    url: str, missing: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("psycopg", "psycopg2", "pymysql"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AutoshardError, match=rf"needs a driver that is not installed .*{missing}.*{remedy}"):
        open_study("s", url)


@pytest.mark.parametrize(("found", "driver"), [(None, ""), (object(), "+psycopg")])
def test_postgresql_is_spoken_to_by_psycopg_where_that_is_installed(
    found: object, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    assert storage_of("postgresql://me@host/tune") == f"postgresql{driver}://me@host/tune"
    assert storage_of("postgresql+asyncpg://me@host/tune") == "postgresql+asyncpg://me@host/tune"


def test_without_a_url_a_study_is_in_memory() -> None:
    open_study("s", None).add_trial(optuna.trial.create_trial(value=1.0))
    assert open_study("s", None).trials == []


def test_a_journal_is_a_file_that_keeps_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = open_study("s", "journal:///tune.log")
    study.add_trial(optuna.trial.create_trial(value=float("inf")))
    study.add_trial(optuna.trial.create_trial(value=1 / 3))
    again = open_study("s", f"journal:///{tmp_path / 'tune.log'}")  # the same file, by its absolute path
    assert [trial.value for trial in again.trials] == [float("inf"), 1 / 3]
    assert open_study("another", "journal:///tune.log").trials == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("journal:///", "no file is named"),
        ("journal:///none/tune.log", "No such file or directory"),
        ("journal:tune.log", "Could not parse"),
        ("postgresql+nodriver://me@host/tune", "nodriver"),
    ],
)
def test_what_cannot_be_opened_says_why(
    url: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AutoshardError, match=rf"`{url.replace('+', '.')}` cannot be opened: .*{reason}"):
        open_study("s", url)
