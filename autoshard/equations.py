"""The equations of a jaxpr as one flat list in program order, loop bodies in place: the data, and its
recorder.

Every value gets a number; equations read and write numbers. `autoshard.walking` fills the lists from a
jaxpr; no sharding rule is needed for that, so that a plan can be applied to a function by walking it once
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from autoshard.primitives import type_of
from autoshard.scopes import Scope
from autoshard.search.graph import Loop, OpKind, Tie


@dataclass(frozen=True, slots=True)
class TracedValue:
    """A value before rules are known; the fields are those of `autoshard.search.graph.Value`."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: float
    name: str
    producer: int
    free: bool
    stored_bytes: float
    loop: int


@dataclass(frozen=True, slots=True)
class Equation:
    """One leaf equation. `eqn` is None where a value is handed to the next iteration or to the caller."""

    index: int
    eqn: JaxprEqn | None
    primitive: str
    kind: OpKind
    operands: tuple[int, ...]
    results: tuple[int, ...]
    flops: float
    trips: int
    loop: int
    source: str
    scope: str
    equation: str
    path: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Equations:
    """A walked jaxpr: values, equations, ties, loops and the flat arguments and results as value numbers."""

    values: tuple[TracedValue, ...]
    equations: tuple[Equation, ...]
    ties: tuple[Tie, ...]
    loops: tuple[Loop, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    constants: tuple[int, ...]
    traced: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the walk stands: path of equation positions, innermost loop, executions per step, scope."""

    path: str
    loop: int
    trips: int
    scope: Scope = field(default_factory=Scope)

    def slot(self, kind: str, position: int) -> Place:
        """The place of a hand-over: `init`, `carry`, `y` or `out` number `position` of the equation here."""
        return replace(self, path=f"{self.path}:{kind}{position}")


class Mark(NamedTuple):
    """How long a recorder's lists were."""

    values: int
    equations: int
    ties: int
    loops: int
    traced: int


@dataclass(slots=True)
class Recorder:
    """The lists of one walk; they only grow, except when a loop is walked again."""

    values: list[TracedValue] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    traced: int = 0

    def value(
        self,
        aval: Any,
        name: str,
        *,
        producer: int = -1,
        free: bool = False,
        stored: float = 0.0,
        loop: int = -1,
    ) -> int:
        """Record a value of the type of `aval`; return its number."""
        index, kind = len(self.values), type_of(aval)
        self.values.append(
            TracedValue(index, kind.shape, kind.dtype, kind.nbytes, name, producer, free, stored, loop)
        )
        return index

    def constants(self, variables: Sequence[Any]) -> list[int]:
        """Record values for the closed-over constants of a nested jaxpr."""
        return [self.value(v.aval, "constant", free=True) for v in variables]

    def change(self, value: int, **fields: Any) -> None:
        """Replace fields of a recorded value."""
        self.values[value] = replace(self.values[value], **fields)

    def hand_over(self, source: int, name: str, place: Place) -> int:
        """Record an identity from a value to the slot in which the next iteration or the caller finds it."""
        index, result = len(self.equations), len(self.values)
        value = self.values[source]
        self.values.append(
            replace(value, index=result, producer=index, loop=place.loop, name=name or value.name)
        )
        self.equations.append(
            Equation(
                index=index,
                eqn=None,
                primitive="identity",
                kind=OpKind.IDENTITY,
                operands=(source,),
                results=(result,),
                flops=0.0,
                trips=place.trips,
                loop=place.loop,
                source="",
                scope="",
                equation="",
                path=place.path,
                name=name,
            )
        )
        return result

    def tie(self, outer: int, inner: int) -> None:
        """Tie two values of one layout; the first dim of an outer value of higher rank stays whole."""
        skipped = len(self.values[outer].shape) - len(self.values[inner].shape)
        self.ties.append(Tie(outer, inner, tuple(range(skipped, len(self.values[outer].shape)))))

    def enter(self, place: Place, trips: int, *, known: bool) -> Place:
        """Begin a loop of so many trips per step; return the place of its body."""
        loop = Loop(len(self.loops), place.loop, len(self.equations), -1, trips, known)
        self.loops.append(loop)
        return replace(place, loop=loop.index, trips=loop.trips)

    def leave(self, inside: Place) -> None:
        """End the loop whose body is at `inside`."""
        self.loops[inside.loop] = replace(self.loops[inside.loop], stop=len(self.equations))

    def mark(self) -> Mark:
        """Remember the state."""
        return Mark(len(self.values), len(self.equations), len(self.ties), len(self.loops), self.traced)

    def rewind(self, mark: Mark) -> None:
        """Forget what was recorded after `mark`."""
        del self.values[mark.values :]
        del self.equations[mark.equations :]
        del self.ties[mark.ties :]
        del self.loops[mark.loops :]
        self.traced = mark.traced
