"""Which compiler options: an Optuna study over the choices of `autoshard.compiled.options.searched_choices`.

A trial is one compile; its value is the step time that tier 2 estimates, and a compile that is lost or out
of memory is a pruned trial. Trials are few and dear, and most choices do not touch most programs, so they
go from the sure to the unsure: the default options, each choice changed alone, all changes together that
helped alone, and from there on what a tree-structured Parzen estimator proposes, two at a time.
As the default options are among them, the result is never worse than they are.

What a trial compiles depends on the seed and on the trials before it, not on who compiles how many at once:
a search goes through its trials in order, and asks the storage for a verdict before it compiles. So a killed
search goes on where it stopped, and processes that share a storage end with the same options as one alone.
They share the work: a trial that another process has begun is left for last, since that one may have died.

Source of the estimator: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna

from autoshard.compiled.options import OptionChoice, options_of
from autoshard.compiled.verdict_study import Values, Verdict, VerdictStudy
from autoshard.studies import open_study

_TOGETHER = 2
_CANDIDATES = 2
"""Values of a choice among which the estimator takes the likelier: with more it proposes the same always."""
_PROPOSALS = 64
"""Proposals in a row that were all judged before, after which the search is over."""


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
    at_once: int | None = None,
) -> OptionTrial:
    """Return the fastest trial; among equals the one with the fewest changes.

    Args:
        choices: What may be changed; the first values are the default.
        default: The verdict on the default options, which are the first trial and have a step time.
        judge: Judges the others.
        study_name: Names the study in the storage; it must tell apart what compiles to other times.
        trials: Most trials, the default one included, whether judged here or already in the storage.
        seed: Of the proposals.
        storage: Storage URL (`autoshard.studies`), None for memory.
        at_once: Most trials that are begun at once, so that other processes find some to do; None begins all
            that can be.

    Raises:
        AutoshardError: The storage cannot be opened.
    """
    stored = VerdictStudy(open_study(study_name, storage), choices)
    search = _Search(choices, judge, stored, trials, seed, at_once)
    search.run(default)
    return search.best()


class _Search:
    """One search.

    `stored` is what all processes know, in any order; `known` and `past` are what this search has gone
    through, in the order of its trials.
    """

    def __init__(
        self,
        choices: Sequence[OptionChoice],
        judge: Judge,
        stored: VerdictStudy,
        trials: int,
        seed: int,
        at_once: int | None,
    ) -> None:
        self.choices, self.judge, self.stored = choices, judge, stored
        self.trials, self.seed, self.at_once = trials, seed, at_once
        self.known: dict[Values, float | None] = {}
        self.past = VerdictStudy(open_study("past", None), choices)
        self.default: Values = tuple(choice.values[0] for choice in choices)

    def run(self, default: Verdict) -> None:
        """Judge as many options as there are trials."""
        if self.default not in self.stored.verdicts():
            self.stored.add(self.default, default)
        self.take(self.default, default)
        self.judge_new(self.changed_alone())
        self.judge_new([self.helpful_together()])
        while self.judge_proposed():
            pass

    def changes(self, values: Values) -> int:
        """How many choices are not the default one."""
        return sum(value != default for value, default in zip(values, self.default, strict=True))

    def best(self) -> OptionTrial:
        """The fastest that was judged; the default one where nothing is faster."""
        timed = [
            (seconds, self.changes(values), number, values)
            for number, (values, seconds) in enumerate(self.known.items(), 1)
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

        def seconds(values: Values) -> float:
            found = self.known.get(values)
            return float("inf") if found is None else found

        together = list(self.default)
        for place, choice in enumerate(self.choices):
            alone = [(*self.default[:place], value, *self.default[place + 1 :]) for value in choice.values]
            together[place] = min(alone, key=seconds)[place]
        return tuple(together)

    def judge_new(self, wanted: Sequence[Values]) -> None:
        """Judge those that were not judged before, as many as there are trials left."""
        new = [values for values in wanted if values not in self.known]
        new = new[: max(self.trials - len(self.known), 0)]
        self.judge_these(new, [None] * len(new))

    def judge_proposed(self) -> bool:
        """Judge what the estimator proposes next; False where there is no trial left, or nothing new."""
        proposals: dict[Values, optuna.Trial] = {}
        for _ in range(min(_TOGETHER, self.trials - len(self.known))):
            found = self.propose({*self.known, *proposals})
            if found is not None:
                proposals[found[0]] = found[1]
        self.judge_these(list(proposals), list(proposals.values()))
        return bool(proposals)

    def propose(self, known: set[Values]) -> tuple[Values, optuna.Trial] | None:
        """The estimator's next proposal that is not known; None where it has nothing new."""
        for attempt in range(_PROPOSALS):
            seed = random.Random(f"{self.seed} {len(known)} {attempt}").getrandbits(32)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, n_ei_candidates=_CANDIDATES)
            values, trial = self.past.propose(sampler)
            if values not in known:
                return values, trial
            self.past.drop(trial)
        return None

    def judge_these(self, all_values: Sequence[Values], asked: Sequence[optuna.Trial | None]) -> None:
        """Judge some options.

        Verdicts are taken in the order of the trials, so that what follows from them is always the same.
        """
        first = len(self.known) + 1
        numbers = {values: first + place for place, values in enumerate(all_values)}
        verdicts = self.stored.verdicts()
        while missing := [values for values in all_values if values not in verdicts]:
            begun = self.stored.begun()
            chosen = [values for values in missing if values not in begun] or missing
            chosen = chosen[: self.at_once]
            answered = self.judge_batch(chosen, numbers)
            unanswered = {values: Verdict(None, "not judged") for values in chosen}
            verdicts = {**verdicts, **unanswered, **self.stored.verdicts(), **answered}
        for values, trial in zip(all_values, asked, strict=True):
            self.take(values, verdicts[values], trial)

    def judge_batch(self, chosen: Sequence[Values], numbers: Mapping[Values, int]) -> dict[Values, Verdict]:
        """Judge some options here; verdicts are kept as they are known, whatever ends it."""
        begun = [self.stored.begin(values) for values in chosen]
        verdicts: dict[Values, Verdict] = {}

        def keep(index: int, verdict: Verdict) -> None:
            if chosen[index] not in verdicts:
                verdicts[chosen[index]] = verdict
                self.stored.settle(begun[index], verdict)

        try:
            self.judge([OptionTrial(numbers[v], options_of(self.choices, v)) for v in chosen], keep)
        finally:
            for values, trial in zip(chosen, begun, strict=True):
                if values not in verdicts:
                    self.stored.drop(trial)
        return verdicts

    def take(self, values: Values, verdict: Verdict, asked: optuna.Trial | None = None) -> None:
        """Go on with a verdict."""
        self.known[values] = verdict.seconds
        if asked is None:
            self.past.add(values, verdict)
        else:
            self.past.settle(asked, verdict)
