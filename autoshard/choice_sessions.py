"""The combinations of a target's choices as sessions: each is traced when it is first asked for, and once.

A combination that cannot be traced (a batch that does not split into so many microbatches), or that takes or
gives something else than the others, is named and dropped.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from autoshard.choice_trials import Values
from autoshard.choices import Value, combination_label, combinations
from autoshard.errors import TraceError
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.trace import Traced
from autoshard.tune_options import Options
from autoshard.tune_session import Session, open_session


class ChoiceSessions:
    """The sessions of a target with choices.

    Attributes:
        target: The function.
        options: What the run was told.
        progress: Where to report.
        refused: Why a combination was dropped.
    """

    def __init__(self, target: Target, options: Options, progress: Progress) -> None:
        """Prepare; nothing is traced yet."""
        self.target, self.options, self.progress = target, options, progress
        self.refused: dict[Values, str] = {}
        self._opened: dict[Values, Session] = {}

    def open(self, values: Values) -> Session | None:
        """The session of a combination; None where it is dropped, which is said once.

        Raises:
            SliceError, ProfileError, OptionError: as of `open_session`.
        """
        if values not in self._opened and values not in self.refused:
            if self._opened:
                self.progress.stage(f"trace {self.target.name} with {self.label(values)}")
            reason = self._open(values)
            if reason is not None:
                self.refused[values] = reason
                self.progress.note(f"{self.label(values)} is dropped: {reason}")
        return self._opened.get(values)

    def opened(self, values: Values) -> Session:
        """The session of a combination that is not dropped."""
        return self._opened[values]

    def first(self) -> Session:
        """The session of the first combination that can be traced.

        Raises:
            TraceError: none can, of as many as may be tried.
        """
        for values in itertools.islice(combinations(self.target.choices), self.options.trials):
            session = self.open(values)
            if session is not None:
                return session
        raise TraceError(self.none_can_be_planned())

    def none_can_be_planned(self) -> str:
        """In words that all combinations that were tried are refused, and why the first."""
        values, reason = next(iter(self.refused.items()))
        return (
            f"none of {len(self.refused)} combinations of choices of `{self.target.name}` can be planned; "
            f"{self.label(values)} {reason}"
        )

    def named(self, values: Values) -> dict[str, Value]:
        """The values of a combination by the names of the choices."""
        return dict(zip(self.target.choices, values, strict=True))

    def label(self, values: Values) -> str:
        """A readable name of a combination."""
        return combination_label(self.named(values))

    def _open(self, values: Values) -> str | None:
        """Trace a combination; why it is dropped, or None."""
        known = next(iter(self._opened), None)
        progress = self.progress if known is None else Progress(quiet=True)  # its notes are said once
        try:
            session = open_session(self.target.bound(self.named(values)), self.options, progress)
        except TraceError as error:
            return f"cannot be traced: {str(error).splitlines()[0]}"
        if known is not None and not _same_arrays(self._opened[known].traced, session.traced):
            return f"takes or gives other arrays than {self.label(known)}: only the program may change"
        self._opened[values] = replace(session, progress=self.progress)
        return None


def _same_arrays(one: Traced, other: Traced) -> bool:
    return (one.argument_types, one.result_types) == (other.argument_types, other.result_types)
