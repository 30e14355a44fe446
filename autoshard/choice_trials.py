"""What the model says of combinations of choices, in an Optuna study that processes share.

A trial is one combination of one program, its value the predicted step time. One that is pruned by its
lower bound, or that fits no mesh, is a pruned trial. A trial that runs belongs to some process, which may
have died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from autoshard.choices import Choices, Value
from autoshard.studies import Given

Values = tuple[Value, ...]
"""One value for each choice."""

_PROGRAM, _PRICED = "program", "priced"


@dataclass(frozen=True, slots=True)
class Priced:
    """What the model says of a combination.

    Attributes:
        status: "ok", or why it has no plan.
        seconds: Predicted step time of its best plan; None where it has none.
        bound_seconds: Proven lower bound on that; None where nothing fits.
        hbm_bytes: Predicted memory of the best plan, per chip; where nothing fits what is needed at least.
        meshes: Labels of the meshes that can hold it, fastest first; what is slower than is of use may be
            missing.
    """

    status: str
    seconds: float | None = None
    bound_seconds: float | None = None
    hbm_bytes: float | None = None
    meshes: tuple[str, ...] = ()


class ChoiceTrials:
    """A study over some choices."""

    def __init__(self, study: optuna.Study, choices: Choices) -> None:
        """Take a study, which may have trials already."""
        self._study, self._names = study, tuple(choices)
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(values)) for name, values in choices.items()
        }

    def priced(self, programs: Mapping[Values, str]) -> dict[Values, Priced]:
        """Return what is known of combinations whose programs are these."""
        done = self._trials(programs, (TrialState.COMPLETE, TrialState.PRUNED))
        return {
            values: Priced(
                **{**trial.user_attrs[_PRICED], "meshes": tuple(trial.user_attrs[_PRICED]["meshes"])}
            )
            for values, trial in done.items()
        }

    def begun(self, programs: Mapping[Values, str]) -> set[Values]:
        """Return what some process has begun to price, and may have died over."""
        return set(self._trials(programs, (TrialState.RUNNING,)))

    def begin(self, values: Values, program: str) -> optuna.Trial:
        """Say that this process prices a combination."""
        self._study.sampler = Given(dict(zip(self._names, values, strict=True)))
        trial = self._study.ask(self._distributions)
        trial.set_user_attr(_PROGRAM, program)
        return trial

    def settle(self, trial: optuna.Trial, priced: Priced) -> None:
        """Keep what is known of what was begun."""
        trial.set_user_attr(_PRICED, asdict(priced))
        self._study.tell(
            trial, priced.seconds, state=TrialState.PRUNED if priced.seconds is None else TrialState.COMPLETE
        )

    def drop(self, trial: optuna.Trial) -> None:
        """Say that what was begun has failed, and may be tried again."""
        self._study.tell(trial, state=TrialState.FAIL)

    def _trials(
        self, programs: Mapping[Values, str], states: tuple[TrialState, ...]
    ) -> dict[Values, optuna.trial.FrozenTrial]:
        """The trials of these programs; where there are several of one, the last."""
        found: dict[Values, Any] = {}
        for trial in self._study.get_trials(deepcopy=False, states=states):
            values = tuple(trial.params.get(name) for name in self._names)
            if programs.get(values) == trial.user_attrs.get(_PROGRAM, ""):
                found[values] = trial
        return found
