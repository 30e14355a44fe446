"""Tier 0 for a function with choices: every combination is a program of its own, searched on all meshes.

The fastest combination gives most of the candidates, the next ones their best plan each: what the compiler
keeps and what it computes again is known for sure only when it is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

import autoshard
from autoshard.candidate_plans import distinct, judged_plans
from autoshard.choice_sessions import ChoiceSessions
from autoshard.choice_study import price_combinations
from autoshard.choice_trials import Priced, Values
from autoshard.choices import choice_text
from autoshard.combination_pricing import CombinationPricing
from autoshard.errors import InfeasibleError, PinError, TraceError
from autoshard.infeasible import does_not_fit
from autoshard.judged import OK, Judged
from autoshard.mesh_search import SearchResult, limits_label
from autoshard.mesh_solving import Solved, with_bound
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import Session
from autoshard.verdict_records import CombinationRecord

_COMBINATIONS_OF_CANDIDATES = 3
_PRICED = 8
"""The fastest combinations, whose times a plan shows; of the others it says that they are slower."""


class ChoiceSearch:
    """A search over the combinations of a target's choices."""

    def __init__(self, target: Target, options: Options, progress: Progress) -> None:
        """Prepare; nothing is traced yet."""
        self.sessions = ChoiceSessions(target, options, progress)
        self.options, self.choices = options, target.choices
        self.wanted = min(_COMBINATIONS_OF_CANDIDATES, options.top_k)
        self._known: dict[Values, Priced] = {}

    @property
    def session(self) -> Session:
        """What all combinations have in common, as the session of the first that can be traced.

        Raises:
            TraceError: none can.
        """
        return self.sessions.first()

    def candidates(self, headroom_bytes: float = 0.0) -> SearchResult:
        """Search all combinations, or as many as there are trials.

        Args:
            headroom_bytes: HBM per chip to hold back from what a plan may use.

        Raises:
            TraceError: No combination can be traced.
            PinError: No combination can keep to the pins.
            KeyboardInterrupt: Ctrl-C before any plan was known.
        """
        pricing = CombinationPricing(self.sessions, headroom_bytes, kept=self.wanted)
        try:
            return SearchResult(tuple(self._search(pricing)))
        except KeyboardInterrupt:
            if not pricing.fastest:
                raise
            (values, _), solved = next(iter(pricing.fastest.items()))
            return SearchResult(tuple(self._judged(values, [solved])[:1]), interrupted=True)

    def does_not_fit(self) -> InfeasibleError:
        """The error where no combination has a plan: why the one that needs least memory has none."""
        needs = {values: each.hbm_bytes for values, each in self._known.items() if each.hbm_bytes is not None}
        leanest = min(needs, key=lambda values: needs[values])
        return InfeasibleError(
            f"{does_not_fit(self.sessions.opened(leanest))}; that is with {self.sessions.label(leanest)}, "
            f"which needs least memory of the {len(needs)} combinations of choices"
        )

    def _search(self, pricing: CombinationPricing) -> list[Judged]:
        options, wanted = self.options, self.wanted
        self._known = {}

        def price(values: Values, worth_seconds: float) -> Priced:
            self._known[values] = pricing.price(values, worth_seconds)
            return self._known[values]

        self._known = known = price_combinations(
            self.choices,
            lambda values: _fingerprint(self.sessions.open(values)),
            price,
            study_name=self._study_name(pricing.headroom_bytes),
            trials=options.trials,
            wanted=_PRICED,
            seed=options.seed,
            storage=options.storage,
        )
        if not known:
            raise TraceError(self.sessions.none_can_be_planned())
        ranked = [values for values, priced in _ranked(known) if priced.status == OK]
        if not ranked and all(each.hbm_bytes is None for each in known.values()):
            raise PinError(next(iter(known.values())).status)
        bound = min((each.bound_seconds for each in known.values() if each.bound_seconds), default=0.0)
        found: list[list[Judged]] = []
        for place, values in enumerate(ranked[:wanted]):
            solved = pricing.best(values, known[values].meshes, 1 if place else options.top_k)
            found.append(self._judged(values, [with_bound(each, bound) for each in solved]))
        return _chosen(found, options.top_k)

    def _judged(self, values: Values, solved: Sequence[Solved]) -> list[Judged]:
        """The candidates of a combination, fastest first, with its values in their plans."""
        session, records = self.sessions.opened(values), self._records()
        candidates = [
            replace(
                judged,
                traced=session.traced,
                plan=msgspec.structs.replace(
                    judged.plan, choices=self.sessions.named(values), combinations=records
                ),
            )
            for each in solved
            for judged in judged_plans(session, each)
        ]
        return sorted(candidates, key=lambda candidate: candidate.seconds)

    def _records(self) -> tuple[CombinationRecord, ...]:
        """What a plan keeps of the combinations: the fastest first, those without a plan last.

        It is the same whether a slow one was pruned or not, which depends on what was known by then.
        """
        ranked = _ranked(self._known)
        timed = [pair for pair in ranked if pair[1].seconds is not None][:_PRICED]
        shown = {values: priced for values, priced in timed}
        for values, priced in self._known.items():
            slow = Priced(f"slower than the {len(timed)} fastest")
            shown.setdefault(values, priced if priced.bound_seconds is None else slow)
        shown |= {values: Priced(reason) for values, reason in self.sessions.refused.items()}
        return tuple(
            CombinationRecord(
                values=self.sessions.named(values),
                predicted_seconds=priced.seconds,
                hbm_bytes_per_chip=None if priced.hbm_bytes is None else round(priced.hbm_bytes),
                status=priced.status,
            )
            for values, priced in shown.items()
        )

    def _study_name(self, headroom_bytes: float) -> str:
        """Equal for equal choices, and for what prices a program alike."""
        options, first = self.options, self.session
        texts = [choice_text(name, values) for name, values in self.choices.items()]
        facts = repr((texts, _PRICED, options.trials, options.shardings))
        return (
            f"autoshard {autoshard.__version__} choices {first.target.name} {first.slice_.name} "
            f"{options.mesh} {_digest(facts)} {limits_label(first, headroom_bytes)}"
        )


def _digest(facts: str) -> str:
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def _fingerprint(session: Session | None) -> str | None:
    return None if session is None else session.traced.fingerprint()


def _ranked(known: Mapping[Values, Priced]) -> list[tuple[Values, Priced]]:
    """Fastest first; among equals, and among those without a plan, in the order in which they were tried."""
    return sorted(known.items(), key=lambda pair: pair[1].seconds or float("inf"))


def _chosen(found: Sequence[Sequence[Judged]], top_k: int) -> list[Judged]:
    """The best candidate of every combination, and the fastest of the others."""
    firsts = [each[0] for each in found]
    others = sorted((one for each in found for one in each[1:]), key=lambda one: one.seconds)
    kept = distinct([*firsts, *others])[:top_k]
    return sorted(kept, key=lambda candidate: candidate.seconds)
