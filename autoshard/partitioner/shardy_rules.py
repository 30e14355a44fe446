"""The rule of an equation, joined from Shardy's rules of the StableHLO ops that it lowers to.

An equation may lower to several ops (a gather clamps its indices, a cumsum is a call). Their rules are
joined at the SSA values that link them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal

from autoshard.factor_table import FactorTable, Rule
from autoshard.partitioner.shardy import LoweredFunction, LoweredOp, OpRule, lowered_functions
from autoshard.written_rules import replicated_rule, shapes

_PREFIX = "autoshard_rule_"
_POINTWISE = frozenset(
    f"chlo.{name}"
    for name in (
        *("acos", "acosh", "asin", "asinh", "atan", "atanh", "bessel_i1e", "conj", "cosh", "digamma", "erf"),
        *("erf_inv", "erfc", "is_inf", "is_neg_inf", "is_pos_inf", "lgamma", "sinh", "square", "tan"),
    )
)
"""Ops of one operand, which Shardy has no rules of."""
_Dims = list[tuple[int, ...]]
"""The dims of a tensor as factors of the table."""
_Known = dict[int, _Dims]
"""Dims of SSA values as factors of the table."""


def shardy_rules(eqns: Sequence[JaxprEqn]) -> list[Rule]:
    """Return the composed rule of each equation; equations that do not lower for TPU are replicated.

    All are lowered in one module; when that fails the list is halved: one bad equation costs only itself.
    """
    if not eqns:
        return []
    try:
        functions = lowered_functions(_lower(eqns))
    except Exception:  # whatever a foreign lowering rule raises: find the culprit by halving
        if len(eqns) == 1:
            return [replicated_rule(eqns[0])]
        middle = len(eqns) // 2
        return shardy_rules(eqns[:middle]) + shardy_rules(eqns[middle:])
    return [_compose(eqn, functions, f"{_PREFIX}{index}") for index, eqn in enumerate(eqns)]


def _lower(eqns: Sequence[JaxprEqn]) -> jax.stages.Lowered:
    leaves = [_leaf(eqn, f"{_PREFIX}{index}") for index, eqn in enumerate(eqns)]
    operands = [[_abstract(v) for v in eqn.invars if not isinstance(v, Literal)] for eqn in eqns]

    def all_leaves(operands: list[list[Any]]) -> list[Any]:
        return [leaf(*args) for leaf, args in zip(leaves, operands, strict=True)]

    lowered: jax.stages.Lowered = (
        jax.jit(all_leaves, keep_unused=True).trace(operands).lower(lowering_platforms=("tpu",))
    )
    return lowered


def _abstract(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


def _leaf(eqn: JaxprEqn, name: str) -> Callable[..., Any]:
    def leaf(*arrays: Any) -> Any:
        given = iter(arrays)
        operands = [v.val if isinstance(v, Literal) else next(given) for v in eqn.invars]
        return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))

    leaf.__name__ = name
    return jax.jit(leaf, keep_unused=True)


def _compose(eqn: JaxprEqn, functions: dict[str, LoweredFunction], name: str) -> Rule:
    """Join the rules of the ops that an equation lowers to."""
    operand_shapes, result_shapes = shapes(eqn)
    function = functions.get(name)
    if function is None or not _has_tensors(function, operand_shapes, result_shapes):
        return replicated_rule(eqn)
    table = FactorTable()
    known: _Known = {
        argument: [(table.add(size),) for size in shape]
        for argument, shape in zip(function.arguments, function.argument_shapes, strict=True)
    }
    operand_dims = list(known.values())
    if not _walk(function, known, functions, table):
        return replicated_rule(eqn)
    result_dims = [
        known.get(value) or [(table.add(size),) for size in shape]
        for value, shape in zip(function.returned, function.returned_shapes, strict=True)
    ]
    operands = _logical(operand_dims, operand_shapes, table)
    results = _logical(result_dims, result_shapes, table)
    return table.rule(operands, results, operand_shapes, result_shapes)


def _has_tensors(
    function: LoweredFunction, operands: Sequence[tuple[int, ...]], results: Sequence[tuple[int, ...]]
) -> bool:
    """Whether a function takes and returns these shapes; a PRNG key has dims of its own behind them."""
    pairs = [(function.argument_shapes, operands), (function.returned_shapes, results)]
    return all(
        len(lowered) == len(shapes)
        and all(have[: len(shape)] == shape for have, shape in zip(lowered, shapes, strict=True))
        for lowered, shapes in pairs
    )


def _logical(tensors: Sequence[_Dims], shapes: Sequence[tuple[int, ...]], table: FactorTable) -> list[_Dims]:
    """The dims that a program sees of lowered tensors; those inside a PRNG key stay whole."""
    for dims, shape in zip(tensors, shapes, strict=True):
        for dim in dims[len(shape) :]:
            for factor in dim:
                table.replicate(factor)
    return [dims[: len(shape)] for dims, shape in zip(tensors, shapes, strict=True)]


def _walk(
    function: LoweredFunction, known: _Known, functions: dict[str, LoweredFunction], table: FactorTable
) -> bool:
    """Follow the known values through a function; False when one of them meets an op without a rule."""
    for op in function.ops:
        if not any(operand in known for operand in op.operands):
            continue
        if op.callee is not None:
            if not _call(op, known, functions, table):
                return False
        elif op.rule is not None:
            _apply(op, op.rule, known, table)
        elif not _same_shape(op, known):
            return False
    return True


def _call(op: LoweredOp, known: _Known, functions: dict[str, LoweredFunction], table: FactorTable) -> bool:
    callee = functions[op.callee or ""]
    inner = {
        argument: known[operand]
        for argument, operand in zip(callee.arguments, op.operands, strict=True)
        if operand in known
    }
    if not _walk(callee, inner, functions, table):
        return False
    pairs = zip(op.results, callee.returned, strict=True)
    known.update({result: inner[value] for result, value in pairs if value in inner})
    return True


def _apply(op: LoweredOp, rule: OpRule, known: _Known, table: FactorTable) -> None:
    numbers = [table.add(size) for size in rule.sizes]
    for factor in rule.reduction:
        table.reduce(numbers[factor])
    for factor in rule.replicated:
        table.replicate(numbers[factor])
    for operand, dims in zip(op.operands, rule.operand_dims, strict=False):
        for have, want in zip(known.get(operand, ()), dims, strict=False):
            table.join(have, [numbers[f] for f in want])
    for result, dims in zip(op.results, rule.result_dims, strict=True):
        known[result] = [tuple(numbers[f] for f in dim) for dim in dims]


def _same_shape(op: LoweredOp, known: _Known) -> bool:
    """Whether a chlo op, of which Shardy has no rule, is pointwise; then its results are known."""
    if len(op.operands) != 1 or op.name not in _POINTWISE:
        return False
    known.update({result: known[op.operands[0]] for result in op.results})
    return True
