"""Rules written by hand, where lowering would lose the meaning or where Shardy has no rule.

What nothing is known of is replicated and says so.
"""

from __future__ import annotations

from jax.extend.core import JaxprEqn, Literal

from autoshard.factor_table import FactorTable, Rule
from autoshard.primitives import shape_of
from autoshard.search.graph import Dims, Factor, FactorKind

_SAME_SHAPE = frozenset(
    {"sharding_constraint", "reshard", "optimization_barrier", "name", "copy", "copy_p", "stop_gradient"}
)
_TOP_K = frozenset({"top_k", "approx_top_k"})
_OPAQUE = frozenset(
    {
        "shard_map",
        "pallas_call",
        "pure_callback",
        "io_callback",
        "debug_callback",
        "debug_print",
        "custom_partitioning",
    }
)


def written_rule(eqn: JaxprEqn) -> Rule | None:
    """Return the hand-written rule of an equation, or None when Shardy is to be asked."""
    name = eqn.primitive.name
    if name in _OPAQUE or eqn.effects:
        return replicated_rule(eqn)
    operands, results = shapes(eqn)
    if name in _SAME_SHAPE and operands == results:
        return _same_rule(eqn)
    if name in _TOP_K and len(operands) == 1:
        return _top_k_rule(eqn)
    if name == "ragged_dot_general" and [len(shape) for shape in operands] == [2, 3, 1]:
        return _ragged_rule(eqn)
    return None


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


def _same_rule(eqn: JaxprEqn) -> Rule:
    """Operand i and result i share all their dims."""
    operands, results = shapes(eqn)
    table = FactorTable()
    dims = [[(table.add(size),) for size in shape] for shape in operands]
    return table.rule(dims, dims, operands, results)


def _top_k_rule(eqn: JaxprEqn) -> Rule:
    """Values and indices share the dims of the operand but the one that is searched, which stays whole."""
    (operand,), results = shapes(eqn)
    axis = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1)) % len(operand)
    table = FactorTable()
    dims = [(table.add(size),) for size in operand]
    found = [(table.add(size),) for size in results[0]]
    for whole in (dims[axis], found[axis]):
        table.replicate(whole[0])
    result = [found[axis] if i == axis else dim for i, dim in enumerate(dims)]
    return table.rule([dims], [result for _ in results], [operand], results)


def _ragged_rule(eqn: JaxprEqn) -> Rule:
    """The grouped matmul m k, g k n, g -> m n: rows and columns split, groups stay whole."""
    (rows, inner), (groups, _, columns), _ = shapes(eqn)[0]
    table = FactorTable()
    m, k, n, g = (table.add(size) for size in (rows, inner, columns, groups))
    table.reduce(k)
    table.replicate(g)
    operands = [[(m,), (k,)], [(g,), (k,), (n,)], [(g,)]]
    return table.rule(operands, [[(m,), (n,)]], *shapes(eqn))


def shapes(eqn: JaxprEqn) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of the array operands (literals excluded) and of the results."""
    operands = [shape_of(v.aval) for v in eqn.invars if not isinstance(v, Literal)]
    return operands, [shape_of(v.aval) for v in eqn.outvars]
