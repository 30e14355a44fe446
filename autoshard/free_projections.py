"""A plan with projections into heads left to the compiler, where that shards them alike.

A constraint on what an einsum reads or makes stays in the program until XLA has partitioned it, and no
rewrite goes across it. Where a projection is taken apart into heads at once, XLA would rather make heads of
the weight and have the einsum make heads. Which is faster nobody can tell from outside: the scores of a
blocked attention behind it fuse better (PaLM 62B prefill on v5p:2x2x4, 3.23 -> 3.02 s estimated), a decode
step's one row does not fill the tiles (Llama-3-8B on v5e:2x4, 10.6 -> 11.0 ms). So the compiler is asked
(`autoshard.projection_refinement`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord

if TYPE_CHECKING:  # explaining a plan needs no JAX
    from autoshard.equations import Equation, Equations


def freed_plans(plan: Plan, equations: Equations) -> tuple[Plan, ...]:
    """Return the plan without constraints on projections into heads, and with those that move something.

    Args:
        plan: The plan.
        equations: Of its function.

    Returns:
        Plans that differ from it and from each other, the one with fewer constraints first.
    """
    projections = taken_apart(equations)
    every = _freed(plan, lambda einsum: _are(einsum, projections))
    unmoved = _freed(plan, lambda einsum: _are(einsum, projections) and not einsum.collectives)
    return tuple(each for each in ((every,) if every == unmoved else (every, unmoved)) if each != plan)


def free_einsums(plan: Plan) -> tuple[str, ...]:
    """Return the names of the einsums that a plan leaves to the compiler, as they stand in the plan."""
    return tuple(each.name for each in plan.einsums if each.result is None and not any(each.operands))


def taken_apart(equations: Equations) -> frozenset[str]:
    """Names of equations whose only reader reshapes what they make into a tensor of more dims."""
    readers: dict[int, list[Equation]] = {}
    for equation in equations.equations:
        for value in equation.operands:
            readers.setdefault(value, []).append(equation)
    return frozenset(
        equation.name
        for equation in equations.equations
        if len(equation.results) == 1
        and len(found := readers.get(equation.results[0], [])) == 1
        and _takes_apart(found[0], equations)
    )


def _takes_apart(equation: Equation, equations: Equations) -> bool:
    """Whether an equation reshapes a tensor into one of more dims."""
    if equation.primitive != "reshape":
        return False
    before, after = (len(equations.values[v].shape) for v in (equation.operands[0], equation.results[0]))
    return after > before


def _are(einsum: EinsumRecord, projections: frozenset[str]) -> bool:
    """Whether all copies of an einsum are projections."""
    return projections.issuperset(expand_name(einsum.name))


def _freed(plan: Plan, is_free: Callable[[EinsumRecord], bool]) -> Plan:
    """The plan without constraints on some einsums."""
    einsums = tuple(
        msgspec.structs.replace(einsum, operands=(None,) * len(einsum.operands), result=None)
        if is_free(einsum)
        else einsum
        for einsum in plan.einsums
    )
    return msgspec.structs.replace(plan, einsums=einsums)
