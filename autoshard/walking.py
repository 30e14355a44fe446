"""Walk a jaxpr into the flat list of `autoshard.equations`.

Calls (jit, remat, custom derivatives) are entered and vanish. A scan becomes a loop whose carried and
scanned values are tied to the values outside. A value is *free* when it depends on nothing but small
arguments and constants; a carried value that is free at first and not after an iteration has the loop
walked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from autoshard.equations import Equation, Equations, Place, Recorder, TracedValue
from autoshard.naming import einsum_letters, named, source_of
from autoshard.primitives import called_jaxpr, flops, kind_of, nbytes_of, scan_counts
from autoshard.search.graph import OpKind

SMALL_ARGUMENT_BYTES = 8 * 2**20
"""Arguments below this, and below 1/1024 of all arguments, are kept replicated: tokens, positions, scales."""
_SMALL_FRACTION = 1 / 1024


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
    outs = walker.body(jaxpr, [*constants, *arguments], Place("", -1, 1))
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


_Carried = tuple[list[int], list[int], Place]
"""Slots of the carried values, the values that the body returns, and the place of the body."""


class _Walker(Recorder):
    """A recorder that reads jaxprs."""

    def arguments(self, jaxpr: Jaxpr, names: Sequence[str]) -> list[int]:
        sizes = [nbytes_of(var.aval) for var in jaxpr.invars]
        small = min(SMALL_ARGUMENT_BYTES, sum(sizes) * _SMALL_FRACTION)
        return [
            self.value(var.aval, name, free=size <= small, stored=0 if size <= small else size)
            for var, name, size in zip(jaxpr.invars, names, sizes, strict=True)
        ]

    def body(self, jaxpr: Jaxpr, operands: Sequence[int], place: Place) -> list[int]:
        """Walk a jaxpr whose constvars and invars hold `operands`; return the values of its outvars."""
        env: dict[Var, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], operands, strict=True))
        for position, eqn in enumerate(jaxpr.eqns):
            self.traced += 1
            results = self.equation(eqn, env, place.at(position))
            env.update(zip(eqn.outvars, results, strict=True))
        return [self.read(var, env) for var in jaxpr.outvars]

    def read(self, atom: Any, env: dict[Var, int]) -> int:
        return self.value(atom.aval, "literal", free=True) if isinstance(atom, Literal) else env[atom]

    def equation(self, eqn: JaxprEqn, env: dict[Var, int], place: Place) -> list[int]:
        higher = {"scan": self.scan, "while": self.while_loop, "cond": self.cond}.get(eqn.primitive.name)
        if higher is not None:
            return higher(eqn, [self.read(v, env) for v in eqn.invars], place.under(eqn))
        inner = called_jaxpr(eqn)
        if inner is not None:
            held = self.constants(inner[0].constvars)
            return self.body(inner[0], [*held, *(self.read(v, env) for v in eqn.invars)], place.under(eqn))
        return self.leaf(eqn, [env[v] for v in eqn.invars if not isinstance(v, Literal)], place)

    def leaf(self, eqn: JaxprEqn, operands: Sequence[int], place: Place) -> list[int]:
        index = len(self.equations)
        kind = kind_of(eqn)
        results = self.leaf_results(eqn, kind, [self.values[v] for v in operands], index, place.loop)
        scope = place.under(eqn).scope
        self.equations.append(
            Equation(
                index=index,
                eqn=eqn,
                primitive=eqn.primitive.name,
                kind=kind,
                operands=tuple(operands),
                results=tuple(results),
                flops=flops(eqn),
                trips=place.trips,
                loop=place.loop,
                source=source_of(eqn),
                scope=scope.name,
                equation=einsum_letters(eqn, scope) if eqn.primitive.name == "dot_general" else "",
                path=place.path,
            )
        )
        return results

    def leaf_results(
        self, eqn: JaxprEqn, kind: OpKind, read: Sequence[TracedValue], producer: int, loop: int
    ) -> list[int]:
        free = kind is not OpKind.EINSUM and all(value.free for value in read)
        name, origin = _inherited(kind, read)
        return [
            self.value(
                v.aval, name, producer=producer, free=free, stored=_stored_bytes(origin, v.aval), loop=loop
            )
            for v in eqn.outvars
        ]

    def carried(self, init: Sequence[int], varying: set[int], place: Place) -> list[int]:
        """Slots in which a loop keeps its carried values; those in `varying` are no longer free inside."""
        slots = []
        for position, value in enumerate(init):
            name = self.values[value].name
            if self.values[value].free and position not in varying:
                slots.append(value)
                continue
            slot = self.hand_over(value, f"{name or 'carry'}>", place.slot("init", position))
            self.change(slot, free=False, name=name)
            slots.append(slot)
        return slots

    def until_settled(
        self, init: Sequence[int], run: Callable[[list[int]], _Carried], place: Place
    ) -> _Carried:
        """Walk a loop's body until no carried value that goes in free comes out bound."""
        varying: set[int] = set()
        while True:
            mark = self.mark()
            slots, outs, inside = run(self.carried(init, varying, place))
            pairs = enumerate(zip(slots, outs, strict=False))
            grown = {i for i, (s, out) in pairs if self.values[s].free and not self.values[out].free}
            if not grown:
                return slots, outs, inside
            self.rewind(mark)
            varying |= grown

    def scan(self, eqn: JaxprEqn, operands: list[int], place: Place) -> list[int]:
        n_consts, n_carry = scan_counts(eqn)
        consts, rest = operands[:n_consts], operands[n_consts:]
        jaxpr = eqn.params["jaxpr"].jaxpr
        held = self.constants(jaxpr.constvars)

        def run(slots: list[int]) -> _Carried:
            inside = self.enter(place, eqn.params["length"], known=True)
            slices = [self.sliced(value, inside) for value in rest[n_carry:]]
            return slots, self.body(jaxpr, [*held, *consts, *slots, *slices], inside), inside

        slots, outs, inside = self.until_settled(rest[:n_carry], run, place)
        finals = self.next_carries(slots, outs[:n_carry], inside)
        ys = [
            self.stacked(out, var.aval, inside.slot("y", i), place)
            for i, (out, var) in enumerate(zip(outs[n_carry:], eqn.outvars[n_carry:], strict=True))
        ]
        self.leave(inside)
        return finals + ys

    def while_loop(self, eqn: JaxprEqn, operands: list[int], place: Place) -> list[int]:
        """The trip count is unknown: the body is counted once and the loop says so."""
        n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        jaxpr = eqn.params["body_jaxpr"].jaxpr
        consts, init = operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
        held = self.constants(jaxpr.constvars)

        def run(slots: list[int]) -> _Carried:
            inside = self.enter(place, 1, known=False)
            return slots, self.body(jaxpr, [*held, *consts, *slots], inside), inside

        slots, outs, inside = self.until_settled(init, run, place)
        finals = self.next_carries(slots, outs, inside)
        self.leave(inside)
        return finals

    def sliced(self, value: int, inside: Place) -> int:
        """The slice of a scanned value that one iteration sees."""
        outer, index = self.values[value], len(self.values)
        length = max(1, outer.shape[0])
        inner = replace(
            outer,
            index=index,
            shape=outer.shape[1:],
            nbytes=outer.nbytes / length,
            stored_bytes=outer.stored_bytes / length,
            loop=inside.loop,
        )
        self.values.append(inner)
        if not outer.free:
            self.tie(value, index)
        return index

    def next_carries(self, slots: Sequence[int], outs: Sequence[int], inside: Place) -> list[int]:
        pairs = enumerate(zip(slots, outs, strict=True))
        return [self.next_carry(slot, out, inside.slot("carry", i)) for i, (slot, out) in pairs]

    def next_carry(self, slot: int, out: int, place: Place) -> int:
        held = self.values[slot]
        if held.free:
            return slot
        final = self.hand_over(out, f"{held.name or 'carry'}<", place)
        self.change(final, free=False, stored_bytes=held.stored_bytes, name=held.name)
        self.tie(slot, final)
        return final

    def stacked(self, out: int, aval: Any, slot_place: Place, place: Place) -> int:
        """The stacked output that collects `out` of every iteration."""
        name = self.values[out].name
        if self.values[out].free:
            return self.value(aval, name, free=True, loop=place.loop)
        slot = self.hand_over(out, f"{name or 'stacked'}<", slot_place)
        outer = self.value(aval, name, producer=self.values[slot].producer, loop=place.loop)
        self.tie(outer, slot)
        return outer

    def cond(self, eqn: JaxprEqn, operands: list[int], place: Place) -> list[int]:
        """All branches are counted; their results share one layout."""
        branches = []
        for number, branch in enumerate(eqn.params["branches"]):
            held = self.constants(branch.jaxpr.constvars)
            inside = replace(place, path=f"{place.path}/branch{number}")
            branches.append(self.body(branch.jaxpr, [*held, *operands[1:]], inside))
        return [self.joined(outs, place.slot("out", i)) for i, outs in enumerate(zip(*branches, strict=True))]

    def joined(self, outs: Sequence[int], place: Place) -> int:
        """The one result that the branches' values `outs` become."""
        bound = [out for out in outs if not self.values[out].free]
        if not bound:
            return outs[0]
        slots = [self.hand_over(out, "branch", place) for out in bound]
        for slot in slots[1:]:
            self.tie(slots[0], slot)
        return slots[0]


def _inherited(kind: OpKind, read: Sequence[TracedValue]) -> tuple[str, TracedValue | None]:
    """The name and the stored origin that a view or an update takes over from what it reads."""
    bound = [value for value in read if not value.free]
    if kind is OpKind.VIEW and len(bound) == 1:
        return bound[0].name, bound[0]
    if kind is OpKind.UPDATE and read and not read[0].free:
        return "", read[0]
    return "", None


def _stored_bytes(origin: TracedValue | None, aval: Any) -> float:
    if origin is None or not origin.stored_bytes:
        return 0.0
    scale: float = math.prod(aval.shape) / max(1, math.prod(origin.shape))
    return origin.stored_bytes * min(1.0, scale)
