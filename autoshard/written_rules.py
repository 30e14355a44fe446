"""Rules written by hand, where lowering would lose the meaning or where Shardy has no rule.

What nothing is known of is replicated and says so: `Rule.ruled` is False.
"""

from __future__ import annotations

from collections.abc import Callable

from jax.extend.core import JaxprEqn, Literal

from autoshard.factor_table import FactorTable, Rule
from autoshard.primitives import OPAQUE, shape_of
from autoshard.ragged_rules import ragged_rule
from autoshard.search.graph import Dims, Factor, FactorKind

_SAME_SHAPE = frozenset(
    {
        "copy",
        "copy_p",
        "device_put",
        "layout_constraint",
        "mesh_cast",
        "name",
        "optimization_barrier",
        "reshard",
        "sharding_constraint",
        "stop_gradient",
    }
)
"""Results are the operands, one by one."""
_POINTWISE = frozenset(
    {
        "igamma",
        "igamma_grad_a",
        "igammac",
        "nextafter",
        "polygamma",
        "random_gamma_grad",
        "regularized_incomplete_beta",
        "zeta",
    }
)
"""Pointwise, but lowered to loops or to ops that Shardy has no rule for."""
_REFERENCES = frozenset({"addupdate", "freeze", "get", "new_ref", "swap"})
"""Reads and writes of mutable arrays."""
_UNKNOWN = frozenset({"eigh", "eigh_qdwh", "eigh_jacobi"})
"""Shardy splits the dims of the matrices."""


def written_rule(eqn: JaxprEqn) -> Rule | None:
    """Return the hand-written rule of an equation, or None when Shardy is to be asked."""
    name = eqn.primitive.name
    if name in OPAQUE or name in _UNKNOWN:
        return replicated_rule(eqn)
    if name in _REFERENCES:
        return _pointwise_rule(eqn) or replicated_rule(eqn)
    if eqn.effects:
        return replicated_rule(eqn)
    find = _RULES.get(name)
    return find(eqn) if find is not None else None


def replicated_rule(eqn: JaxprEqn) -> Rule:
    """Return the rule of an equation that nothing is known of: every dim stays whole."""
    factors: list[Factor] = []

    def whole(shape: tuple[int, ...]) -> Dims:
        dims = []
        for size in shape:
            dims.append((len(factors),) if size > 1 else ())
            if size > 1:
                factors.append(Factor(size, FactorKind.REPLICATED))
        return tuple(dims)

    operands, results = shapes(eqn)
    dims = [whole(shape) for shape in operands], [whole(shape) for shape in results]
    return Rule(tuple(factors), tuple(dims[0]), tuple(dims[1]), ruled=False)


def _same_rule(eqn: JaxprEqn) -> Rule | None:
    """Operand i and result i share all their dims."""
    operands, results = shapes(eqn)
    if operands != results:
        return None
    table = FactorTable()
    dims = [[(table.add(size),) for size in shape] for shape in operands]
    return table.rule(dims, dims, operands, results)


def _pointwise_rule(eqn: JaxprEqn) -> Rule | None:
    """All operands and results share their dims, scalars aside."""
    operands, results = shapes(eqn)
    met = {shape for shape in (*operands, *results) if shape}
    if len(met) != 1:
        return None
    table = FactorTable()
    dims = [(table.add(size),) for size in met.pop()]
    return table.rule(
        [dims if shape else [] for shape in operands],
        [dims if shape else [] for shape in results],
        operands,
        results,
    )


def _top_k_rule(eqn: JaxprEqn) -> Rule | None:
    """Values and indices share the dims of the operand but the one that is searched, which stays whole."""
    operands, results = shapes(eqn)
    if len(operands) != 1:
        return None
    axis = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1)) % len(operands[0])
    table = FactorTable()
    dims = [(table.add(size),) for size in operands[0]]
    found = [(table.add(size),) for size in results[0]]
    for whole in (dims[axis], found[axis]):
        table.replicate(whole[0])
    result = [found[axis] if i == axis else dim for i, dim in enumerate(dims)]
    return table.rule([dims], [result for _ in results], operands, results)


def _update_slice_rule(eqn: JaxprEqn) -> Rule | None:
    """A dim of which one element is written is split; where more are written it stays whole.

    The chip that has the element writes it. Shardy says so in some versions only.
    """
    operands, results = shapes(eqn)
    if any(isinstance(v, Literal) for v in eqn.invars[:2]):
        return None
    table = FactorTable()
    held = [(table.add(size),) for size in operands[0]]
    written = []
    for dim, size, count in zip(held, operands[0], operands[1], strict=True):
        written.append(dim if size == count else (table.add(count),))
        if 1 < count < size:
            table.replicate(dim[0])
            table.replicate(written[-1][0])
    starts: list[list[tuple[int, ...]]] = [[] for _ in operands[2:]]
    return table.rule([held, written, *starts], [held], operands, results)


def _ragged_rule(eqn: JaxprEqn) -> Rule | None:
    return None if any(isinstance(v, Literal) for v in eqn.invars) else ragged_rule(eqn)


_RULES: dict[str, Callable[[JaxprEqn], Rule | None]] = {
    **dict.fromkeys(_SAME_SHAPE, _same_rule),
    **dict.fromkeys(_POINTWISE, _pointwise_rule),
    "approx_top_k": _top_k_rule,
    "dynamic_update_slice": _update_slice_rule,
    "ragged_dot_general": _ragged_rule,
    "top_k": _top_k_rule,
}


def shapes(eqn: JaxprEqn) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of the array operands (literals excluded) and of the results."""
    operands = [shape_of(v.aval) for v in eqn.invars if not isinstance(v, Literal)]
    return operands, [shape_of(v.aval) for v in eqn.outvars]
