"""Which compiled collective answers which predicted one.

Three passes, each over what the one before left:

1. those of the same entry of the plan, kind and mesh axes;
2. those of the same kind and axes at another operation, as near as can be along the data flow
   (`autoshard.audit.flow`): the compiler reduces where an open sum is made, gathers before or behind a view.
   Those of the very same bytes and runs may be anywhere;
3. another form: those of other kinds or axes near by that share an axis with what was predicted, such as an
   all-reduce and a slice for a reduce-scatter, or gathers over one axis after the other.

All answers of a prediction together move at most `ALLOWED_GROWTH` times its bytes, and one that is answered
in full takes no more: a second all-gather at one einsum stays unexpected, and so does a much larger one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from autoshard.audit.flow import Flow
from autoshard.audit.records import ALLOWED_GROWTH, Compiled, Predicted, Row, Verdict, in_order

NEAR_STEPS = 8
"""How many steps of the data flow a collective may stand from where it was predicted."""
_ALIKE = 0.01
"""Bytes that differ by less than this fraction are the same: layouts pad."""
_SUMS = frozenset({"all-reduce", "reduce-scatter"})
_PERMUTE = "collective-permute"
_DIGITS = re.compile(r"[0-9]+")


@dataclass(slots=True)
class _Claim:
    """A prediction and what answers it so far."""

    predicted: Predicted
    places: Sequence[int]
    answers: list[Compiled] = field(default_factory=list)

    @property
    def answered_bytes(self) -> float:
        return sum(each.collective.total_bytes for each in self.answers)

    @property
    def answered(self) -> bool:
        return bool(self.answers) and self.answered_bytes >= (1 - _ALIKE) * self.predicted.total_bytes

    def has_room_for(self, found: Compiled) -> bool:
        """Whether the prediction, with a collective among its answers, moves no more than it may."""
        most = ALLOWED_GROWTH * (1 + _ALIKE) * self.predicted.total_bytes
        return self.answered_bytes + found.collective.total_bytes <= most

    def is_form_of(self, found: Compiled) -> bool:
        """Whether kind and axes are as predicted."""
        return (self.predicted.kind, self.predicted.axes) == (found.collective.kind, found.collective.axes)

    def row(self) -> Row:
        if not self.answers:
            return Row("missing", (self.predicted,))
        agrees = all(map(self.is_form_of, self.answers))
        return Row("agrees" if agrees else "another form", (self.predicted,), tuple(self.answers))


def match(
    predicted: Iterable[Predicted],
    compiled: Iterable[Compiled],
    places: Mapping[str, Sequence[int]],
    flow: Flow,
    sizes: Mapping[str, int],
) -> tuple[Row, ...]:
    """Lay compiled collectives against predicted ones.

    Args:
        predicted: All predicted collectives.
        compiled: All compiled ones.
        places: The equations of each entry of the plan.
        flow: The data flow between them.
        sizes: Size of each mesh axis.
    """
    claims = [_Claim(each, places.get(each.entry, ())) for each in predicted]
    rest = _most_bytes_first(compiled)
    rest = _at_entries(rest, claims)
    rest = _near(rest, claims, flow)
    rest = _other_forms(rest, claims, flow, sizes)
    return in_order([*(claim.row() for claim in claims), *grouped(rest)])


def grouped(compiled: Iterable[Compiled], verdict: Verdict = "unexpected") -> list[Row]:
    """One row for the compiled collectives of one kind, axes, bytes, line and operation, numbers aside.

    So the copies of an unrolled layer are one row.
    """
    groups: dict[tuple[object, ...], list[Compiled]] = {}
    for each in compiled:
        found = each.collective
        op = _DIGITS.sub("#", each.op)
        groups.setdefault((found.kind, found.axes, found.bytes_per_chip, each.source, op), []).append(each)
    return [Row(verdict, (), tuple(group)) for group in groups.values()]


def _most_bytes_first(compiled: Iterable[Compiled]) -> list[Compiled]:
    return sorted(compiled, key=lambda each: -each.collective.total_bytes)


def _at_entries(compiled: Sequence[Compiled], claims: Sequence[_Claim]) -> list[Compiled]:
    pairs = [
        (_difference(found, claim.predicted), number, place)
        for number, found in enumerate(compiled)
        for place, claim in enumerate(claims)
        if claim.predicted.entry == found.entry and claim.is_form_of(found)
    ]
    return _assigned(compiled, claims, [(number, place) for _, number, place in sorted(pairs)])


def _near(compiled: Sequence[Compiled], claims: Sequence[_Claim], flow: Flow) -> list[Compiled]:
    pairs = []
    for number, found in enumerate(compiled):
        for place, claim in enumerate(claims):
            if claim.answered or not claim.is_form_of(found):
                continue
            steps = flow.steps(found.equation, claim.places)
            alike = _alike(found, claim.predicted)
            if steps is not None or alike:
                pairs.append((not alike, NEAR_STEPS + 1 if steps is None else steps, number, place))
    return _assigned(compiled, claims, [(number, place) for _, _, number, place in sorted(pairs)])


def _other_forms(
    compiled: Sequence[Compiled], claims: Sequence[_Claim], flow: Flow, sizes: Mapping[str, int]
) -> list[Compiled]:
    still_open = [claim for claim in claims if not claim.answered]
    rest = []
    for found in compiled:
        if any(claim.predicted.entry == found.entry and claim.is_form_of(found) for claim in claims):
            rest.append(found)  # what was predicted has been done, this does it once more
            continue
        near = [
            (_differ(found, claim.predicted), steps, place)
            for place, claim in enumerate(still_open)
            if claim.has_room_for(found)
            and _may_replace(found, claim.predicted, sizes)
            and (steps := flow.steps(found.equation, claim.places)) is not None
        ]
        if near:
            still_open[min(near)[-1]].answers.append(found)
        else:
            rest.append(found)
    return rest


def _assigned(
    compiled: Sequence[Compiled], claims: Sequence[_Claim], pairs: Iterable[tuple[int, int]]
) -> list[Compiled]:
    """Let compiled collectives answer claims in the order of the pairs; return those that are left."""
    taken: set[int] = set()
    for number, place in pairs:
        claim, found = claims[place], compiled[number]
        if number not in taken and not claim.answered and claim.has_room_for(found):
            claim.answers.append(found)
            taken.add(number)
    return [found for number, found in enumerate(compiled) if number not in taken]


def _may_replace(found: Compiled, predicted: Predicted, sizes: Mapping[str, int]) -> bool:
    """Whether a collective can be a form of a prediction: over one of its axes, and run as often.

    A chain of permutes (a collective einsum done piece by piece) runs up to once for each chip of the axes.
    """
    collective = found.collective
    pieces = prod(sizes[axis] for axis in predicted.axes) if collective.kind == _PERMUTE else 1
    as_often = predicted.trips <= collective.trips <= pieces * predicted.trips
    return as_often and bool(set(predicted.axes) & set(collective.axes))


def _differ(found: Compiled, predicted: Predicted) -> bool:
    """Whether one of two completes a sum and the other moves what is complete."""
    return (found.collective.kind in _SUMS) != (predicted.kind in _SUMS)


def _difference(found: Compiled, predicted: Predicted) -> float:
    return abs(found.collective.bytes_per_chip - predicted.bytes_per_chip)


def _alike(found: Compiled, predicted: Predicted) -> bool:
    return (
        found.collective.trips == predicted.runs
        and _difference(found, predicted) <= _ALIKE * predicted.bytes_per_chip
    )
