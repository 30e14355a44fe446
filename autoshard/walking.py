"""Walk a jaxpr into the flat list of `autoshard.equations`.

Calls (jit, remat, custom derivatives) are entered and vanish; loops and branches are those of
`autoshard.loop_walking`. A value is *free* when it depends on nothing but small arguments and constants.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from autoshard.equations import Equation, Equations, Place, TracedValue
from autoshard.known_integers import Known
from autoshard.loop_walking import LoopRecorder
from autoshard.naming import einsum_letters, named, source_of
from autoshard.primitives import called_jaxpr, flops, kind_of, nbytes_of
from autoshard.scopes import Scope
from autoshard.search.graph import OpKind

SMALL_ARGUMENT_BYTES = 8 * 2**20
"""Arguments up to this size are kept replicated (tokens, positions, scales) as far as they are together below
1/1024 of all arguments, the smallest first."""
_SMALL_FRACTION = 1 / 1024
_Control = Callable[[LoopRecorder, JaxprEqn, list[int], Place, Known], list[int]]
_CONTROL: dict[str, _Control] = {
    "scan": LoopRecorder.scan,
    "while": LoopRecorder.while_loop,
    "cond": LoopRecorder.cond,
}


def walk(closed: ClosedJaxpr, argument_names: Sequence[str], result_names: Sequence[str]) -> Equations:
    """Flatten a closed jaxpr.

    Args:
        closed: The traced function.
        argument_names: A path for each flat argument, e.g. "params/layers/wi".
        result_names: A path for each flat result.
    """
    walker = _Walker()
    jaxpr = closed.jaxpr
    arguments = walker.arguments(jaxpr, argument_names)
    constants = [walker.value(var.aval, f"constant{i}", free=True) for i, var in enumerate(jaxpr.constvars)]
    outs = walker.body(jaxpr, [*constants, *arguments], Place("", -1, 1), Known())
    results = [
        walker.hand_over(out, name, Place(f":result{i}", -1, 1))
        for i, (out, name) in enumerate(zip(outs, result_names, strict=True))
    ]
    return Equations(
        values=tuple(walker.values),
        equations=tuple(named(walker.equations, walker.values)),
        ties=tuple(walker.ties),
        loops=tuple(walker.loops),
        arguments=tuple(arguments),
        results=tuple(results),
        constants=tuple(constants),
        traced=walker.traced,
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of an equation wherever its jaxpr is called from.

    `inner` is the jaxpr that a call runs; `control` is how a loop or a branch is walked.
    """

    kind: OpKind
    flops: float
    source: str
    operands: tuple[Var, ...]
    inner: tuple[Jaxpr, Sequence[Any]] | None
    control: _Control | None


def largest_small(sizes: Sequence[float]) -> float:
    """Return the size up to which arguments are small: all of those together are a small share of all."""
    together, largest = 0.0, 0.0
    for size, count in sorted(Counter(sizes).items()):
        together += size * count
        if size > SMALL_ARGUMENT_BYTES or together > sum(sizes) * _SMALL_FRACTION:
            break
        largest = size
    return largest


@dataclass(slots=True)
class _Walker(LoopRecorder):
    """A recorder that reads jaxprs. Jaxprs recur, so what it learns of an equation it keeps."""

    facts: dict[int, _Facts] = field(default_factory=dict)
    scopes: dict[tuple[int, int], Scope] = field(default_factory=dict)

    def arguments(self, jaxpr: Jaxpr, names: Sequence[str]) -> list[int]:
        sizes = [nbytes_of(var.aval) for var in jaxpr.invars]
        small = largest_small(sizes)
        return [
            self.value(var.aval, name, free=size <= small, stored=0 if size <= small else size)
            for var, name, size in zip(jaxpr.invars, names, sizes, strict=True)
        ]

    def body(self, jaxpr: Jaxpr, operands: Sequence[int], place: Place, known: Known) -> list[int]:
        env: dict[Var, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], operands, strict=True))
        self.traced += len(jaxpr.eqns)
        prefix = f"{place.path}/" if place.path else ""
        for position, eqn in enumerate(jaxpr.eqns):
            scope = self.scope(place.scope, eqn.source_info.name_stack)
            inside = Place(f"{prefix}{position}", place.loop, place.trips, scope)
            results = self.equation(eqn, env, inside, known)
            env.update(zip(eqn.outvars, results, strict=True))
        return [self.read(var, env) for var in jaxpr.outvars]

    def read(self, atom: Any, env: dict[Var, int]) -> int:
        return self.value(atom.aval, "literal", free=True) if isinstance(atom, Literal) else env[atom]

    def equation(self, eqn: JaxprEqn, env: dict[Var, int], place: Place, known: Known) -> list[int]:
        facts = self.facts.get(id(eqn)) or self.learn(eqn)
        if facts.control is not None:
            return facts.control(self, eqn, [self.read(v, env) for v in eqn.invars], place, known)
        if facts.inner is None:
            known.note(eqn)
            return self.leaf(eqn, facts, [env[v] for v in facts.operands], place)
        jaxpr = facts.inner[0]
        operands = [*self.constants(jaxpr.constvars), *(self.read(v, env) for v in eqn.invars)]
        inside = known.inside(eqn.invars, jaxpr.invars)
        results = self.body(jaxpr, operands, place, inside)
        known.take(eqn.outvars, inside, jaxpr.outvars)
        return results

    def learn(self, eqn: JaxprEqn) -> _Facts:
        operands = tuple(v for v in eqn.invars if not isinstance(v, Literal))
        control = _CONTROL.get(eqn.primitive.name)
        inner = None if control else called_jaxpr(eqn)
        facts = _Facts(kind_of(eqn), flops(eqn), source_of(eqn), operands, inner, control)
        self.facts[id(eqn)] = facts
        return facts

    def scope(self, outer: Scope, stack: object) -> Scope:
        key = id(outer), id(stack)
        if key not in self.scopes:
            self.scopes[key] = outer.under(stack)
        return self.scopes[key]

    def leaf(self, eqn: JaxprEqn, facts: _Facts, operands: Sequence[int], place: Place) -> list[int]:
        index, primitive = len(self.equations), eqn.primitive.name
        read = [self.values[v] for v in operands]
        results = self.leaf_results(eqn, facts.kind, read, index, place.loop)
        self.equations.append(
            Equation(
                index=index,
                eqn=eqn,
                primitive=primitive,
                kind=facts.kind,
                operands=tuple(operands),
                results=tuple(results),
                flops=facts.flops,
                trips=place.trips,
                loop=place.loop,
                source=facts.source,
                scope=place.scope.name,
                equation=einsum_letters(eqn, place.scope) if primitive == "dot_general" else "",
                path=place.path,
            )
        )
        return results

    def leaf_results(
        self, eqn: JaxprEqn, kind: OpKind, read: Sequence[TracedValue], producer: int, loop: int
    ) -> list[int]:
        made_anew = kind is OpKind.EINSUM or bool(eqn.effects)  # a mutable array is what is written to it
        free = not made_anew and all([value.free for value in read])
        name, origin = _inherited(kind, read)
        return [
            self.value(
                v.aval, name, producer=producer, free=free, stored=_stored_bytes(origin, v.aval), loop=loop
            )
            for v in eqn.outvars
        ]


def _inherited(kind: OpKind, read: Sequence[TracedValue]) -> tuple[str, TracedValue | None]:
    """The name and the stored origin that a result takes over from what it reads.

    A view has both of its operand. A stored value that is scaled on its way to its readers is in no other
    memory either: the compiler does that where it is read.
    """
    bound = [value for value in read if not value.free]
    if len(bound) == 1 and kind is OpKind.VIEW:
        return bound[0].name, bound[0]
    if len(bound) == 1 and kind is OpKind.ELEMENTWISE:
        return "", bound[0]
    if kind is OpKind.UPDATE and read and not read[0].free:
        return "", read[0]
    return "", None


def _stored_bytes(origin: TracedValue | None, aval: Any) -> float:
    if origin is None or not origin.stored_bytes:
        return 0.0
    scale: float = math.prod(aval.shape) / max(1, math.prod(origin.shape))
    return origin.stored_bytes * min(1.0, scale)
