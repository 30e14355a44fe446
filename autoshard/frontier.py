"""The Pareto front of plans: step time, chip-seconds per step and HBM per chip, and the pick among them.

A plan on a slice of n chips that takes t seconds costs n * t chip-seconds a step, n * t / tokens per token
(Pope et al., arXiv:2211.05102, figure 1: latency against chip-seconds per token). Within a slice cost follows
time, and what is traded for time is memory; between slices it is cost. So a plan is dominated

* by one of its slice that is as fast and needs no more HBM per chip,
* by one of another slice that is as fast and costs no more chip-seconds,

and better in one of the two. Memory per chip is not compared between slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autoshard.errors import InfeasibleError, OptionError
from autoshard.plan import Plan
from autoshard.tune_options import LATENCY, THROUGHPUT

OBJECTIVES = (LATENCY, THROUGHPUT)
_ROUNDING_BYTES = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of the front.

    Attributes:
        slice: Its slice.
        n_chips: How many chips that has.
        mesh: The mesh, such as "x=4 y=4".
        step_seconds: Predicted time of a step.
        lower_bound_seconds: Proven: no plan of the slice within the budget is faster.
        hbm_bytes_per_chip: What it needs.
        hbm_budget_bytes: What it was allowed: no faster plan of the slice needs as little.
        tokens: Tokens of a step, where they are known.
        dominated_by: Position of a row that is better; None where there is none.
        plan: The plan; left out of the table.
    """

    slice: str
    n_chips: int
    mesh: str
    step_seconds: float
    lower_bound_seconds: float
    hbm_bytes_per_chip: float
    hbm_budget_bytes: float
    tokens: int | None = None
    dominated_by: int | None = None
    plan: Plan | None = field(default=None, repr=False, compare=False)

    @property
    def gap(self) -> float:
        """Relative distance of the step time to its proven lower bound."""
        return (
            (self.step_seconds - self.lower_bound_seconds) / self.step_seconds if self.step_seconds else 0.0
        )

    @property
    def chip_seconds(self) -> float:
        """Chip-seconds of a step."""
        return self.n_chips * self.step_seconds

    @property
    def chip_seconds_per_token(self) -> float | None:
        """Chip-seconds of a token, where the number of tokens is known."""
        return self.chip_seconds / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True)
class Wish:
    """What to pick: the fastest plan within a cost limit, or the cheapest within a latency limit.

    Attributes:
        objective: "latency" or "throughput".
        cost_limit: Most chip-seconds of a step; for latency.
        latency_limit_seconds: Longest step; for throughput.

    Raises:
        OptionError: the objective is not known, a limit is of the other objective, or not above 0.
    """

    objective: str = LATENCY
    cost_limit: float | None = None
    latency_limit_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise OptionError(f"`objective` is `{self.objective}`, expected one of {', '.join(OBJECTIVES)}")
        if self.objective == LATENCY and self.latency_limit_seconds is not None:
            raise OptionError(
                "a latency limit goes with the objective `throughput`: the cheapest plan within it; the "
                "objective is `latency`, whose limit is one of cost"
            )
        if self.objective == THROUGHPUT and self.cost_limit is not None:
            raise OptionError(
                "a cost limit goes with the objective `latency`: the fastest plan within it; the objective "
                "is `throughput`, whose limit is one of latency"
            )
        limit = self.limit
        if limit is not None and not 0 < limit < math.inf:
            raise OptionError(f"the limit is {limit}, expected a number above 0")

    @property
    def limit(self) -> float | None:
        """The limit of the objective, chip-seconds or seconds."""
        return self.cost_limit if self.objective == LATENCY else self.latency_limit_seconds

    def limited(self, row: Row) -> float:
        """What of a row is limited."""
        return row.chip_seconds if self.objective == LATENCY else row.step_seconds

    def minimised(self, row: Row) -> tuple[float, float]:
        """What of a row is minimised, and what decides among equals."""
        pair = (row.step_seconds, row.chip_seconds)
        return pair if self.objective == LATENCY else (pair[1], pair[0])


def best_in_budgets(rows: Sequence[Row]) -> list[Row]:
    """The fastest of one slice's plans under each of their budgets, the largest budget first.

    What a prediction adds to what a search minimises (permutes for the order of axes) may make a plan that
    was found under a small budget the best one under a larger budget too; it then has that budget and the
    bound that was proven there.
    """
    found: list[Row] = []
    for asked in sorted(rows, key=lambda row: -row.hbm_budget_bytes):
        able = (row for row in rows if row.hbm_bytes_per_chip <= asked.hbm_budget_bytes + _ROUNDING_BYTES)
        best = min(able, key=lambda row: (row.step_seconds, row.hbm_bytes_per_chip))
        if not found or best.plan is not found[-1].plan or best.step_seconds != found[-1].step_seconds:
            bound = min(asked.lower_bound_seconds, best.step_seconds)
            found.append(replace(best, lower_bound_seconds=bound, hbm_budget_bytes=asked.hbm_budget_bytes))
    return found


def with_dominated(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with the one that dominates it: of several the fastest."""

    def better(row: Row) -> int | None:
        found = [n for n, other in enumerate(rows) if _beats_at_home(other, row) or _beats_abroad(other, row)]
        return min(found, key=lambda n: rows[n].step_seconds) if found else None

    return [replace(row, dominated_by=better(row)) for row in rows]


def _beats_at_home(other: Row, row: Row) -> bool:
    ours = (row.step_seconds, row.hbm_bytes_per_chip)
    return other.slice == row.slice and _beats((other.step_seconds, other.hbm_bytes_per_chip), ours)


def _beats_abroad(other: Row, row: Row) -> bool:
    ours = (row.step_seconds, row.chip_seconds)
    return other.slice != row.slice and _beats((other.step_seconds, other.chip_seconds), ours)


def _beats(theirs: tuple[float, float], ours: tuple[float, float]) -> bool:
    return all(a <= b for a, b in zip(theirs, ours, strict=True)) and theirs != ours


def pick(rows: Sequence[Row], wish: Wish) -> int:
    """The position of the row that is wanted; of equals the first.

    Raises:
        InfeasibleError: no row keeps within the limit.
    """
    limit = wish.limit
    able = [n for n, row in enumerate(rows) if limit is None or wish.limited(row) <= limit]
    if able:
        return min(able, key=lambda n: wish.minimised(rows[n]))
    least = min(rows, key=wish.limited)
    kind, unit = ("cost", "chip-seconds") if wish.objective == LATENCY else ("latency", "s")
    raise InfeasibleError(
        f"no plan keeps within the {kind} limit of {limit:.4g} {unit} a step: the least is "
        f"{wish.limited(least):.4g} {unit}, on {least.slice}; raise the limit or give other slices"
    )
