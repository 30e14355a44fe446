"""The compiler options of the candidates: those that a run begins with, and faster ones where it searches.

The search (`autoshard.compiled.option_search`) compiles the candidate that is fastest by tier 2 under one set
of options after another. The options that win are then tried on the other candidates, each of which keeps its
own unless they are faster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

import autoshard
from autoshard.calibration.calibrated import numbers_label
from autoshard.compiled.option_search import OptionTrial, search_options
from autoshard.compiled.options import describe_options, searched_choices
from autoshard.compiled.program_key import program_key
from autoshard.compiled.verdict_study import Verdict
from autoshard.judged import OK, Judged
from autoshard.programs import Program
from autoshard.refining import compile_candidates, with_program
from autoshard.tune_session import Session
from autoshard.units import format_seconds

_UNKNOWN_OPTION = re.compile(r"No such compile option: '?([\w.]+)'?")

_DIGEST_DIGITS = 24


def with_first_options(session: Session, candidates: Sequence[Judged]) -> list[Judged]:
    """Return new candidates with the options that the run begins with: the plan's default ones, or none."""
    if session.options.compile_options != "none":
        return list(candidates)
    return [
        replace(each, plan=msgspec.structs.replace(each.plan, compiler_options={})) for each in candidates
    ]


@dataclass(slots=True)
class OptionRefinement:
    """A search for better options of candidates that tier 2 has judged.

    Attributes:
        session: What is planned.
        candidates: Kept up to date with the best options known, so that an interrupted run still has them.
        time_limit_seconds: Per compile.
    """

    session: Session
    candidates: list[Judged]
    time_limit_seconds: float
    _judged: dict[str, Judged] = field(default_factory=dict)

    def run(self) -> None:
        """Search on the fastest candidate, then try what wins on the others."""
        able = [i for i, each in enumerate(self.candidates) if _is_estimated(each)]
        progress = self.session.progress
        if not able:
            progress.note("compile options are not searched: the compiler has judged no candidate")
            return
        best, *others = sorted(able, key=lambda i: self.candidates[i].seconds)
        first = self.candidates[best]
        winner = self._search(best)
        if winner == first.plan.compiler_options:
            progress.note("no compile options are estimated faster than the default ones")
            return
        progress.note(
            f"compile options: {describe_options(winner, first.plan.compiler_options)}: estimated "
            f"{format_seconds(self.candidates[best].seconds)}, {format_seconds(first.seconds)} by default"
        )
        self._try_on(others, winner)

    def _search(self, best: int) -> dict[str, str]:
        """Search on one candidate, which is left with the best options found; return these."""
        session = self.session
        first = self.candidates[best] = with_program(session.traced, self.candidates[best], "tpu")
        default = first.plan.compiler_options
        self._judged[_key(default)] = first
        session.progress.stage("compile options", total=session.options.option_trials)
        session.progress.step(f"{describe_options(default, default)}: {format_seconds(first.seconds)}")

        def judge(trials: Sequence[OptionTrial], on_verdict: Callable[[int, Verdict], None]) -> None:
            self._judge(best, first, trials, on_verdict)

        winner = search_options(
            searched_choices(session.slice_),
            Verdict(first.seconds),
            judge,
            study_name=_study_name(session, first),
            trials=session.options.option_trials,
            seed=session.options.seed,
            storage=session.options.storage,
            at_once=None if session.options.storage is None else session.options.workers,
        )
        if _key(winner.options) not in self._judged:  # an earlier run has judged it
            judge([winner], lambda *_: None)
        found = self._judged[_key(winner.options)]
        if found.status == OK and found.seconds <= self.candidates[best].seconds:
            self.candidates[best] = found
        return self.candidates[best].plan.compiler_options

    def _judge(
        self,
        best: int,
        first: Judged,
        trials: Sequence[OptionTrial],
        on_verdict: Callable[[int, Verdict], None],
    ) -> None:
        """Compile a candidate under some options; the best candidate is replaced by what is faster."""
        progress, default = self.session.progress, first.plan.compiler_options
        named = [describe_options(trial.options, default) for trial in trials]

        def keep(index: int, judged: Judged) -> None:
            trial, verdict = trials[index], _verdict(judged)
            self._judged[_key(trial.options)] = judged
            on_verdict(index, verdict)
            if verdict.seconds is None:
                said = f"pruned: {verdict.reason}"
            else:
                said = f"estimated {format_seconds(verdict.seconds)}"
                if verdict.seconds < self.candidates[best].seconds:
                    self.candidates[best] = judged
            progress.note(f"compile options, trial {trial.number}: {named[index]}: {said}")

        variants = [_under(first, trial.options) for trial in trials]
        self._compile(variants, lambda index: progress.step(_short(named[index])), keep)

    def _try_on(self, others: Sequence[int], options: Mapping[str, str]) -> None:
        """Compile other candidates under options; each keeps what is faster."""
        progress, traced = self.session.progress, self.session.traced
        if not others:
            return
        variants = [_under(with_program(traced, self.candidates[i], "tpu"), options) for i in others]
        progress.stage("compile under these options", total=len(others))

        def step(index: int) -> None:
            progress.step(f"candidate {others[index] + 1}")

        def keep(index: int, judged: Judged) -> None:
            verdict = _verdict(judged)
            if verdict.seconds is None:
                progress.note(f"candidate {others[index] + 1} keeps its options: {verdict.reason}")
            elif verdict.seconds < self.candidates[others[index]].seconds:
                self.candidates[others[index]] = judged

        self._compile(variants, step, keep)

    def _compile(
        self,
        variants: Sequence[Judged],
        on_start: Callable[[int], None],
        on_result: Callable[[int, Judged], None],
    ) -> None:
        compile_candidates(
            self.session.traced,
            variants,
            workers=self.session.options.workers,
            time_limit_seconds=self.time_limit_seconds,
            on_start=on_start,
            on_known=on_start,
            on_result=on_result,
            note=self.session.progress.note,
        )


def _is_estimated(candidate: Judged) -> bool:
    return candidate.status == OK and candidate.plan.estimated is not None


def _under(candidate: Judged, options: Mapping[str, str]) -> Judged:
    """A candidate under other options, not judged yet."""
    plan = msgspec.structs.replace(candidate.plan, compiler_options=dict(options), estimated=None)
    program = msgspec.structs.replace(_program(candidate), compiler_options=dict(options))
    return replace(candidate, plan=plan, program=program, compiled=None)


def _program(candidate: Judged) -> Program:
    assert candidate.program is not None
    return candidate.program


def _verdict(judged: Judged) -> Verdict:
    """What tier 2 says, for the study."""
    if _is_estimated(judged):
        return Verdict(judged.seconds)
    unknown = _UNKNOWN_OPTION.search(judged.compiled.detail) if judged.compiled is not None else None
    if unknown is not None:
        return Verdict(None, f"the installed libtpu does not know the option `{unknown[1]}`")
    return Verdict(None, judged.status)


def _short(named: str) -> str:
    """The first of several changes, for a line that must not wrap."""
    first, *others = named.split(", ")
    return f"{first} and {len(others)} more" if others else first


def _key(options: Mapping[str, str]) -> str:
    return repr(sorted(options.items()))


def _study_name(session: Session, candidate: Judged) -> str:
    """Equal for equal programs and choices under equal compilers and chip numbers."""
    slice_, limit = session.slice_, session.options.hbm_limit_bytes
    facts = repr((program_key(_program(candidate), slice_), searched_choices(slice_)))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:_DIGEST_DIGITS]
    return (
        f"autoshard {autoshard.__version__} options {session.target.name} {slice_.name} {digest}"
        f"{numbers_label(slice_.chip)}{'' if limit is None else f' {round(limit)}'}"
    )
