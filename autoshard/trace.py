"""From a function and abstract arguments to a graph of ops with sharding rules.

`jax.make_jaxpr` runs the function on abstract arguments (no weights, no devices); `autoshard.equations` flattens
the jaxpr; `autoshard.rules` asks Shardy for the rule of each distinct equation; this module joins them.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr
from jax.tree_util import PyTreeDef, keystr, tree_flatten_with_path

from autoshard.equations import Equation, Equations, TracedValue, walk
from autoshard.errors import TraceError
from autoshard.rules import Rule, RuleBook
from autoshard.search.graph import Dims, Factor, FactorKind, Graph, Op, OpKind, Tie, Value

_LINEAR = frozenset({"add", "add_any", "sub", "reshape", "squeeze", "expand_dims", "transpose", "identity"})
"""Ops through which the compiler is known to carry an unreduced sum to one common reduction.  A convert or a scale is linear
too, but XLA reduces before it, so a plan that relied on it could not be compiled."""
_SUMS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated", "reduce_sum", "gather", "scatter-add", "scatter_add"})
_BOOK = RuleBook()


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced function.

    Attributes:
        closed: Its jaxpr.
        equations: The jaxpr, flattened and named.
        argument_names: Path of each flat argument, e.g. "params/layers/wi".
        result_names: Path of each flat result.
        in_tree: Structure of (args, kwargs).
        out_tree: Structure of the results.
        donated: Positions of donated flat arguments.
    """

    closed: ClosedJaxpr
    equations: Equations
    argument_names: tuple[str, ...]
    result_names: tuple[str, ...]
    in_tree: PyTreeDef
    out_tree: PyTreeDef
    donated: tuple[int, ...]

    @property
    def in_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each flat argument."""
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.closed.jaxpr.invars]

    @property
    def out_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each flat result."""
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.closed.jaxpr.outvars]

    def fingerprint(self) -> str:
        """Return a hash of what a plan depends on: argument and result types and the named einsums."""
        lines = [f"{name} {_type(aval)}" for name, aval in zip(self.argument_names, self.in_avals, strict=True)]
        lines += [f"-> {name} {_type(aval)}" for name, aval in zip(self.result_names, self.out_avals, strict=True)]
        values = self.equations.values
        for equation in self.equations.equations:
            if equation.kind is OpKind.EINSUM:
                shapes = [f"{values[v].dtype}{list(values[v].shape)}" for v in (*equation.operands, *equation.results)]
                lines.append(f"{equation.name} {equation.equation} {equation.trips} {shapes}")
        return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    donate_argnums: Sequence[int] = (),
    donate_argnames: Sequence[str] = (),
    static_argnums: Sequence[int] = (),
    static_argnames: Sequence[str] = (),
) -> Traced:
    """Trace `fn` on abstract (or concrete) arguments.

    Raises:
        TraceError: The function cannot be traced; the message has the cause and the user's line.
    """
    kwargs = dict(kwargs or {})
    names = _parameter_names(fn, len(args))
    static = {i % max(1, len(args)) for i in static_argnums} | {i for i, n in enumerate(names) if n in set(static_argnames)}
    static_kwargs = {name: kwargs.pop(name) for name in list(kwargs) if name in set(static_argnames)}
    dynamic = [arg for i, arg in enumerate(args) if i not in static]

    def on_dynamic(*given: Any, **given_kwargs: Any) -> Any:
        rest = iter(given)
        merged = [arg if i in static else next(rest) for i, arg in enumerate(args)]
        return fn(*merged, **given_kwargs, **static_kwargs)

    closed, out_shape = _make_jaxpr(on_dynamic, fn, dynamic, kwargs)
    dynamic_names = [name for i, name in enumerate(names) if i not in static]
    leaves, in_tree = jax.tree.flatten((tuple(dynamic), kwargs))
    argument_names = [
        *(n for name, arg in zip(dynamic_names, dynamic, strict=True) for n in _paths(name, arg)),
        *(n for name in sorted(kwargs) for n in _paths(name, kwargs[name])),
    ]
    if len(argument_names) != len(leaves):
        raise TraceError(f"the arguments of {_name(fn)} have {len(leaves)} leaves but {len(argument_names)} paths")
    donated_names = {names[i % len(names)] for i in donate_argnums} | set(donate_argnames)
    donated = [i for i, name in enumerate(argument_names) if name.partition("/")[0] in donated_names]
    result_names = _paths("result", out_shape)
    return Traced(
        closed=closed,
        equations=walk(closed, argument_names, result_names),
        argument_names=tuple(argument_names),
        result_names=tuple(result_names),
        in_tree=in_tree,
        out_tree=jax.tree.structure(out_shape),
        donated=tuple(donated),
    )


def _make_jaxpr(call: Callable[..., Any], fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[ClosedJaxpr, Any]:
    try:
        closed, out_shape = jax.make_jaxpr(call, return_shape=True)(*args, **kwargs)
    except jax.errors.JAXTypeError as error:
        raise TraceError(
            f"{_name(fn)} cannot be traced: {str(error).splitlines()[0]}\n"
            "A plan needs a function whose control flow does not look at array values: use jax.lax.cond, scan or where, or "
            "mark such arguments static (static_argnames=...)."
        ) from error
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise TraceError(f"{_name(fn)} cannot be traced on the given inputs: {type(error).__name__}: {error}") from error
    return closed, out_shape


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return f"`{getattr(fn, '__qualname__', repr(fn))}`"


def _parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return [f"arg{i}" for i in range(count)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[i] if i < len(names) else f"arg{i}" for i in range(count)]


def _paths(root: str, tree: Any) -> list[str]:
    leaves, _ = tree_flatten_with_path(tree)
    paths = (keystr(path, simple=True, separator="/") for path, _ in leaves)
    return [f"{root}/{path}" if path else root for path in paths]


def _type(aval: Any) -> str:
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


# The graph.


def build_graph(traced: Traced, book: RuleBook | None = None) -> Graph:
    """Join the equations of a traced function with their sharding rules."""
    book = _BOOK if book is None else book
    equations = traced.equations
    book.learn(e.eqn for e in equations.equations if e.eqn is not None)
    values = [_value(value) for value in equations.values]
    ops: list[Op] = []
    for equation in equations.equations:
        op = _op(equation, book, values)
        for result in op.results:
            if _can_be_partial(op, values):
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
        aliases=_aliases(traced),
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


def _op(equation: Equation, book: RuleBook, values: Sequence[Value]) -> Op:
    rule = _identity_rule(values[equation.operands[0]].shape) if equation.eqn is None else book[equation.eqn]
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
    if not equation:
        return rule.factors
    inputs, _, output = equation.partition("->")
    letters: dict[int, str] = {}
    for text, dims in zip([*inputs.split(","), output], [*rule.operand_dims, *rule.result_dims], strict=False):
        for letter, dim in zip(text, dims, strict=False):
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


def _can_be_partial(op: Op, values: Sequence[Value]) -> bool:
    if op.linear:
        return True
    return op.primitive in _SUMS and any(f.kind is FactorKind.REDUCTION for f in op.factors)


def _aliases(traced: Traced) -> tuple[tuple[int, int], ...]:
    """Pair donated arguments with results of the same type, in order, as JAX does."""
    taken: set[int] = set()
    pairs = []
    outs = [_type(aval) for aval in traced.out_avals]
    ins = [_type(aval) for aval in traced.in_avals]
    for position in traced.donated:
        match = next((i for i, out in enumerate(outs) if i not in taken and out == ins[position]), None)
        if match is not None:
            taken.add(match)
            pairs.append((position, match))
    return tuple(pairs)


def _alias_ties(traced: Traced, values: Sequence[Value]) -> list[Tie]:
    ties = []
    for argument, result in _aliases(traced):
        outer, inner = traced.equations.arguments[argument], traced.equations.results[result]
        if not (values[outer].free or values[inner].free):
            ties.append(Tie(outer, inner, tuple(range(len(values[outer].shape)))))
    return ties
