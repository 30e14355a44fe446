"""Run a jaxpr again with sharding constraints put at chosen equations, inside loops and nested calls.

The walk is that of `autoshard.walking`, so an equation's path names the same equation in both.
Higher-order equations are bound again with a body that has been run through this module: a scan stays a
scan, a custom derivative keeps its rule, remat keeps its policy. A constraint is the identity, so
numerics, gradients and donation are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.sharding import PartitionSpec

from autoshard.primitives import BODY_KEYS, called_jaxpr, scan_counts

Chain = tuple[PartitionSpec, ...]
"""Specs that a tensor is put through one after the other; empty leaves it to the compiler."""
Chains = tuple[Chain, ...]
"""One chain per tensor."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Where to constrain, by equation path.

    Attributes:
        operands: Chains of the array operands (literals excluded) just before an equation.
        results: Chains of the results just after an equation.
        slots: Spec of one value handed over, by "<path>:carry<i>" or "<path>:y<i>" of a loop, or
            "<path>:out<i>" of a cond.
    """

    operands: Mapping[str, Chains] = field(default_factory=dict)
    results: Mapping[str, Chains] = field(default_factory=dict)
    slots: Mapping[str, PartitionSpec] = field(default_factory=dict)

    def touched(self) -> frozenset[str]:
        """Paths of all equations at or below which something is constrained."""
        keys = (*self.operands, *self.results, *self.slots)
        steps = [key.partition(":")[0].split("/") for key in keys]
        return frozenset("/".join(s[:n]) for s in steps for n in range(1, len(s) + 1))


_PLAIN_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Calls that mean nothing of their own: they are inlined."""
Constrain = Callable[[Any, PartitionSpec], Any]


def run_constrained(
    closed: ClosedJaxpr, arguments: Sequence[Any], constraints: Constraints, constrain: Constrain
) -> list[Any]:
    """Evaluate `closed` on flat arguments; `constrain(array, spec)` puts one constraint."""
    runner = _Runner(constraints, constraints.touched(), constrain)
    return runner.body(closed.jaxpr, closed.consts, arguments, "")


@dataclass(frozen=True, slots=True)
class _Runner:
    constraints: Constraints
    touched: frozenset[str]
    constrain: Constrain

    def body(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], path: str) -> list[Any]:
        env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
        copies: dict[tuple[Any, Chain], Any] = {}
        for position, eqn in enumerate(jaxpr.eqns):
            here = f"{path}/{position}" if path else str(position)
            scope = source_info_util.current_name_stack() + eqn.source_info.name_stack
            with source_info_util.user_context(eqn.source_info.traceback, name_stack=scope), eqn.ctx.manager:
                results = self.equation(eqn, self.operands(eqn, env, copies, here), here)
            env.update(zip(eqn.outvars, results, strict=True))
        return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    def operands(self, eqn: JaxprEqn, env: dict[Any, Any], copies: dict[Any, Any], path: str) -> list[Any]:
        """Read the operands, constrained where asked; equations that want the same copy share it."""
        chains = iter(self.constraints.operands.get(path, ()))
        values = []
        for var in eqn.invars:
            if isinstance(var, Literal):
                values.append(var.val)
                continue
            value = env[var]
            chain = next(chains, ())
            for length, spec in enumerate(chain, start=1):
                key = (var, chain[:length])
                if key not in copies:
                    copies[key] = self.constrain(value, spec)
                value = copies[key]
            values.append(value)
        return values

    def equation(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        results = self.evaluate(eqn, operands, path)
        chains = self.constraints.results.get(path, ())
        for position, chain in enumerate(chains[: len(results)]):
            for spec in chain:
                results[position] = self.constrain(results[position], spec)
        return results

    def evaluate(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        if path not in self.touched:
            return _bind(eqn, operands, eqn.params)
        higher = {"scan": self.scan, "while": self.while_loop, "cond": self.cond}.get(eqn.primitive.name)
        if higher is not None:
            return higher(eqn, operands, path)
        inner = called_jaxpr(eqn)
        if inner is None:
            return _bind(eqn, operands, eqn.params)
        if eqn.primitive.name in _PLAIN_CALLS:
            return self.body(*inner, operands, path)
        return self.call(eqn, ClosedJaxpr(*inner), operands, path)

    def call(self, eqn: JaxprEqn, inner: ClosedJaxpr, operands: list[Any], path: str) -> list[Any]:
        """Bind a call with a derivative rule or a policy again, with the new body."""
        key = next(key for key in BODY_KEYS if key in eqn.params)
        new = self.closed(inner, path)
        if isinstance(eqn.params[key], ClosedJaxpr):
            return _bind(eqn, operands, {**eqn.params, key: new})
        jaxpr = new.jaxpr.replace(constvars=[], invars=[*new.jaxpr.constvars, *new.jaxpr.invars])
        return _bind(eqn, [*new.consts, *operands], {**eqn.params, key: jaxpr})

    def closed(self, closed: ClosedJaxpr, path: str, slots: Sequence[str] = ()) -> ClosedJaxpr:
        """Run a nested jaxpr into a new one; `slots` are the keys of its first results."""

        def run(*arguments: Any) -> list[Any]:
            results = self.body(closed.jaxpr, closed.consts, arguments, path)
            return self.in_slots(results, slots)

        return jax.make_jaxpr(run)(*(_abstract(v.aval) for v in closed.jaxpr.invars))

    def scan(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        first, n_carry = scan_counts(eqn)
        carries = [f"{path}:carry{i}" for i in range(n_carry)]
        ys = [f"{path}:y{i}" for i in range(len(eqn.outvars) - n_carry)]
        body = self.closed(eqn.params["jaxpr"], path, [*carries, *ys])
        started = [*operands[:first], *self.in_slots(operands[first:], carries)]
        return _bind(eqn, started, {**eqn.params, "jaxpr": body})

    def while_loop(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        carries = [f"{path}:carry{i}" for i in range(len(eqn.outvars))]
        body = self.closed(eqn.params["body_jaxpr"], path, carries)
        started = [*operands[:first], *self.in_slots(operands[first:], carries)]
        return _bind(eqn, started, {**eqn.params, "body_jaxpr": body})

    def cond(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        branches = enumerate(eqn.params["branches"])
        new = tuple(self.closed(branch, f"{path}/branch{i}") for i, branch in branches)
        results = _bind(eqn, operands, {**eqn.params, "branches": new})
        return self.in_slots(results, [f"{path}:out{i}" for i in range(len(results))])

    def in_slots(self, values: Sequence[Any], keys: Sequence[str]) -> list[Any]:
        """Constrain the first values as the slots `keys` are; the rest goes through."""
        specs = [self.constraints.slots.get(key) for key in keys]
        pairs = zip(values, [*specs, *[None] * (len(values) - len(specs))], strict=True)
        return [value if spec is None else self.constrain(value, spec) for value, spec in pairs]


def _bind(eqn: JaxprEqn, operands: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _abstract(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
