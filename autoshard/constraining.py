"""Run a jaxpr again with sharding constraints put at chosen equations, inside loops and nested calls.

The walk is that of `autoshard.equations`, so an equation's path names the same equation in both.  Higher-order equations are
bound again with a body that has been run through this module: a scan stays a scan, a custom derivative keeps its
rule, remat keeps its policy.  A constraint is the identity, so numerics, gradients and donation are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.sharding import PartitionSpec

from autoshard.equations import called_jaxpr

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
        slots: Spec of one value handed over by a loop, by "<path>:carry<i>" or "<path>:y<i>".
    """

    operands: Mapping[str, Chains] = field(default_factory=dict)
    results: Mapping[str, Chains] = field(default_factory=dict)
    slots: Mapping[str, PartitionSpec] = field(default_factory=dict)

    def touches(self, path: str) -> bool:
        """Whether anything at or below an equation is constrained."""
        inside, slot = f"{path}/", f"{path}:"
        keys = (*self.operands, *self.results, *self.slots)
        return any(key == path or key.startswith((inside, slot)) for key in keys)


Constrain = Callable[[Any, PartitionSpec], Any]


def run_constrained(closed: ClosedJaxpr, arguments: Sequence[Any], constraints: Constraints, constrain: Constrain) -> list[Any]:
    """Evaluate `closed` on flat arguments; `constrain(array, spec)` puts one constraint."""
    return _Runner(constraints, constrain).body(closed.jaxpr, closed.consts, arguments, "")


@dataclass(frozen=True, slots=True)
class _Runner:
    constraints: Constraints
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
        if not self.constraints.touches(path):
            return _bind(eqn, operands, eqn.params)
        name = eqn.primitive.name
        if name == "scan":
            return self.scan(eqn, operands, path)
        if name == "while":
            return self.while_loop(eqn, operands, path)
        if name == "cond":
            branches = [self.closed(branch, f"{path}/branch{i}") for i, branch in enumerate(eqn.params["branches"])]
            return _bind(eqn, operands, {**eqn.params, "branches": tuple(branches)})
        inner = called_jaxpr(eqn)
        if inner is None:
            return _bind(eqn, operands, eqn.params)
        return self.call(eqn, inner, operands, path)

    def call(self, eqn: JaxprEqn, inner: tuple[Jaxpr, Sequence[Any]], operands: list[Any], path: str) -> list[Any]:
        """Plain calls are inlined; calls that carry a derivative rule or a policy are bound again with the new body."""
        jaxpr, consts = inner
        if eqn.primitive.name in {"jit", "pjit", "closed_call", "core_call"}:
            return self.body(jaxpr, consts, operands, path)
        key = next(key for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
        new = self.closed(ClosedJaxpr(jaxpr, consts), path)
        body: Any = new if isinstance(eqn.params[key], ClosedJaxpr) else new.jaxpr
        return _bind(eqn, operands, {**eqn.params, key: body})

    def closed(self, closed: ClosedJaxpr, path: str, finish: Callable[[list[Any]], list[Any]] | None = None) -> ClosedJaxpr:
        def run(*arguments: Any) -> list[Any]:
            results = self.body(closed.jaxpr, closed.consts, arguments, path)
            return finish(results) if finish else results

        return jax.make_jaxpr(run)(*(_abstract(v.aval) for v in closed.jaxpr.invars))

    def scan(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        n_consts, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]

        def finish(results: list[Any]) -> list[Any]:
            keys = [f"{path}:carry{i}" if i < n_carry else f"{path}:y{i - n_carry}" for i in range(len(results))]
            return [self.slot(result, key) for result, key in zip(results, keys, strict=True)]

        held, rest = operands[:n_consts], operands[n_consts:]
        init = [self.slot(value, f"{path}:carry{i}") for i, value in enumerate(rest[:n_carry])]
        body = self.closed(eqn.params["jaxpr"], path, finish)
        return _bind(eqn, [*held, *init, *rest[n_carry:]], {**eqn.params, "jaxpr": body})

    def while_loop(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        def finish(results: list[Any]) -> list[Any]:
            return [self.slot(result, f"{path}:carry{i}") for i, result in enumerate(results)]

        body = self.closed(eqn.params["body_jaxpr"], path, finish)
        return _bind(eqn, operands, {**eqn.params, "body_jaxpr": body})

    def slot(self, value: Any, key: str) -> Any:
        spec = self.constraints.slots.get(key)
        return value if spec is None else self.constrain(value, spec)


def _bind(eqn: JaxprEqn, operands: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _abstract(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
