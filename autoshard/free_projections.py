"""A plan with projections into heads left to the compiler, where that shards them alike.

A constraint on what an einsum reads or makes stays in the program until XLA has partitioned it, and no
rewrite goes across it. Where a projection is taken apart into heads at once, XLA would rather make heads of
the weight and have the einsum make heads. Which is faster nobody can tell from outside: the scores of a
blocked attention behind it fuse better (PaLM 62B prefill on v5p:2x2x4, 3.23 -> 3.02 s estimated), a decode
step's one row does not fill the tiles (Llama-3-8B on v5e:2x4, 10.6 -> 11.0 ms). So the compiler is asked
(`autoshard.projection_refinement`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord

if TYPE_CHECKING:  # explaining a plan needs no JAX
    from autoshard.equations import Equation, Equations


def with_free_projections(plan: Plan, equations: Equations) -> Plan | None:
    """Return the plan without constraints on projections into heads that move nothing.

    Args:
        plan: The plan.
        equations: Of its function.

    Returns:
        The plan; None where it constrains no such projection.
    """
    projections = taken_apart(equations)
    einsums = tuple(_freed(einsum) if _is_free(einsum, projections) else einsum for einsum in plan.einsums)
    return None if einsums == plan.einsums else msgspec.structs.replace(plan, einsums=einsums)


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


def _is_free(einsum: EinsumRecord, projections: frozenset[str]) -> bool:
    """Whether all copies of an einsum are such projections, and nothing moves before or behind them."""
    return not einsum.collectives and projections.issuperset(expand_name(einsum.name))


def _freed(einsum: EinsumRecord) -> EinsumRecord:
    return msgspec.structs.replace(einsum, operands=(None,) * len(einsum.operands), result=None)
