"""The sharding rule of every equation, composed from Shardy's rules and cached by the equation's signature.

An equation may lower to several StableHLO ops (a gather clamps its indices, a cumsum is a call).  Each distinct
signature (primitive, parameters, operand types) is lowered once, all of them in one module; Shardy gives the rules
of the ops, and the rules are joined at the SSA values that link them: factors that meet in one dim are one
factor, and where a merged dim meets a split one the factor is split.  What no rule covers is replicated and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal

from autoshard.search.graph import Dims, Factor, FactorKind
from autoshard.shardy import LoweredFunction, LoweredOp, OpRule, lowered_functions

_PREFIX = "autoshard_rule_"


@dataclass(frozen=True, slots=True)
class Rule:
    """The sharding rule of one equation: array operands in order (literals excluded), results, factors."""

    factors: tuple[Factor, ...]
    operand_dims: tuple[Dims, ...]
    result_dims: tuple[Dims, ...]
    ruled: bool


def signature(eqn: JaxprEqn) -> str:
    """Return a key that is equal for equations with the same rule."""
    operands = [f"={v.val}" if isinstance(v, Literal) else v.aval.str_short() for v in eqn.invars]
    results = [v.aval.str_short() for v in eqn.outvars]
    params = {name: value for name, value in eqn.params.items() if name != "name"}
    return f"{eqn.primitive.name}|{operands}|{results}|{params}"


class RuleBook:
    """Rules by signature; one book serves many traces."""

    def __init__(self) -> None:
        """Start an empty book."""
        self._rules: dict[str, Rule] = {}

    def learn(self, eqns: Iterable[JaxprEqn]) -> None:
        """Find the rules of all equations whose signature is new, in one lowering."""
        new: dict[str, JaxprEqn] = {}
        for eqn in eqns:
            key = signature(eqn)
            if key not in self._rules and key not in new:
                new[key] = eqn
        written = {key: rule for key, eqn in new.items() if (rule := written_rule(eqn)) is not None}
        rest = {key: eqn for key, eqn in new.items() if key not in written}
        self._rules |= written
        self._rules |= dict(zip(rest, shardy_rules(list(rest.values())), strict=True))

    def __getitem__(self, eqn: JaxprEqn) -> Rule:
        """Return the rule of an equation that was learnt."""
        return self._rules[signature(eqn)]


def shapes(eqn: JaxprEqn) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of the array operands (literals excluded) and of the results."""
    operands = [tuple(v.aval.shape) for v in eqn.invars if not isinstance(v, Literal)]
    return operands, [tuple(getattr(v.aval, "shape", ())) for v in eqn.outvars]


# Written rules: where lowering would lose the meaning, or where Shardy has no rule.

_SAME_SHAPE = frozenset({"sharding_constraint", "reshard", "optimization_barrier", "name", "copy", "copy_p", "stop_gradient"})
_LAST_DIM_WHOLE = frozenset({"top_k", "approx_top_k"})
_OPAQUE = frozenset({"shard_map", "pallas_call", "pure_callback", "io_callback", "debug_callback", "debug_print", "custom_partitioning"})


def written_rule(eqn: JaxprEqn) -> Rule | None:
    """Return the hand-written rule of an equation, or None when Shardy is to be asked."""
    name = eqn.primitive.name
    if name in _OPAQUE or eqn.effects:
        return replicated_rule(eqn)
    if name in _SAME_SHAPE and len(eqn.invars) == len(eqn.outvars):
        return _parallel_rule(eqn, whole_last_dim=False)
    if name in _LAST_DIM_WHOLE:
        return _parallel_rule(eqn, whole_last_dim=True)
    if name == "ragged_dot_general" and len(eqn.invars) == 3 and eqn.invars[1].aval.ndim == 3:
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


def _parallel_rule(eqn: JaxprEqn, *, whole_last_dim: bool) -> Rule:
    """Operand i and result i share their dims; with `whole_last_dim` all dims but the last."""
    operands, results = shapes(eqn)
    table = FactorTable()
    operand_dims, result_dims = [], []
    lead: list[int] = []
    for position, shape in enumerate(operands):
        fresh = [table.add(size) for size in shape]
        if whole_last_dim:
            fresh = [*(lead or fresh[:-1]), fresh[-1]] if position == 0 or lead else fresh
            lead = fresh[:-1]
            table.replicate(fresh[-1])
        operand_dims.append([(f,) for f in fresh])
    for position, shape in enumerate(results):
        base = [f for (f,) in operand_dims[min(position, len(operand_dims) - 1)]]
        if whole_last_dim:
            last = table.add(shape[-1])
            table.replicate(last)
            base = [*base[:-1], last]
        result_dims.append([(f,) for f in base])
    return table.rule(operand_dims, result_dims, operands, results)


def _ragged_rule(eqn: JaxprEqn) -> Rule:
    """The grouped matmul m k, g k n, g -> m n: rows and columns split, groups stay whole."""
    (rows, inner), (groups, _, columns), _ = shapes(eqn)[0]
    table = FactorTable()
    m, k, n, g = (table.add(size) for size in (rows, inner, columns, groups))
    table.reduce(k)
    table.replicate(g)
    operands = [[(m,), (k,)], [(g,), (k,), (n,)], [(g,)]]
    return table.rule(operands, [[(m,), (n,)]], *shapes(eqn))


# Shardy's rules, joined over the ops of an equation.


def shardy_rules(eqns: Sequence[JaxprEqn]) -> list[Rule]:
    """Return the composed rule of each equation; equations that do not lower for TPU are replicated.

    All are lowered in one module; when that fails the list is halved, so that one bad equation costs only itself.
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

    return jax.jit(all_leaves, keep_unused=True).trace(operands).lower(lowering_platforms=("tpu",))


def _abstract(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


def _leaf(eqn: JaxprEqn, name: str) -> Callable[..., Any]:
    def leaf(*arrays: Any) -> Any:
        given = iter(arrays)
        operands = [v.val if isinstance(v, Literal) else next(given) for v in eqn.invars]
        return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))

    leaf.__name__ = name
    return jax.jit(leaf, keep_unused=True)


class FactorTable:
    """Factors that are joined and split while rules are composed (a union-find whose roots may be lists)."""

    def __init__(self) -> None:
        """Start without factors."""
        self.sizes: list[int] = []
        self.reduced: set[int] = set()
        self.whole: set[int] = set()
        self._became: dict[int, tuple[int, ...]] = {}

    def add(self, size: int) -> int:
        """Make a new factor of `size` elements."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def reduce(self, factor: int) -> None:
        """Mark a factor as summed away."""
        self.reduced.update(self.resolve((factor,)))

    def replicate(self, factor: int) -> None:
        """Mark a factor as one that cannot be split."""
        self.whole.update(self.resolve((factor,)))

    def resolve(self, dim: Iterable[int]) -> tuple[int, ...]:
        """Return the factors that a dim consists of now, without those of size 1."""
        roots: list[int] = []
        for factor in dim:
            if factor in self._became:
                roots += self.resolve(self._became[factor])
            elif self.sizes[factor] != 1:
                roots.append(factor)
        return tuple(roots)

    def join(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Declare that two factor lists are one dim; where they cannot be aligned both become whole."""
        a, b = list(self.resolve(left)), list(self.resolve(right))
        if math.prod(self.sizes[f] for f in a) != math.prod(self.sizes[f] for f in b):
            self.whole.update(a, b)
            return
        while a and b:
            f, g = a.pop(0), b.pop(0)
            if f == g:
                continue
            if self.sizes[f] == self.sizes[g]:
                self._become(g, (f,))
            elif self.sizes[f] % self.sizes[g] == 0:
                a.insert(0, self._split(f, g))
            elif self.sizes[g] % self.sizes[f] == 0:
                b.insert(0, self._split(g, f))
            else:
                self.whole.update((f, g, *a, *b))
                return

    def _split(self, factor: int, major: int) -> int:
        minor = self.add(self.sizes[factor] // self.sizes[major])
        self._become(factor, (major, minor))
        return minor

    def _become(self, factor: int, into: tuple[int, ...]) -> None:
        self._became[factor] = into
        for marks in (self.reduced, self.whole):
            if factor in marks:
                marks.discard(factor)
                marks.update(into)

    def rule(
        self,
        operand_dims: Sequence[Sequence[Sequence[int]]],
        result_dims: Sequence[Sequence[Sequence[int]]],
        operand_shapes: Sequence[tuple[int, ...]],
        result_shapes: Sequence[tuple[int, ...]],
    ) -> Rule:
        """Freeze: number the factors by first use, mark those that do not fill their dim as whole."""
        tensors = [[self.resolve(dim) for dim in dims] for dims in (*operand_dims, *result_dims)]
        for dims, shape in zip(tensors, (*operand_shapes, *result_shapes), strict=True):
            for dim, size in zip(dims, shape, strict=True):
                if math.prod(self.sizes[f] for f in dim) != size:
                    self.whole.update(dim)
        numbers: dict[int, int] = {}
        frozen = [tuple(tuple(numbers.setdefault(f, len(numbers)) for f in dim) for dim in dims) for dims in tensors]
        kept = {f for dims in tensors[len(operand_dims) :] for dim in dims for f in dim}
        factors = tuple(Factor(self.sizes[f], self._kind(f, kept)) for f in numbers)
        count = len(operand_dims)
        return Rule(factors, tuple(frozen[:count]), tuple(frozen[count:]), ruled=True)

    def _kind(self, factor: int, kept: set[int]) -> FactorKind:
        if factor in self.whole:
            return FactorKind.REPLICATED
        return FactorKind.REDUCTION if factor in self.reduced and factor not in kept else FactorKind.PARALLEL


def _compose(eqn: JaxprEqn, functions: dict[str, LoweredFunction], name: str) -> Rule:
    """Join the rules of the ops that an equation lowers to."""
    operand_shapes, result_shapes = shapes(eqn)
    function = functions.get(name)
    if function is None or len(function.arguments) != len(operand_shapes) or len(function.returned) != len(result_shapes):
        return replicated_rule(eqn)
    table = FactorTable()
    known = {
        argument: [(table.add(size),) for size in shape]
        for argument, shape in zip(function.arguments, operand_shapes, strict=True)
    }
    operand_dims = list(known.values())
    understood = _walk(function, known, functions, table)
    result_dims = [known.get(value) or [(table.add(size),) for size in shape] for value, shape in zip(function.returned, result_shapes, strict=True)]
    rule = table.rule(operand_dims, result_dims, operand_shapes, result_shapes)
    return rule if understood else replicated_rule(eqn)


_Known = dict[int, list[tuple[int, ...]]]


def _walk(function: LoweredFunction, known: _Known, functions: dict[str, LoweredFunction], table: FactorTable) -> bool:
    """Follow the known values through a function; False when one of them meets an op without a rule."""
    for op in function.ops:
        if not any(operand in known for operand in op.operands):
            continue
        if op.callee is not None:
            if not _call(op, known, functions, table):
                return False
        elif op.rule is not None:
            _apply(op, op.rule, known, table)
        elif not _same_shape(op, known, table):
            return False
    return True


def _call(op: LoweredOp, known: _Known, functions: dict[str, LoweredFunction], table: FactorTable) -> bool:
    callee = functions[op.callee or ""]
    inner = {argument: known[operand] for argument, operand in zip(callee.arguments, op.operands, strict=True) if operand in known}
    if not _walk(callee, inner, functions, table):
        return False
    known.update({result: inner[value] for result, value in zip(op.results, callee.returned, strict=True) if value in inner})
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


def _same_shape(op: LoweredOp, known: _Known, table: FactorTable) -> bool:
    """Treat an op without a rule as elementwise when it has one array operand and results of the same shape (chlo.erf)."""
    if len(op.operands) != 1 or not op.name.startswith("chlo.") or op.name == "chlo.top_k":
        return False
    dims = known[op.operands[0]]
    if any(len(shape) != len(dims) for shape in op.result_shapes):
        return False
    known.update({result: dims for result in op.results})
    return True
