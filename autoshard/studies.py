"""Optuna studies: opened alike wherever one is kept, in memory or in a storage that processes share."""

from __future__ import annotations

import time

import optuna

from autoshard.errors import AutoshardError

_OPENINGS = 4
_PAUSE_SECONDS = 0.2


def open_study(name: str, storage: str | None) -> optuna.Study:
    """Open a study that minimises, or make it.

    Processes that make a database at the same time trip over each other, so it is tried several times.

    Args:
        name: Names the study in the storage.
        storage: Optuna storage URL, None for memory.

    Raises:
        AutoshardError: The storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    failure: Exception | None = None
    for _ in range(_OPENINGS):
        try:
            return optuna.create_study(
                study_name=name, storage=storage, direction="minimize", load_if_exists=True
            )
        except Exception as error:  # whatever the database's driver raises
            failure = error
            time.sleep(_PAUSE_SECONDS)
    reason = str(failure).strip().partition("\n")[0]
    raise AutoshardError(
        f"the study storage `{storage}` cannot be opened: {reason}. "
        "Expected an Optuna URL such as sqlite:///tune.db"
    ) from failure
