"""Join the equations of a traced function with their sharding rules: the graph that the search works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoshard.equations import Equation, TracedValue
from autoshard.factor_table import Rule
from autoshard.rules import RuleBook
from autoshard.search.graph import Dims, Factor, FactorKind, Graph, Op, Tie, Value
from autoshard.specs import format_type
from autoshard.trace import Traced

_LINEAR = frozenset({"add", "add_any", "sub", "reshape", "squeeze", "expand_dims", "transpose", "identity"})
"""Ops through which the compiler is known to carry an unreduced sum to one common reduction.

A convert or a scale is linear too, but XLA reduces before it: a plan that relied on it could not be
compiled.
"""
_SUMS = frozenset(
    {
        "conv_general_dilated",
        "dot_general",
        "gather",
        "ragged_dot_general",
        "reduce_sum",
        "scatter-add",
        "scatter_add",
    }
)
_BOOK = RuleBook()


def build_graph(traced: Traced, book: RuleBook | None = None) -> Graph:
    """Join the equations of a traced function with their sharding rules.

    Args:
        traced: The function.
        book: Where rules are kept; by default one book of the process.
    """
    book = _BOOK if book is None else book
    equations = traced.equations
    rules = iter(book.rules(e.eqn for e in equations.equations if e.eqn is not None))
    values = [_value(value) for value in equations.values]
    ops: list[Op] = []
    for equation in equations.equations:
        op = _op(equation, None if equation.eqn is None else next(rules), values)
        for result in op.results:
            if _can_be_partial(op):
                values[result] = replace(values[result], partial=True)
        ops.append(op)
    return Graph(
        values=tuple(values),
        ops=tuple(ops),
        ties=(*equations.ties, *_alias_ties(traced, values)),
        loops=equations.loops,
        arguments=equations.arguments,
        results=equations.results,
        donated=traced.donated,
        aliases=aliases(traced),
        constants=equations.constants,
        equations=equations.traced,
    )


def _value(value: TracedValue) -> Value:
    return Value(
        index=value.index,
        shape=value.shape,
        dtype=value.dtype,
        nbytes=value.nbytes,
        name=value.name,
        producer=value.producer,
        free=value.free,
        stored_bytes=value.stored_bytes,
        partial=False,
        loop=value.loop,
    )


def _op(equation: Equation, found: Rule | None, values: Sequence[Value]) -> Op:
    """The op of an equation under the rule found for it; a hand-over has none and is the identity."""
    rule = found or _identity_rule(values[equation.operands[0]].shape)
    return Op(
        index=equation.index,
        name=equation.name,
        primitive=equation.primitive,
        kind=equation.kind,
        operands=equation.operands,
        results=equation.results,
        factors=_lettered(rule, equation.equation),
        operand_dims=rule.operand_dims,
        result_dims=rule.result_dims,
        linear=_linear(equation, values),
        flops=equation.flops,
        trips=equation.trips,
        loop=equation.loop,
        source=equation.source,
        scope=equation.scope,
        equation=equation.equation,
        path=equation.path,
        ruled=rule.ruled,
    )


def _identity_rule(shape: tuple[int, ...]) -> Rule:
    factors = tuple(Factor(size, FactorKind.PARALLEL) for size in shape if size > 1)
    number = iter(range(len(factors)))
    dims: Dims = tuple((next(number),) if size > 1 else () for size in shape)
    return Rule(factors, (dims,), (dims,), ruled=True)


def _lettered(rule: Rule, equation: str) -> tuple[Factor, ...]:
    """Give the factors of an einsum its letters."""
    inputs, _, output = equation.partition("->")
    texts, tensors = [*inputs.split(","), output], [*rule.operand_dims, *rule.result_dims]
    if not equation or len(texts) != len(tensors):  # no einsum, or one with a literal
        return rule.factors
    letters: dict[int, str] = {}
    for text, dims in zip(texts, tensors, strict=True):
        for letter, dim in zip(text, dims, strict=True):
            if len(dim) == 1:
                letters.setdefault(dim[0], letter)
    return tuple(replace(factor, letter=letters.get(i, "")) for i, factor in enumerate(rule.factors))


def _linear(equation: Equation, values: Sequence[Value]) -> tuple[int, ...]:
    """Operands that must all be unreduced for the result to stay so; empty when that is impossible."""
    if equation.primitive not in _LINEAR or equation.eqn is None:
        return ()
    positions = tuple(range(len(equation.operands)))
    literals = len(equation.eqn.invars) != len(positions)
    summed = all(values[v].partial for v in equation.operands)
    return positions if summed and not literals else ()


def _can_be_partial(op: Op) -> bool:
    if op.linear:
        return True
    return op.primitive in _SUMS and any(f.kind is FactorKind.REDUCTION for f in op.factors)


def aliases(traced: Traced) -> tuple[tuple[int, int], ...]:
    """Pair donated arguments with results of the same type, in order, as JAX does.

    Returns:
        (argument position, result position) pairs.
    """
    outs = [format_type(aval.dtype, aval.shape) for aval in traced.out_avals]
    ins = [format_type(aval.dtype, aval.shape) for aval in traced.in_avals]
    taken: set[int] = set()
    pairs = []
    for position in traced.donated:
        match = next((i for i, out in enumerate(outs) if i not in taken and out == ins[position]), None)
        if match is not None:
            taken.add(match)
            pairs.append((position, match))
    return tuple(pairs)


def _alias_ties(traced: Traced, values: Sequence[Value]) -> list[Tie]:
    ties = []
    for argument, result in aliases(traced):
        outer, inner = traced.equations.arguments[argument], traced.equations.results[result]
        if not (values[outer].free or values[inner].free):
            ties.append(Tie(outer, inner, tuple(range(len(values[outer].shape)))))
    return ties
