"""Which compiler options: an Optuna study over the choices of `autoshard.compiled.options.searched_choices`.

A trial is one compile; its value is the step time that tier 2 estimates, and a compile that is lost or out
of memory is a pruned trial. Trials are few and dear, and most choices do not touch most programs, so they
go from the sure to the unsure: the default options, each choice changed alone, all changes together that
helped alone, and from there on what a tree-structured Parzen estimator proposes, two at a time.
As the default options are among them, the result is never worse than they are.

What a trial compiles depends on the seed and on the trials before it, not on who compiles how many at once.
With a storage URL a killed search goes on where it stopped.

Source of the estimator: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autoshard.compiled.options import OptionChoice, options_of
from autoshard.studies import open_study

_TOGETHER = 2
_CANDIDATES = 2
"""Values of a choice among which the estimator takes the likelier: with more it proposes the same always."""
_PROPOSALS = 64
"""Proposals in a row that were all judged before, after which the search is over."""
_REASON = "reason"

Values = tuple[str | None, ...]
"""One value for each choice."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the compiler says of some options: the estimated step time, or why there is none."""

    seconds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OptionTrial:
    """Some options to judge; trial 1 has the default ones."""

    number: int
    options: dict[str, str]


Judge = Callable[[Sequence[OptionTrial], Callable[[int, Verdict], None]], None]
"""Judges trials, at once if it can; calls back with the index of each and its verdict as it is known."""


def search_options(
    choices: Sequence[OptionChoice],
    default: Verdict,
    judge: Judge,
    *,
    study_name: str,
    trials: int,
    seed: int = 0,
    storage: str | None = None,
) -> OptionTrial:
    """Return the fastest trial; among equals the one with the fewest changes.

    Args:
        choices: What may be changed; the first values are the default.
        default: The verdict on the default options, which are the first trial and have a step time.
        judge: Judges the others.
        study_name: Names the study in the storage; it must tell apart what compiles to other times.
        trials: Most trials, the default one and those already in the storage included.
        seed: Of the proposals.
        storage: Optuna storage URL, None for memory.

    Raises:
        AutoshardError: The storage cannot be opened.
    """
    search = _Search(choices, judge, open_study(study_name, storage), trials, seed)
    search.run(default)
    return search.best()


class _Search:
    def __init__(
        self, choices: Sequence[OptionChoice], judge: Judge, study: optuna.Study, trials: int, seed: int
    ) -> None:
        self.choices, self.judge, self.study = choices, judge, study
        self.trials, self.seed = trials, seed
        self.default: Values = tuple(choice.values[0] for choice in choices)
        self.distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.values) for choice in choices
        }

    def run(self, default: Verdict) -> None:
        """Judge as many options as there are trials."""
        if self.default not in self.known():
            self.record(self.default, default)
        self.judge_new(self.changed_alone())
        self.judge_new([self.helpful_together()])
        while self.judge_proposed():
            pass

    def known(self) -> dict[Values, float | None]:
        """The step time of what was judged, None where a trial was pruned; in the order of the trials."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return {self.values_of(trial.params): trial.value for trial in done}

    def values_of(self, params: dict[str, str | None]) -> Values:
        return tuple(params[choice.name] for choice in self.choices)

    def changes(self, values: Values) -> int:
        """How many choices are not the default one."""
        return sum(value != default for value, default in zip(values, self.default, strict=True))

    def best(self) -> OptionTrial:
        """The fastest that was judged; the default one where nothing is faster."""
        timed = [
            (seconds, self.changes(values), number, values)
            for number, (values, seconds) in enumerate(self.known().items(), 1)
            if seconds is not None
        ]
        _, _, number, values = min(timed, key=lambda each: each[:3])
        return OptionTrial(number, options_of(self.choices, values))

    def changed_alone(self) -> list[Values]:
        """Each choice at each of its other values, the others at their default."""
        return [
            (*self.default[:place], value, *self.default[place + 1 :])
            for place, choice in enumerate(self.choices)
            for value in choice.values[1:]
        ]

    def helpful_together(self) -> Values:
        """Every choice at the value that is fastest alone."""
        known = self.known()

        def seconds(values: Values) -> float:
            found = known.get(values)
            return float("inf") if found is None else found

        together = list(self.default)
        for place, choice in enumerate(self.choices):
            alone = [(*self.default[:place], value, *self.default[place + 1 :]) for value in choice.values]
            together[place] = min(alone, key=seconds)[place]
        return tuple(together)

    def judge_new(self, wanted: Sequence[Values]) -> None:
        """Judge those that were not judged before, as many as there are trials left."""
        known = self.known()
        new = [values for values in wanted if values not in known][: max(self.trials - len(known), 0)]
        self.judge_these(new, [None] * len(new))

    def judge_proposed(self) -> bool:
        """Judge what the estimator proposes next; False where there is no trial left, or nothing new."""
        known = set(self.known())
        proposals: dict[Values, optuna.Trial] = {}
        for _ in range(min(_TOGETHER, self.trials - len(known))):
            proposed = self.propose(known | set(proposals))
            if proposed is not None:
                proposals[self.values_of(proposed.params)] = proposed
        self.judge_these(list(proposals), list(proposals.values()))
        return bool(proposals)

    def propose(self, known: set[Values]) -> optuna.Trial | None:
        """The estimator's next proposal that is not known; None where it has nothing new."""
        for attempt in range(_PROPOSALS):
            seed = random.Random(f"{self.seed} {len(known)} {attempt}").getrandbits(32)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, n_ei_candidates=_CANDIDATES
            )
            trial = self.study.ask(self.distributions)
            if self.values_of(trial.params) not in known:
                return trial
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def judge_these(self, all_values: Sequence[Values], asked: Sequence[optuna.Trial | None]) -> None:
        """Judge some options; what is known when Ctrl-C or an error ends it is kept.

        Verdicts are recorded in the order of the trials, so that what follows from them is always the same.
        """
        if not all_values:
            return
        first = len(self.known()) + 1
        numbered = [
            OptionTrial(first + place, options_of(self.choices, values))
            for place, values in enumerate(all_values)
        ]
        verdicts: dict[int, Verdict] = {}
        try:
            self.judge(numbered, verdicts.__setitem__)
        finally:
            for place, (values, trial) in enumerate(zip(all_values, asked, strict=True)):
                self.settle(values, trial, verdicts.get(place))

    def settle(self, values: Values, trial: optuna.Trial | None, verdict: Verdict | None) -> None:
        """Record a verdict; without one the trial has failed, and will be tried again."""
        if verdict is not None:
            self.record(values, verdict, trial)
        elif trial is not None:
            self.study.tell(trial, state=TrialState.FAIL)

    def record(self, values: Values, verdict: Verdict, trial: optuna.Trial | None = None) -> None:
        """Keep a verdict in the study."""
        state = TrialState.PRUNED if verdict.seconds is None else TrialState.COMPLETE
        if trial is not None:
            if verdict.reason:
                trial.set_user_attr(_REASON, verdict.reason)
            self.study.tell(trial, verdict.seconds, state=state)
            return
        names = [choice.name for choice in self.choices]
        self.study.add_trial(
            create_trial(
                state=state,
                value=verdict.seconds,
                params=dict(zip(names, values, strict=True)),
                distributions=self.distributions,
                user_attrs={_REASON: verdict.reason} if verdict.reason else {},
            )
        )
