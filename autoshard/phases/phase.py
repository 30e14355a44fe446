"""A phase: a traced function, how often it runs, and the pins and bans that are its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autoshard.errors import OptionError
from autoshard.phases.matching import Signature
from autoshard.pin_text import PinText, parse_ban, parse_pin
from autoshard.pinning import matches
from autoshard.search.errors import PinError
from autoshard.tune_session import Session

DEFAULT_TOKENS = 64
"""Tokens generated for one prompt when the user does not say: Pope et al. 2022, arXiv:2211.05102, table 2."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase to plan.

    Attributes:
        name: Its name, unique among the phases; plan files go by it.
        session: The traced function with the run's options, and of pins and bans those that match something
            of it.
        runs: How often it runs, in the unit of the other phases' runs.
    """

    name: str
    session: Session
    runs: float

    @property
    def signature(self) -> Signature:
        """Its arrays by path."""
        return Signature.of(self.name, self.session.traced)


def make_phases(sessions: Sequence[Session], runs: Sequence[float] | None) -> tuple[Phase, ...]:
    """Give each function a name, its runs, its pins and its bans.

    Args:
        sessions: The functions, all with the same options.
        runs: How often each runs; None: the first once, and each other once per generated token.

    Raises:
        OptionError: not as many runs as phases, or one that is not above 0.
        PinError: a pin or a ban matches nothing in any phase.
    """
    counts = checked_runs(runs, len(sessions))
    names = unique_names([session.target.name for session in sessions])
    options = sessions[0].options
    pins, bans = _apart(sessions, options.pins, parse_pin), _apart(sessions, options.forbid, parse_ban)
    return tuple(
        Phase(name, replace(session, options=replace(options, pins=own, forbid=banned)), count)
        for name, session, own, banned, count in zip(names, sessions, pins, bans, counts, strict=True)
    )


def checked_runs(runs: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """How often each of `count` phases runs; raises `OptionError` as `make_phases` does."""
    if runs is None:
        return (1.0, *(float(DEFAULT_TOKENS),) * (count - 1))
    if len(runs) != count or not all(0 < each < float("inf") for each in runs):
        raise OptionError(
            f"`weights` is `{','.join(f'{each:g}' for each in runs)}`, expected a number above 0 for each of "
            f"the {count} phases: how often it runs, such as `1,64` for one prefill and 64 decode steps"
        )
    return tuple(map(float, runs))


def unique_names(names: Sequence[str]) -> list[str]:
    """Tell phases of one name apart by `-2`, `-3`."""
    counts: dict[str, int] = {}
    told: list[str] = []
    for name in names:
        fresh = name
        while fresh in told:
            counts[name] = counts.get(name, 1) + 1
            fresh = f"{name}-{counts[name]}"
        told.append(fresh)
    return told


def _apart(
    sessions: Sequence[Session], texts: Sequence[str], parse: Callable[[str], PinText]
) -> list[tuple[str, ...]]:
    """For each phase those of the pins or bans that match something of it."""
    apart = [tuple(text for text in texts if matches(parse(text), s.traced, s.graph)) for s in sessions]
    lost = next((text for text in texts if not any(text in own for own in apart)), None)
    if lost is not None:
        names = " nor of ".join(f"`{session.target.name}`" for session in sessions)
        raise PinError(
            f"`{lost}` matches nothing of {names}; `autoshard tune` of one of them says what is near to it"
        )
    return apart
