"""The candidate that tier 2 finds fastest, compiled once more with its projections left to the compiler.

The other program (`autoshard.free_projections`, the freest one that Shardy shards alike) stands in the
candidate's place where the compiler estimates it faster. An einsum that the user pinned stays pinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace

import msgspec

from autoshard.errors import CompileError
from autoshard.free_projections import freed_plans
from autoshard.judged import OK, Judged
from autoshard.partitioner.check import PropagationCheck
from autoshard.partitioner.worker import PropagationResult
from autoshard.pin_text import EINSUM, parse_pin
from autoshard.refining import compile_candidates, partition_candidates
from autoshard.tune_session import Session
from autoshard.units import format_seconds

NOTABLE = 0.002
"""Share of the step that the other program must save: the plan with its constraints says more."""


@dataclass(frozen=True, slots=True)
class ProjectionRefinement:
    """A try with free projections.

    Attributes:
        session: What is planned.
        candidates: Kept up to date.
        time_limit_seconds: For the compile.
    """

    session: Session
    candidates: list[Judged]
    time_limit_seconds: float

    def run(self) -> None:
        """Compile the other program of the fastest candidate, and keep the faster one."""
        able = [i for i, each in enumerate(self.candidates) if each.status == OK and each.plan.estimated]
        if not able or any(parse_pin(pin).kind == EINSUM for pin in self.session.options.pins):
            return
        best = min(able, key=lambda i: self.candidates[i].seconds)
        freed = self._alike(self.candidates[best])
        if freed is not None:
            self._compile(best, freed)

    def _alike(self, candidate: Judged) -> Judged | None:
        """The candidate with as many free projections as Shardy shards alike; None where that is none."""
        traced = candidate.traced or self.session.traced
        variants = [
            replace(
                candidate, plan=msgspec.structs.replace(plan, estimated=None), program=None, compiled=None
            )
            for plan in freed_plans(candidate.plan, traced.equations)
        ]
        found: dict[int, Judged] = {}
        try:
            partition_candidates(
                self.session.traced,
                variants,
                self.session.slice_,
                platform="tpu",
                workers=self.session.options.workers,
                on_result=found.__setitem__,
            )
        except CompileError:  # the candidate itself was exported: these are worth no more words
            return None
        known = candidate.propagated
        return next((found[i] for i in sorted(found) if moves_alike(found[i].propagated, known)), None)

    def _compile(self, best: int, freed: Judged) -> None:
        progress, before = self.session.progress, self.candidates[best]
        progress.stage("compile with projections left to the compiler", total=1)

        def keep(_: int, judged: Judged) -> None:
            if judged.status != OK:
                progress.note(f"projections left to the compiler: {judged.status}")
                return
            times = (
                f"estimated {format_seconds(judged.seconds)}, {format_seconds(before.seconds)} constrained"
            )
            progress.note(f"projections left to the compiler: {times}")
            if judged.seconds <= (1 - NOTABLE) * before.seconds:
                self.candidates[best] = judged

        compile_candidates(
            self.session.traced,
            [freed],
            workers=1,
            time_limit_seconds=self.time_limit_seconds,
            on_start=lambda _: progress.step(f"candidate {best + 1}"),
            on_known=lambda _: progress.step(f"candidate {best + 1}, from the cache"),
            on_result=keep,
            note=progress.note,
        )


def moves_alike(one: PropagationCheck | None, other: PropagationCheck | None) -> bool:
    """Whether Shardy has an answer on two programs, and it is the same collectives, whatever they serve."""
    if one is None or other is None or one.result.status != OK or other.result.status != OK:
        return False
    return _moves(one.result) == _moves(other.result)


def _moves(result: PropagationResult) -> Counter[Hashable]:
    """The collectives of a partitioned program, and how often each runs."""
    found: Counter[Hashable] = Counter()
    for each in result.collectives:
        found[each.kind, frozenset(each.axes), round(each.bytes_per_chip)] += each.trips
    return found
