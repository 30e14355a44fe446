"""How loops and branches of a jaxpr are walked.

A scan becomes a loop whose carried and scanned values are tied to the values outside. A carried value that
is free at first and not after an iteration has the loop walked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn

from autoshard.equations import Place, Recorder
from autoshard.known_integers import Known, Trips
from autoshard.primitives import scan_counts
from autoshard.trip_counts import LoopBody, trip_count, while_body

_Carried = tuple[list[int], list[int], Place]
"""Slots of the carried values, the values that the body returns, and the place of the body."""


@dataclass(slots=True)
class LoopRecorder(Recorder):
    """A recorder that walks loops and branches; what is in their bodies is walked by `body`."""

    def body(self, jaxpr: Jaxpr, operands: Sequence[int], place: Place, known: Known) -> list[int]:
        """Walk a jaxpr whose constvars and invars hold `operands`; return the values of its outvars."""
        raise NotImplementedError

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

    def scan(self, eqn: JaxprEqn, operands: list[int], place: Place, known: Known) -> list[int]:
        """Walk a scan: its length is known."""
        n_consts, n_carry = scan_counts(eqn)
        consts, rest = operands[:n_consts], operands[n_consts:]
        jaxpr = eqn.params["jaxpr"].jaxpr
        held = self.constants(jaxpr.constvars)
        body = LoopBody(jaxpr, eqn.invars[:n_consts], eqn.invars[n_consts : n_consts + n_carry])
        length = eqn.params["length"]

        def run(slots: list[int]) -> _Carried:
            inside = self.enter(place, place.trips * length, known=True)
            slices = [self.sliced(value, inside) for value in rest[n_carry:]]
            outs = self.body(jaxpr, [*held, *consts, *slots, *slices], inside, body.known(known, length))
            return slots, outs, inside

        slots, outs, inside = self.until_settled(rest[:n_carry], run, place)
        finals = self.next_carries(slots, outs[:n_carry], inside)
        ys = [
            self.stacked(out, var.aval, inside.slot("y", i), place)
            for i, (out, var) in enumerate(zip(outs[n_carry:], eqn.outvars[n_carry:], strict=True))
        ]
        self.leave(inside)
        return finals + ys

    def while_loop(self, eqn: JaxprEqn, operands: list[int], place: Place, known: Known) -> list[int]:
        """Walk a while; where the jaxpr shows no trip count it is counted once and the loop says so."""
        n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        jaxpr = eqn.params["body_jaxpr"].jaxpr
        consts, init = operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
        held = self.constants(jaxpr.constvars)
        trips = trip_count(eqn, known)
        runs = place.trips if trips is None else Trips.of(trips, known.iterations).of_step(place.trips)

        def run(slots: list[int]) -> _Carried:
            inside = self.enter(place, runs, known=trips is not None)
            outs = self.body(jaxpr, [*held, *consts, *slots], inside, while_body(eqn).known(known, trips))
            return slots, outs, inside

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
        """Hand what the body returns to the next iteration; return what the loop hands on last."""
        pairs = enumerate(zip(slots, outs, strict=True))
        return [self.next_carry(slot, out, inside.slot("carry", i)) for i, (slot, out) in pairs]

    def next_carry(self, slot: int, out: int, place: Place) -> int:
        """Hand one value to the next iteration."""
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

    def cond(self, eqn: JaxprEqn, operands: list[int], place: Place, known: Known) -> list[int]:
        """Walk a cond: all branches are counted, and their results share one layout."""
        branches = []
        for number, branch in enumerate(eqn.params["branches"]):
            held = self.constants(branch.jaxpr.constvars)
            inside = replace(place, path=f"{place.path}/branch{number}")
            inner = known.inside(eqn.invars[1:], branch.jaxpr.invars)
            branches.append(self.body(branch.jaxpr, [*held, *operands[1:]], inside, inner))
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
