"""What the compiler said of options, in a study that processes share: verdicts, and what is being judged.

A trial is one set of options, its value the estimated step time. Where there is none, because the compile is
lost or out of memory, it is a pruned trial with the reason. A trial that runs belongs to some process, which
may have died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoshard.compiled.options import OptionChoice
from autoshard.studies import Given

_REASON = "reason"

Values = tuple[str | None, ...]
"""One value for each choice."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the compiler says of some options: the estimated step time, or why there is none."""

    seconds: float | None
    reason: str = ""


class VerdictStudy:
    """A study over some choices."""

    def __init__(self, study: optuna.Study, choices: Sequence[OptionChoice]) -> None:
        """Take a study, which may have verdicts already."""
        self._study = study
        self._names = tuple(choice.name for choice in choices)
        self._distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.values) for choice in choices
        }

    def verdicts(self) -> dict[Values, Verdict]:
        """Return all verdicts, in the order of the trials."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        pairs = ((self._values(trial.params), trial) for trial in done)
        return {
            values: Verdict(trial.value, trial.user_attrs.get(_REASON, ""))
            for values, trial in pairs
            if values is not None
        }

    def begun(self) -> set[Values | None]:
        """Return what some process has begun to judge, and may have died over."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {self._values(trial.params) for trial in running}

    def begin(self, values: Values) -> optuna.Trial:
        """Say that this process judges some options."""
        return self._ask(Given(self._params(values)))

    def propose(self, sampler: optuna.samplers.BaseSampler) -> tuple[Values, optuna.Trial]:
        """Begin what a sampler proposes."""
        trial = self._ask(sampler)
        return tuple(trial.params[name] for name in self._names), trial

    def add(self, values: Values, verdict: Verdict) -> None:
        """Keep a verdict on what was not begun here."""
        self._study.add_trial(self._settled(values, verdict))

    def settle(self, trial: optuna.Trial, verdict: Verdict) -> None:
        """Keep the verdict on what was begun."""
        if verdict.reason:
            trial.set_user_attr(_REASON, verdict.reason)
        self._study.tell(trial, verdict.seconds, state=_state(verdict))

    def drop(self, trial: optuna.Trial) -> None:
        """Say that what was begun has no verdict: it has failed, and may be tried again."""
        self._study.tell(trial, state=TrialState.FAIL)

    def _ask(self, sampler: optuna.samplers.BaseSampler) -> optuna.Trial:
        self._study.sampler = sampler
        return self._study.ask(self._distributions)

    def _values(self, params: Mapping[str, str | None]) -> Values | None:
        """The values that a trial has; None where its process died before it had said them."""
        if any(name not in params for name in self._names):
            return None
        return tuple(params[name] for name in self._names)

    def _params(self, values: Values) -> dict[str, str | None]:
        return dict(zip(self._names, values, strict=True))

    def _settled(self, values: Values, verdict: Verdict) -> FrozenTrial:
        return create_trial(
            state=_state(verdict),
            value=verdict.seconds,
            params=self._params(values),
            distributions=self._distributions,
            user_attrs={_REASON: verdict.reason} if verdict.reason else {},
        )


def _state(verdict: Verdict) -> TrialState:
    return TrialState.PRUNED if verdict.seconds is None else TrialState.COMPLETE
