"""Optuna studies: opened alike wherever one is kept, in memory or in a storage that processes share.

A storage is a URL of Optuna, which hands it to SQLAlchemy: whatever database SQLAlchemy has a driver for
will do, and nothing here depends on which. A journal is a file to which processes append; Optuna has no URL
for it, so it has one here, with slashes as in those of SQLite::

    sqlite:///tune.db                            a file in the working directory
    sqlite:////data/tune.db                      a file by its absolute path
    journal:///tune.log, journal:////data/t.log  a journal file, which may lie on a network file system
    postgresql://user@host/tune                  a database for many workers

PostgreSQL needs the driver `psycopg`, which the extra `postgresql` brings; `postgresql+DRIVER://` names
another one. Where no driver is named, SQLAlchemy 2.0 would take an older one: here it is `psycopg` wherever
that is installed.

A process that is killed while it appends leaves the journal locked; the next one waits half a minute and
takes the lock over.

Source: https://optuna.readthedocs.io/en/stable/reference/storages.html.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from autoshard.errors import AutoshardError

_OPENINGS = 4
_PAUSE_SECONDS = 0.2
_JOURNAL = "journal:///"
_POSTGRESQL = "postgresql://"


def open_study(name: str, storage: str | None) -> optuna.Study:
    """Open a study that minimises, or make it.

    Processes that make a database at the same time trip over each other, so it is tried several times.

    Args:
        name: Names the study in the storage.
        storage: URL of a storage, None for memory.

    Raises:
        AutoshardError: The storage cannot be opened, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    failure: Exception | None = None
    for _ in range(_OPENINGS):
        try:
            return optuna.create_study(
                study_name=name, storage=storage_of(storage), direction="minimize", load_if_exists=True
            )
        except ImportError as error:
            raise _no_driver(storage, error) from error
        except Exception as error:  # whatever the database's driver raises
            failure = error
            time.sleep(_PAUSE_SECONDS)
    reason = str(failure).strip().partition("\n")[0]
    raise AutoshardError(
        f"the study storage `{storage}` cannot be opened: {reason}. "
        "Expected an Optuna URL such as sqlite:///tune.db, or journal:///tune.log for a journal file"
    ) from failure


def storage_of(url: str | None) -> str | BaseStorage | None:
    """Return what Optuna takes for a URL: that of a database, for a journal the storage itself.

    Raises:
        ValueError: A journal is named without its file.
    """
    if url is not None and url.startswith(_POSTGRESQL) and importlib.util.find_spec("psycopg"):
        return f"postgresql+psycopg://{url.removeprefix(_POSTGRESQL)}"
    if url is None or not url.startswith(_JOURNAL):
        return url
    path = url.removeprefix(_JOURNAL)
    if not path:
        raise ValueError("no file is named")
    return JournalStorage(JournalFileBackend(path))


def _no_driver(url: str | None, error: ImportError) -> AutoshardError:
    """The error where Python cannot talk to the database of a URL."""
    scheme = str(url).partition(":")[0]
    remedy = "install the database's driver for Python, or name an installed one: DATABASE+DRIVER://..."
    if scheme in ("postgresql", "postgresql+psycopg"):
        remedy = "install it with: pip install 'autoshard[postgresql]'"
    cause = error.__cause__ or error
    return AutoshardError(
        f"the study storage `{url}` needs a driver that is not installed ({cause}): {remedy}"
    )


class Given(optuna.samplers.BaseSampler):
    """Samples the parameters that it was made with: what is tried next is decided elsewhere."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """The value of one parameter."""
        return self._params[param_name]
