"""What an audit says: collectives that were predicted and collectives that were compiled, side by side.

Bytes are those of a chip, by the convention of `autoshard.cost.collectives` (all-gather: its output, others:
their input), and `total_*` counts all executions in a step. So a reduce-scatter that the compiler made an
all-reduce and a slice has the bytes that were predicted, but twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoshard.audit.attribution import Attributed

Verdict = Literal["unexpected", "missing", "another form", "agrees", "found"]
VERDICTS: tuple[Verdict, ...] = ("unexpected", "missing", "another form", "agrees", "found")
"""Compiled but not predicted; predicted but not compiled; compiled as other kinds or over other axes; as
predicted; and, without a plan, just compiled."""

ALLOWED_GROWTH = 2.0
"""What may answer a prediction, times its bytes: an all-reduce done as a reduce-scatter and an all-gather
moves twice its bytes."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """A collective of a plan's einsum or tensor; bytes and seconds of one execution.

    Attributes:
        entry: Name of the einsum or the tensor in the plan, a pattern where it has copies.
        source: Its line, such as `model.py:27`.
        tensor: What is moved.
        kind: As in the plan.
        axes: Mesh axes, in the order of the mesh.
        bytes_per_chip: All-gather: output; others: input.
        seconds: Its predicted time.
        trips: How often one copy runs in a step.
        copies: How many copies of the entry there are.
    """

    entry: str
    source: str
    tensor: str
    kind: str
    axes: tuple[str, ...]
    bytes_per_chip: float
    seconds: float
    trips: int = 1
    copies: int = 1

    @property
    def runs(self) -> int:
        """How often it runs in a step, all copies."""
        return self.trips * self.copies

    @property
    def total_bytes(self) -> float:
        """Bytes per chip of all executions."""
        return self.bytes_per_chip * self.runs

    @property
    def total_seconds(self) -> float:
        """Time of all executions."""
        return self.seconds * self.runs


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled collective and the place in the function that it was attributed to.

    Attributes:
        collective: What the compiler made, with its evidence.
        entry: Name of the plan's einsum or tensor, None where it serves none of them.
        op: The einsum or named operation that it belongs to, empty where nothing is known.
        source: Its line, such as `model.py:27`, empty where unknown.
        equation: Number of the traced equation, None where unknown.
        hints: Lines of the user's own constraints next to it.
    """

    collective: Attributed
    entry: str | None
    op: str
    source: str
    equation: int | None = None
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Predicted and compiled collectives that answer each other."""

    verdict: Verdict
    predicted: tuple[Predicted, ...] = ()
    compiled: tuple[Compiled, ...] = ()

    @property
    def predicted_bytes(self) -> float:
        """Bytes per chip and step that were predicted."""
        return sum(each.total_bytes for each in self.predicted)

    @property
    def compiled_bytes(self) -> float:
        """Bytes per chip and step of the compiled program."""
        return sum(each.collective.total_bytes for each in self.compiled)

    @property
    def unexpected_bytes(self) -> float:
        """Those of the compiled bytes that nothing predicted accounts for."""
        return self.compiled_bytes if self.verdict == "unexpected" else 0.0

    @property
    def predicted_seconds(self) -> float:
        """Time that was predicted for a step."""
        return sum(each.total_seconds for each in self.predicted)

    @property
    def compiled_seconds(self) -> float:
        """Estimated time on the links in a step."""
        return sum(each.collective.total_seconds for each in self.compiled)

    @property
    def exposed_seconds(self) -> float:
        """The part of it that nothing hides."""
        return sum(each.collective.exposed_seconds * each.collective.trips for each in self.compiled)


@dataclass(frozen=True, slots=True)
class Replicated:
    """A reshard that was done by replicating the tensor on every chip.

    Attributes:
        op: The operation, empty where unknown.
        source: Its line, empty where unknown.
        tensor: Type of what is resharded, as the compiler sees it: possibly a shard.
        held: Its spec, in XLA's notation where it is no spec.
        wanted: The spec that it is brought to.
        warning: What the compiler said.
    """

    op: str
    source: str
    tensor: str
    held: str
    wanted: str
    warning: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdicts on all collectives of a program.

    Attributes:
        function: Name of the function.
        slice: Its slice.
        mesh: Size of each mesh axis.
        has_plan: Whether anything was predicted.
        rows: Verdicts, the gravest first and in each the most bytes first.
        rematerialised: The reshards that the compiler could only do by replicating.
        unknown_loops: Loops whose trip count could not be read; they are counted once.
        seconds_estimated: Step time by the compiler's schedule.
        notes: What else the reader must know.
    """

    function: str
    slice: str
    mesh: dict[str, int]
    has_plan: bool
    rows: tuple[Row, ...]
    rematerialised: tuple[Replicated, ...] = ()
    unknown_loops: tuple[str, ...] = ()
    seconds_estimated: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def compiled(self) -> tuple[Compiled, ...]:
        """All compiled collectives."""
        return tuple(each for row in self.rows for each in row.compiled)

    @property
    def compiled_bytes(self) -> float:
        """Bytes per chip and step of all compiled collectives."""
        return sum(row.compiled_bytes for row in self.rows)

    @property
    def predicted_bytes(self) -> float:
        """Bytes per chip and step of all predicted collectives."""
        return sum(row.predicted_bytes for row in self.rows)

    @property
    def attributed_bytes(self) -> float:
        """Those of the compiled bytes whose einsum or operation is known."""
        return sum(each.collective.total_bytes for each in self.compiled if each.op)

    @property
    def unexpected_bytes(self) -> float:
        """Compiled bytes that nothing predicted accounts for."""
        return sum(row.unexpected_bytes for row in self.rows)

    @property
    def unexpected_fraction(self) -> float:
        """Unexpected bytes as a fraction of all compiled ones; 0 for a program without collectives."""
        return self.unexpected_bytes / self.compiled_bytes if self.compiled_bytes else 0.0


def in_order(rows: list[Row]) -> tuple[Row, ...]:
    """Sort rows: the gravest verdict first, then the most bytes."""

    def key(row: Row) -> tuple[int, float]:
        return VERDICTS.index(row.verdict), -max(row.compiled_bytes, row.predicted_bytes)

    return tuple(sorted(rows, key=key))
