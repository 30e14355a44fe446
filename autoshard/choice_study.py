"""Which values of the choices: an Optuna study over the combinations of `autoshard.choices`.

A trial is one combination; its value is the predicted step time of its best plan on any mesh, and memory is
a constraint of that plan. Few combinations, at most as many as there are trials, are all tried. Of more, a
tree-structured Parzen estimator proposes some at a time, beginning with the first value of every choice.

Of the ranking only the first combinations are of use. One whose proven lower bound on the step time is
above the time of the last of them known is pruned: it cannot come among them, whichever are tried first and
by whom.

What is proposed depends on the seed and on the trials before, not on who tries how many at once: a search
goes through its trials in order and asks the storage before it prices one. So a killed search goes on where
it stopped, and processes that share a storage end with the same combination as one alone. They share the
work: a trial that another process has begun is left for last, since that one may have died. A trial holds for
the program that it was made with, by its fingerprint.

The estimator learns from the good trials, a tenth, told from all others. The good ones are never pruned, and
it does not look at the times of the others: so it does not matter which process pruned what.

Source of the estimator: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autoshard.choice_trials import ChoiceTrials, Priced, Values
from autoshard.choices import Choices, combination_count, combinations
from autoshard.studies import open_study

_TOGETHER = 4
"""Combinations that are proposed before any of them is priced: work for several processes."""
_RANDOM = 4
"""Trials before the estimator begins: until then proposals are random."""
_CANDIDATES = 2
"""Values among which the estimator takes the likelier: with more it soon proposes the same always."""
_PROPOSALS = 64
"""Proposals of the estimator for one batch; then as many random ones, and where all are known it is over."""

Identify = Callable[[Values], str | None]
"""Gives the fingerprint of a combination's program, None where there is none (it cannot be traced)."""
Price = Callable[[Values, float], Priced]
"""Prices a combination; may end early where it is proven to take longer than the seconds given."""


def price_combinations(
    choices: Choices,
    identify: Identify,
    price: Price,
    *,
    study_name: str,
    trials: int,
    wanted: int = 1,
    seed: int = 0,
    storage: str | None = None,
) -> dict[Values, Priced]:
    """Price combinations; those that have no program are left out.

    The fastest `wanted` of the result are always the same; others may be pruned or not.

    Args:
        choices: The values of each choice.
        identify: Tells the program of a combination from others.
        price: Prices a combination.
        study_name: Names the study in the storage; it must tell apart what prices a program otherwise.
        trials: Most combinations to try, those already in the storage included.
        wanted: How many of the fastest combinations are of use.
        seed: Of the proposals.
        storage: Storage URL (`autoshard.studies`), None for memory.

    Returns:
        What is known of each combination, in the order in which they were considered.

    Raises:
        AutoshardError: The storage cannot be opened.
    """
    everything = combination_count(choices) <= trials
    name = study_name if everything else f"{study_name} seed {seed} of {trials}"
    store = ChoiceTrials(open_study(name, storage), choices)
    search = _Search(identify, price, store, wanted if everything else max(wanted, math.ceil(trials / 10)))
    if everything:
        search.settle(list(combinations(choices)))
    else:
        _Proposals(choices, search, trials, seed).run()
    return search.known


class _Search:
    """Combinations in the order in which they are considered, and what is known of them."""

    def __init__(self, identify: Identify, price: Price, store: ChoiceTrials, wanted: int) -> None:
        self.identify, self.price, self.store, self.wanted = identify, price, store, wanted
        self.programs: dict[Values, str] = {}
        self.known: dict[Values, Priced] = {}

    def settle(self, asked: Sequence[Values]) -> None:
        """Price combinations that no process has priced, those first that none has begun."""
        named = [(values, self.identify(values)) for values in asked]
        self.programs |= {values: program for values, program in named if program is not None}
        mine = [values for values in asked if values in self.programs]
        while True:
            priced = self.store.priced(self.programs)
            worth_seconds = self.worth(priced)
            missing = [v for v in mine if v not in priced or _may_be_of_use(priced[v], worth_seconds)]
            if not missing:
                break
            begun = self.store.begun(self.programs)
            free = [values for values in missing if values not in begun]
            self.price_one((free or missing)[0], worth_seconds)
        self.known |= {values: priced[values] for values in mine}

    def worth(self, priced: dict[Values, Priced]) -> float:
        """Step time above which a combination is of no use: that of the last one wanted."""
        times = sorted(each.seconds for each in priced.values() if each.seconds is not None)
        return times[self.wanted - 1] if len(times) >= self.wanted else float("inf")

    def price_one(self, values: Values, worth_seconds: float) -> None:
        """Price one combination; an error or Ctrl-C marks its trial as failed, to be tried again."""
        trial = self.store.begin(values, self.programs[values])
        try:
            found = self.price(values, worth_seconds)
        except BaseException:
            self.store.drop(trial)
            raise
        self.store.settle(trial, found)


def _may_be_of_use(priced: Priced, worth_seconds: float) -> bool:
    """Whether a combination was pruned beside others that were faster than those of today."""
    return (
        priced.seconds is None and priced.bound_seconds is not None and priced.bound_seconds <= worth_seconds
    )


class _Proposals:
    """A search among more combinations than there are trials."""

    def __init__(self, choices: Choices, search: _Search, trials: int, seed: int) -> None:
        self.choices, self.search, self.trials, self.seed = choices, search, trials, seed
        self.past = open_study("past", None)
        self.considered: list[Values] = []
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(values)) for name, values in choices.items()
        }

    def run(self) -> None:
        """Consider as many combinations as there are trials."""
        asked = [tuple(values[0] for values in self.choices.values())]
        while asked:
            self.search.settle(asked)
            for values in asked:
                self.remember(values)
            self.considered += asked
            asked = self.propose(min(_TOGETHER, self.trials - len(self.considered)))

    def propose(self, count: int) -> list[Values]:
        """What the estimator proposes next and is not known."""
        found: list[Values] = []
        for attempt in itertools.count():
            if len(found) >= count or attempt >= 2 * _PROPOSALS:
                return found
            self.past.sampler = self.sampler(attempt)
            trial = self.past.ask(self.distributions)
            self.past.tell(trial, state=TrialState.FAIL)
            values = tuple(trial.params[name] for name in self.choices)
            if values not in found and values not in self.considered:
                found.append(values)
        return found

    def sampler(self, attempt: int) -> optuna.samplers.BaseSampler:
        """What proposes at an attempt: the estimator, and where it has nothing new, chance."""
        number = random.Random(f"{self.seed} {len(self.considered)} {attempt}").getrandbits(32)
        if attempt >= _PROPOSALS:
            return optuna.samplers.RandomSampler(number)
        return optuna.samplers.TPESampler(seed=number, n_startup_trials=_RANDOM, n_ei_candidates=_CANDIDATES)

    def remember(self, values: Values) -> None:
        """Tell the estimator; what is pruned counts with its lower bound."""
        known = self.search.known.get(values)
        seconds = None if known is None else known.seconds or known.bound_seconds
        self.past.add_trial(
            create_trial(
                state=TrialState.PRUNED if seconds is None else TrialState.COMPLETE,
                value=seconds,
                params=dict(zip(self.choices, values, strict=True)),
                distributions=self.distributions,
            )
        )
