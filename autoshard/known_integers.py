"""Integer scalars that a jaxpr shows, from which trip counts are read: literals, counters, arithmetic.

Inside loops an integer may differ from iteration to iteration: the block up to which causal attention looks
is computed from the block that it is at. So an integer is known as the array of its values in all the
iterations of the loops around it, or as one value where it is the same in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from jax.extend.core import JaxprEqn, Literal, Var

from autoshard.primitives import type_of

Integers = npt.NDArray[np.int64]
"""Of shape (), or one for every iteration."""
MOST_ITERATIONS = 2**16
"""Beyond this many only what is the same in all iterations is kept."""

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "and": np.bitwise_and,
    "convert_element_type": np.array,
    "copy": np.array,
    "div": lambda a, b: np.trunc(a / np.where(b == 0, 1, b)),
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "or": np.bitwise_or,
    "rem": lambda a, b: np.fmod(a, np.where(b == 0, 1, b)),
    "select_n": lambda which, *cases: np.choose(which, cases),
    "sign": np.sign,
    "stop_gradient": np.array,
    "sub": np.subtract,
}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known in one jaxpr.

    Attributes:
        iterations: How often the jaxpr runs in the loops around it that are known.
        values: Variables whose values are known.
    """

    iterations: int = 1
    values: dict[Var, Integers] = field(default_factory=dict)

    def value(self, atom: Any) -> Integers | None:
        """Return the values of an operand, None where the jaxpr does not show them."""
        if not isinstance(atom, Literal):
            return self.values.get(atom)
        return np.array(int(atom.val)) if _is_integer(atom.aval) else None

    def note(self, eqn: JaxprEqn) -> None:
        """Add the result of an equation, where it is an integer made of known ones."""
        compute = _ARITHMETIC.get(eqn.primitive.name)
        if compute is None or not _is_integer(eqn.outvars[0].aval):
            return
        operands = [self.value(atom) for atom in eqn.invars]
        if all(operand is not None for operand in operands):
            self.values[eqn.outvars[0]] = np.asarray(compute(*operands)).astype(np.int64)

    def inside(self, atoms: Sequence[Any], inner: Sequence[Var]) -> Known:
        """What is known in a jaxpr that is run once for this one, and whose variables hold the operands."""
        values = zip(inner, map(self.value, atoms), strict=True)
        return Known(self.iterations, {var: value for var, value in values if value is not None})

    def take(self, results: Sequence[Var], inner: Known, outs: Sequence[Any]) -> None:
        """Add the results of a call, of which `outs` are known inside."""
        for var, atom in zip(results, outs, strict=True):
            value = inner.value(atom)
            if value is not None:
                self.values[var] = value


@dataclass(frozen=True, slots=True)
class Trips:
    """How often the body of a loop runs: one number for every iteration of the loops around it."""

    counts: Integers

    @staticmethod
    def of(count: int | Integers, iterations: int) -> Trips:
        """The same number for all iterations around it, or one for each."""
        return Trips(np.broadcast_to(np.asarray(count, np.int64), (iterations,)))

    @property
    def total(self) -> int:
        """Runs of the body in all iterations around it."""
        return int(self.counts.sum())

    def of_step(self, around: int) -> int:
        """Runs of the body per step, where the loops around it make `around` iterations per step."""
        return self.total * around // max(1, len(self.counts))

    @property
    def followed(self) -> bool:
        """Whether the iterations are few enough to follow what differs between them."""
        return self.total <= MOST_ITERATIONS

    def spread(self, value: Integers) -> Integers | None:
        """The values in every run of the body of what is known in every iteration around it."""
        if not value.ndim:
            return value
        return np.repeat(value, self.counts) if self.followed else None

    def counted(self, start: Integers, step: int) -> Integers | None:
        """The values of a counter in every run of the body."""
        first = self.spread(start)
        if first is None or not self.followed:
            return None
        index = [np.arange(count, dtype=np.int64) for count in self.counts]
        values: Integers = first + step * np.concatenate([np.zeros(0, np.int64), *index])
        return values


def _is_integer(aval: Any) -> bool:
    kind = type_of(aval)
    return not kind.shape and kind.dtype.startswith(("bool", "int", "uint"))
