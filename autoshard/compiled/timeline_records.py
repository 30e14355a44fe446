"""What a compiled program's timeline says: sums, its collectives, and each event with its begin and end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoshard.compiled.hlo import Instruction
from autoshard.permute_routing import Link

Lane = Literal["core", "wait", "links", "copy", "body"]
"""Who is busy: `core` computes; `wait` is the core waiting for a collective or a copy; `links` carry a
collective; `copy` moves data between HBM and on-chip memory; `body` is a loop, a call or a branch."""


@dataclass(frozen=True, slots=True)
class Event:
    """An instruction at work, in the time of its own computation.

    Attributes:
        lane: who is busy.
        instruction: the instruction; of a wait the one that is waited for.
        start_seconds: from the begin of the computation's one execution.
        seconds: how long; of a body all its trips.
        links: of a collective, the links that it holds.
        collective: of a collective and of a wait for one, what it is.
        nbytes: bytes of a copy; of a collective, what it is priced by.
        trips: how often a body runs.
        body: the timeline of one trip.
    """

    lane: Lane
    instruction: Instruction
    start_seconds: float
    seconds: float
    links: frozenset[Link] = frozenset()
    collective: CompiledCollective | None = None
    nbytes: float | None = None
    trips: int = 1
    body: Timeline | None = None


@dataclass(frozen=True, slots=True)
class CompiledCollective:
    """A collective of the schedule; bytes and seconds are for one execution, on one chip.

    Attributes:
        name: of the HLO instruction.
        kind: `all-gather`, `reduce-scatter`, `all-reduce`, `all-to-all` or `collective-permute`.
        axes: names of the mesh axes that its groups span.
        exact: whether the groups are exactly the chips along these axes; else the price is an upper estimate.
        bytes_per_chip: all-gather: output; others: input.
        trips: how often it runs.
        seconds: its time on the links.
        exposed_seconds: the part of it, and of waiting for its links, that nothing hides.
        asynchronous: whether it runs beside compute.
        op_name: path of the JAX operation, empty where unknown.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    exact: bool
    bytes_per_chip: float
    trips: int
    seconds: float
    exposed_seconds: float
    asynchronous: bool
    op_name: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Estimated time of one run of a program.

    Attributes:
        seconds: compute + filled + exposed collectives.
        compute_seconds: the compiler's cycles over the clock.
        collective_seconds: all collectives, hidden or not.
        exposed_collective_seconds: what the walk waited for collectives.
        filled_seconds: instructions without cycles, from their bytes, and waits for copies from HBM.
        collectives: every collective, in the order of the schedule.
        unknown_loops: loops whose trip count could not be read; they are counted once.
        events: what happens when, in the order of the schedule; what takes no time is left out.
    """

    seconds: float
    compute_seconds: float
    collective_seconds: float
    exposed_collective_seconds: float
    filled_seconds: float
    collectives: tuple[CompiledCollective, ...]
    unknown_loops: tuple[str, ...] = ()
    events: tuple[Event, ...] = field(default=(), repr=False)
