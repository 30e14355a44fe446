"""Run a jaxpr again with sharding constraints put at chosen equations, inside loops and nested calls.

The walk is that of `autoshard.walking`, so an equation's path names the same equation in both.
Higher-order equations are bound again with a body that has been run through this module: a scan stays a
scan, a custom derivative keeps its rule, remat keeps its policy. A constraint is the identity, so
numerics, gradients and donation are unchanged. What the model's author sharded for other meshes is freed
on the way (`autoshard.user_shardings`). Mutable arrays cannot be constrained: they are handed on. A slice
that the partitioner would take for its operand (`autoshard.compiler_limits`) gets a copy of it: a constraint
that leaves all dims to the compiler.

Every equation that is bound here, its constraints included, stands under a name scope that says its path
(`autoshard.marks`): compiled collectives can so be told apart by the equation they serve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.ref import AbstractRef
from jax.sharding import PartitionSpec

from autoshard.compiler_limits import needs_operand_of_its_own, some_need_operands_of_their_own
from autoshard.marks import mark_of
from autoshard.naming import source_of
from autoshard.primitives import BODY_KEYS, called_jaxpr, scan_counts
from autoshard.user_shardings import AnyMesh, Freeing

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
        held_at_start: Whether what a loop carries is held where its body starts as well.
        homes: Specs that operands have before their chains, None where there is no need to say. What comes
            into a body from outside is held there before it is read through a chain: the partitioner else
            gives the end of the chain to all who read the same value later.
    """

    operands: Mapping[str, Chains] = field(default_factory=dict)
    results: Mapping[str, Chains] = field(default_factory=dict)
    slots: Mapping[str, PartitionSpec] = field(default_factory=dict)
    held_at_start: bool = False
    homes: Mapping[str, tuple[PartitionSpec | None, ...]] = field(default_factory=dict)

    def touched(self) -> frozenset[str]:
        """Paths of all equations at or below which something is constrained."""
        found: set[str] = set()
        for key in (*self.operands, *self.results, *self.slots):
            path = key.partition(":")[0]
            while path and path not in found:
                found.add(path)
                path = path.rpartition("/")[0]
        return frozenset(found)


_PLAIN_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Calls that mean nothing of their own: they are inlined."""
_HIGHER = frozenset({"scan", "while", "cond"})
Constrain = Callable[[Any, PartitionSpec], Any]


def run_constrained(
    closed: ClosedJaxpr,
    arguments: Sequence[Any],
    constraints: Constraints,
    constrain: Constrain,
    mesh: AnyMesh | None = None,
) -> list[Any]:
    """Evaluate a jaxpr with constraints.

    Args:
        closed: The jaxpr.
        arguments: Its flat arguments.
        constraints: Where to constrain.
        constrain: Puts one constraint on an array.
        mesh: The mesh of the constraints: annotations for other meshes are freed. None leaves them all.

    Raises:
        TraceError: The jaxpr has a shard_map for another number of devices than those of the mesh.
    """
    freeing = None if mesh is None else Freeing(mesh)
    runner = _Runner(constraints, constraints.touched(), constrain, freeing)
    with nullcontext() if freeing is None else freeing.context():
        return runner.body(closed.jaxpr, closed.consts, arguments, "")


@dataclass(frozen=True, slots=True)
class _Runner:
    constraints: Constraints
    touched: frozenset[str]
    constrain: Constrain
    freeing: Freeing | None
    entering: frozenset[int] = frozenset()
    """Identities of what the innermost body that is not inlined has got as arguments."""

    def body(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        arguments: Sequence[Any],
        path: str,
        caller: Any = None,
    ) -> list[Any]:
        """Run equations; those that know no line of the user's get the traceback of their `caller`."""
        env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
        copies: dict[tuple[Any, Chain], Any] = {}
        outer = source_info_util.current_name_stack()
        for position, eqn in enumerate(jaxpr.eqns):
            here = f"{path}/{position}" if path else str(position)
            stack = outer + eqn.source_info.name_stack
            stack = stack if self.runs_bodies(eqn, here) else stack.extend(mark_of(here))
            lines = eqn.source_info.traceback if caller is None or source_of(eqn) else caller
            source = source_info_util.user_context(lines, name_stack=stack)
            with source, eqn.ctx.manager, self.context(eqn):
                results = self.equation(eqn, self.operands(eqn, env, copies, here), here, lines)
            env.update(zip(eqn.outvars, results, strict=True))
        return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    def context(self, eqn: JaxprEqn) -> AbstractContextManager[Any]:
        """An equation's context without the mesh it was traced under, where that is not the plan's."""
        return nullcontext() if self.freeing is None else self.freeing.context(eqn.ctx.cur_abstract_mesh)

    def operands(self, eqn: JaxprEqn, env: dict[Any, Any], copies: dict[Any, Any], path: str) -> list[Any]:
        """Read the operands, constrained where asked; equations that want the same copy share it."""
        chains = iter(self.constraints.operands.get(path, ()))
        homes = iter(self.constraints.homes.get(path, ()))
        values = []
        for var in eqn.invars:
            if isinstance(var, Literal):
                values.append(var.val)
                continue
            value = env[var]
            chain, home = next(chains, ()), next(homes, None)
            if home is not None and id(value) in self.entering:
                value = env[var] = self.put(value, home)
            for length, spec in enumerate(chain, start=1):
                key = (var, chain[:length])
                if key not in copies:
                    copies[key] = self.put(value, spec)
                value = copies[key]
            values.append(value)
        return values

    def put(self, value: Any, spec: PartitionSpec) -> Any:
        """Put one constraint on an array."""
        return value if isinstance(jax.typeof(value), AbstractRef) else self.constrain(value, spec)

    def equation(self, eqn: JaxprEqn, operands: list[Any], path: str, lines: Any) -> list[Any]:
        results = self.evaluate(eqn, operands, path, lines)
        chains = self.constraints.results.get(path, ())
        for position, chain in enumerate(chains[: len(results)]):
            for spec in chain:
                results[position] = self.put(results[position], spec)
        return results

    def evaluate(self, eqn: JaxprEqn, operands: list[Any], path: str, lines: Any) -> list[Any]:
        higher = {"scan": self.scan, "while": self.while_loop, "cond": self.cond}.get(eqn.primitive.name)
        if higher is not None:
            return higher(eqn, operands, path) if self.enters(eqn, path) else _bind(eqn, operands, eqn.params)
        inner = called_jaxpr(eqn)
        if inner is None:
            return self.leaf(eqn, operands)
        if not self.enters(eqn, path):
            return _bind(eqn, operands, eqn.params)
        if eqn.primitive.name in _PLAIN_CALLS:
            return self.body(*inner, operands, path, lines)
        return self.call(eqn, ClosedJaxpr(*inner), operands, path)

    def runs_bodies(self, eqn: JaxprEqn, path: str) -> bool:
        """Whether an equation is run as those of its bodies, each of which has its own mark."""
        has_bodies = eqn.primitive.name in _HIGHER or called_jaxpr(eqn) is not None
        return has_bodies and self.enters(eqn, path)

    def enters(self, eqn: JaxprEqn, path: str) -> bool:
        """Whether the bodies of an equation are run anew: for a constraint, an annotation, a copy inside."""
        if path in self.touched or self.freeing is None:
            return path in self.touched
        return self.freeing.concerns(eqn) or some_need_operands_of_their_own(eqn, self.freeing.mesh.size)

    def leaf(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        if self.freeing is None:
            return _bind(eqn, operands, eqn.params)
        if self.freeing.annotates(eqn):
            return operands
        own = self.freeing.own_spec(eqn)
        if own is not None:
            return [self.constrain(operands[0], own)]
        if needs_operand_of_its_own(eqn, self.freeing.mesh.size):
            anywhere = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * operands[0].ndim)
            operands = [self.constrain(operands[0], anywhere), *operands[1:]]
        return _bind(eqn, operands, self.freeing.params(eqn))

    def call(self, eqn: JaxprEqn, inner: ClosedJaxpr, operands: list[Any], path: str) -> list[Any]:
        """Bind a call with a derivative rule or a policy again, with the new body."""
        key = next(key for key in BODY_KEYS if key in eqn.params)
        new = self.closed(inner, path)
        if isinstance(eqn.params[key], ClosedJaxpr):
            return _bind(eqn, operands, {**eqn.params, key: new})
        jaxpr = new.jaxpr.replace(constvars=[], invars=[*new.jaxpr.constvars, *new.jaxpr.invars])
        return _bind(eqn, [*new.consts, *operands], {**eqn.params, key: jaxpr})

    def closed(
        self, closed: ClosedJaxpr, path: str, slots: Sequence[str] = (), start: int = 0, n_carry: int = 0
    ) -> ClosedJaxpr:
        """Run a nested jaxpr into a new one.

        `slots` are the keys of its first results, the first `n_carry` also of its arguments from `start` on.
        """
        carried = slots[:n_carry] if self.constraints.held_at_start else ()

        def run(*arguments: Any) -> list[Any]:
            started = [*arguments[:start], *self.in_slots(arguments[start:], carried)]
            inside = replace(self, entering=frozenset(map(id, arguments)))
            results = inside.body(closed.jaxpr, closed.consts, started, path)
            return self.in_slots(results, slots)

        return jax.make_jaxpr(run)(*(_abstract(v.aval) for v in closed.jaxpr.invars))

    # What a loop carries is held where it ends, too: the partitioner else takes over, for the whole loop, the
    # layout in which the result is wanted, and brings the carry to its own in every iteration. Where dims are
    # padded it is held where the body starts as well: the partitioner else carries it in the layout of one of
    # its readers, and where that is padded, gathers it twice in every iteration.

    def scan(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        first, n_carry = scan_counts(eqn)
        carries = [f"{path}:carry{i}" for i in range(n_carry)]
        ys = [f"{path}:y{i}" for i in range(len(eqn.outvars) - n_carry)]
        body = self.closed(eqn.params["jaxpr"], path, [*carries, *ys], first, n_carry)
        started = [*operands[:first], *self.in_slots(operands[first:], carries)]
        return self.in_slots(_bind(eqn, started, {**eqn.params, "jaxpr": body}), carries)

    def while_loop(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        carries = [f"{path}:carry{i}" for i in range(len(eqn.outvars))]
        cond = self.closed(eqn.params["cond_jaxpr"], f"{path}/cond")
        start = eqn.params["body_nconsts"]
        body = self.closed(eqn.params["body_jaxpr"], path, carries, start, len(carries))
        started = [*operands[:first], *self.in_slots(operands[first:], carries)]
        ended = _bind(eqn, started, {**eqn.params, "cond_jaxpr": cond, "body_jaxpr": body})
        return self.in_slots(ended, carries)

    def cond(self, eqn: JaxprEqn, operands: list[Any], path: str) -> list[Any]:
        branches = enumerate(eqn.params["branches"])
        new = tuple(self.closed(branch, f"{path}/branch{i}") for i, branch in branches)
        results = _bind(eqn, operands, {**eqn.params, "branches": new})
        return self.in_slots(results, [f"{path}:out{i}" for i in range(len(results))])

    def in_slots(self, values: Sequence[Any], keys: Sequence[str]) -> list[Any]:
        """Constrain the first values as the slots `keys` are; the rest goes through."""
        slots = self.constraints.slots
        pairs = zip(values[: len(keys)], keys, strict=True)
        placed = [self.in_slot(value, slots[key], key) if key in slots else value for value, key in pairs]
        return [*placed, *values[len(placed) :]]

    def in_slot(self, value: Any, spec: PartitionSpec, key: str) -> Any:
        """Constrain a value that is handed over."""
        with jax.named_scope(mark_of(key)):
            return self.put(value, spec)


def _bind(eqn: JaxprEqn, operands: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _abstract(aval: Any) -> Any:
    if isinstance(aval, AbstractRef):
        return aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
