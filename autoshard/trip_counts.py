"""The trip count of `while i < n: i += step`, where the jaxpr shows the start, the bound and the step.

    lt: ceil((n - i) / step)        le: floor((n - i) / step) + 1        gt, ge: the same counting down

`lax.fori_loop` over traced but constant bounds and hand-written blockwise attention are of this form. The
bound may differ between the iterations of the loops around it: so may the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from autoshard.known_integers import Integers, Known, Trips

_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
"""What a comparison is with its operands exchanged."""


@dataclass(frozen=True, slots=True)
class LoopBody:
    """The body of a loop and what its first variables hold.

    Attributes:
        jaxpr: The body: constants, carried values, others.
        constants: Operands of the loop that are constants of the body.
        init: Operands of the loop that are carried.
    """

    jaxpr: Jaxpr
    constants: Sequence[Any]
    init: Sequence[Any]

    @property
    def carried(self) -> Sequence[Var]:
        """The variables of the carried values."""
        return self.jaxpr.invars[len(self.constants) :][: len(self.init)]

    def known(self, around: Known, trips: int | Integers | None) -> Known:
        """What is known in the body: its constants, and carried values that stay or are counted.

        Args:
            around: What is known around the loop.
            trips: How often the body runs; None where that is not known, then it is followed as if once.
        """
        runs = Trips.of(1 if trips is None else trips, around.iterations)
        held = around.inside(self.constants, self.jaxpr.invars[: len(self.constants)])
        values = {var: runs.spread(value) for var, value in held.values.items()}
        for position, var in enumerate(self.carried):
            start, step = around.value(self.init[position]), self.step(position, held)
            if start is None or step is None or (step and trips is None):
                continue
            values[var] = runs.counted(start, step) if step else runs.spread(start)
        found = {var: value for var, value in values.items() if value is not None}
        return Known(runs.total if runs.followed else 1, found)

    def step(self, position: int, held: Known) -> int | None:
        """What an iteration adds to a carried value: 0 for one that stays, None where it is not plain to see.

        Args:
            position: Which carried value.
            held: What is known of the body's constants.
        """
        before, after = self.carried[position], self.jaxpr.outvars[position]
        if after is before:
            return 0
        made = next((e for e in self.jaxpr.eqns if after in e.outvars), None)
        if made is None or made.primitive.name not in ("add", "sub"):
            return None
        left, right = made.invars
        if made.primitive.name == "add" and right is before:
            left, right = right, left
        step = held.value(right) if left is before else None
        if step is None or step.ndim:
            return None
        return int(step) if made.primitive.name == "add" else -int(step)


def trip_count(eqn: JaxprEqn, around: Known) -> Integers | None:
    """Return how often the body of a `while` runs, or None when the jaxpr does not show it.

    Args:
        eqn: The equation.
        around: What is known in the jaxpr that the equation is in.
    """
    n_cond = eqn.params["cond_nconsts"]
    body = while_body(eqn)
    cond: Jaxpr = eqn.params["cond_jaxpr"].jaxpr
    if not cond.eqns or cond.eqns[-1].primitive.name not in _MIRRORED:
        return None
    once = body.known(around, None).values
    inside = around.inside(eqn.invars[:n_cond], cond.invars[:n_cond])
    for var, carried in zip(cond.invars[n_cond:], body.carried, strict=True):
        if carried in once:
            inside.values[var] = once[carried]  # it stays as it is
    for before in cond.eqns[:-1]:
        inside.note(before)
    comparison, counter, bound = _test(cond.eqns[-1], inside)
    if bound is None or counter not in cond.invars[n_cond:]:
        return None
    position = cond.invars[n_cond:].index(counter)
    held = around.inside(body.constants, body.jaxpr.invars[: len(body.constants)])
    start, step = around.value(body.init[position]), body.step(position, held)
    return None if start is None or not step else _trips(comparison, start, bound, step)


def while_body(eqn: JaxprEqn) -> LoopBody:
    """Return the body of a `while`."""
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    return LoopBody(eqn.params["body_jaxpr"].jaxpr, eqn.invars[first:last], eqn.invars[last:])


def _test(eqn: JaxprEqn, inside: Known) -> tuple[str, Any, Integers | None]:
    """A comparison, as (comparison, what is not known, bound)."""
    name, (left, right) = eqn.primitive.name, eqn.invars
    if inside.value(right) is None:
        left, right, name = right, left, _MIRRORED[name]
    return name, None if isinstance(left, Literal) else left, inside.value(right)


def _trips(comparison: str, start: Integers, bound: Integers, step: int) -> Integers | None:
    if (step > 0) != (comparison in ("lt", "le")):
        return None
    distance = bound - start if step > 0 else start - bound
    trips = -(-distance // abs(step)) if comparison in ("lt", "gt") else distance // abs(step) + 1
    counts: Integers = np.maximum(trips, np.int64(0))
    return counts
