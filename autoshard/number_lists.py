"""Lists of integers as short text: what repeats in a program mostly counts up.

* ``0..79`` counts from 0 to 79, ``4..399..5`` in steps of 5.
* ``(0,2,5)..279..9`` is the block 0, 2, 5, then 9, 11, 14, and on by 9 until one that begins with 279: places
  in a list of layers of nine arrays.
* Such segments are joined by ``,``: ``0,1,10..19,2,20..29`` is the order of a sorted dict of strings.
* ``0..79 each 2`` says every number twice, ``1,2 times 80`` says the list 80 times over: nested loops. Where
  both stand, `each` comes first.

Numbers of one width may be padded with zeros: ``08..11``. Writing takes linear time: segments are found
greedily, each as long as it goes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from autoshard.errors import PlanError

DIGITS = 18
"""Numbers have at most this many digits; a longer run of digits counts nothing."""

_LONGEST = 2**24
_FEWEST_COPIES = 3
_LARGEST_BLOCK = 16
_NUMBER = rf"[0-9]{{1,{DIGITS}}}"
_STEP = rf"-?[1-9][0-9]{{0,{DIGITS - 1}}}"
_RANGE = rf"{_NUMBER}(?:\.\.{_NUMBER}(?:\.\.{_STEP})?)?"
_BLOCK = rf"\({_RANGE}(?:,{_RANGE})*\)"
_SEGMENT = rf"(?:{_BLOCK}|{_NUMBER})(?:\.\.{_NUMBER}(?:\.\.{_STEP})?)?"
_LIST = re.compile(
    rf"({_SEGMENT}(?:,{_SEGMENT})*)(?: each ([1-9][0-9]{{0,7}}))?(?: times ([1-9][0-9]{{0,7}}))?"
)
_SEGMENT_PARTS = re.compile(rf"(?:({_BLOCK})|({_NUMBER}))(?:\.\.({_NUMBER})(?:\.\.({_STEP}))?)?")
_FIRST_AND_LAST = re.compile(rf"(\.\.{_NUMBER})\.\.{_STEP}")


@dataclass(frozen=True, slots=True)
class Segment:
    """Ranges one after the other; then all of them again, `copies` in all, each `shift` above the last."""

    ranges: tuple[range, ...]
    copies: int = 1
    shift: int = 0

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(map(len, self.ranges)) * self.copies

    @property
    def shifts(self) -> list[int]:
        """What each copy adds."""
        return [self.shift * copy for copy in range(self.copies)]

    def values(self) -> list[int]:
        """Return the numbers."""
        return [value + shift for shift in self.shifts for each in self.ranges for value in each]


@dataclass(frozen=True, slots=True)
class NumberList:
    """A list of integers, as it is written.

    Attributes:
        segments: what is joined by ``,``.
        each: how often every number is said.
        times: how often all of that is said.
        width: digits of a number, padded with zeros; 0 where numbers are not padded.
    """

    segments: tuple[Segment, ...]
    each: int = 1
    times: int = 1
    width: int = 0

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(segment.count for segment in self.segments) * self.each * self.times

    def values(self) -> list[int]:
        """Return the numbers."""
        once = [value for segment in self.segments for value in segment.values()]
        stretched = once if self.each == 1 else [value for value in once for _ in range(self.each)]
        return stretched * self.times

    def numerals(self) -> list[str]:
        """Return the numbers as text, padded."""
        return list(map(self._numeral if self.width else str, self.values()))

    def __str__(self) -> str:
        each = f" each {self.each}" if self.each > 1 else ""
        times = f" times {self.times}" if self.times > 1 else ""
        return ",".join(map(self._segment, self.segments)) + each + times

    def _segment(self, segment: Segment) -> str:
        ranges = ",".join(map(self._range, segment.ranges))
        if segment.copies == 1:
            return ranges
        first = segment.ranges[0][0]
        return f"({ranges})" + self._until(
            range(first, first + segment.shift * segment.copies, segment.shift)
        )

    def _range(self, numbers: range) -> str:
        return self._numeral(numbers[0]) + (self._until(numbers) if len(numbers) > 1 else "")

    def _until(self, numbers: range) -> str:
        return f"..{self._numeral(numbers[-1])}" + (f"..{numbers.step}" if numbers.step != 1 else "")

    def _numeral(self, value: int) -> str:
        return f"{value:0{self.width}d}"


def to_list(values: Sequence[int], width: int = 0) -> NumberList:
    """Return the short form of `values`, which are not negative; `width` digits each where it is not 0."""
    period = _period(values)
    once = values[:period]
    each = math.gcd(*(sum(1 for _ in run) for _, run in groupby(once)))
    return NumberList(tuple(_blocks(_ranges(once[::each]))), each, len(values) // period, width)


def parse_list(text: str) -> NumberList:
    """Return the list that `text` says.

    Raises:
        PlanError: `text` is no list of integers, or a list of more than 2**24.
    """
    found = _LIST.fullmatch(text)
    if found is None:
        raise PlanError(
            f"`{text}` is no list of integers: expected such as `0..79`, `4..399..5`, `0,1,10..19`, "
            "`(0,2,5)..279..9` or `0..3 each 2 times 5`"
        )
    segments = tuple(_parse_segment(each[0], text) for each in re.finditer(_SEGMENT, found[1]))
    result = NumberList(segments, int(found[2] or 1), int(found[3] or 1), _width(found[1], text))
    if result.count > _LONGEST:
        raise PlanError(f"`{text}` lists {result.count} numbers: expected at most {_LONGEST}")
    return result


def is_padded(numeral: str) -> bool:
    """Whether a number is written with zeros in front."""
    return len(numeral) > 1 and numeral.startswith("0")


def _period(values: Sequence[int]) -> int:
    """The shortest beginning of which `values` is a whole number of copies."""
    length = len(values)
    small = [size for size in range(1, math.isqrt(length) + 1) if length % size == 0]
    sizes = sorted({*small, *(length // size for size in small)})
    return next(size for size in sizes if values[size:] == values[: length - size])


def _ranges(values: Sequence[int]) -> list[range]:
    ranges, start = [], 0
    while start < len(values):
        longest = _longest_range(values, start)
        ranges.append(longest)
        start += len(longest)
    return ranges


def _longest_range(values: Sequence[int], start: int) -> range:
    """The range that begins at `start`: one number where it would not be of 3."""
    first, stop = values[start], start + 1
    step = values[stop] - first if stop < len(values) else 0
    while step and stop < len(values) and values[stop] - values[stop - 1] == step:
        stop += 1
    if stop - start < _FEWEST_COPIES:
        return range(first, first + 1)
    return range(first, first + step * (stop - start), step)


def _blocks(ranges: Sequence[range]) -> list[Segment]:
    """Join ranges that come again and again, shifted by the same amount."""
    segments, start = [], 0
    while start < len(ranges):
        size, copies = max(_copies(ranges, start), key=lambda found: found[0] * found[1])
        shift = ranges[start + size][0] - ranges[start][0] if copies > 1 else 0
        segments.append(Segment(tuple(ranges[start : start + size]), copies, shift))
        start += size * copies
    return segments


def _copies(ranges: Sequence[range], start: int) -> list[tuple[int, int]]:
    """How many copies of the block at `start` follow each other: its size in ranges, and their number."""
    found = [(1, 1)]
    firsts = [each[0] for each in ranges[start : start + 2 * _LARGEST_BLOCK + 1]]
    for size in range(1, min(_LARGEST_BLOCK, (len(ranges) - start) // _FEWEST_COPIES) + 1):
        shift, again = firsts[size] - firsts[0], firsts[2 * size] - firsts[size]
        if not shift or again != shift:
            continue
        stop = start + size
        while stop < len(ranges) and _is_shifted(ranges[stop - size], ranges[stop], shift):
            stop += 1
        copies = (stop - start) // size
        if copies >= _FEWEST_COPIES:
            found.append((size, copies))
    return found


def _is_shifted(before: range, after: range, shift: int) -> bool:
    return (
        after[0] - before[0] == shift
        and len(after) == len(before)
        and (after.step == before.step or len(after) == 1)
    )


def _parse_segment(segment: str, text: str) -> Segment:
    found = _SEGMENT_PARTS.fullmatch(segment)
    assert found is not None  # `_LIST` has matched it
    if found[1] is None:
        return Segment((_parse_range(found[2], found[3], found[4], text),))
    parts = map(_SEGMENT_PARTS.fullmatch, found[1][1:-1].split(","))
    ranges = tuple(_parse_range(each[2], each[3], each[4], text) for each in parts if each)
    firsts = _parse_range(str(ranges[0][0]), found[3], found[4], text)
    result = Segment(ranges, len(firsts), firsts.step)
    if min(each[i] for each in ranges for i in (0, -1)) + min(result.shifts) < 0:
        raise PlanError(f"`{segment}` in `{text}` counts below 0")
    return result


def _parse_range(first: str, last: str | None, step: str | None, text: str) -> range:
    start, stop, by = int(first), int(last or first), int(step or 1)
    steps, rest = divmod(stop - start, by)
    if steps < 0 or rest:
        raise PlanError(f"`{text}` does not come from {start} to {stop} in whole steps of {by}")
    return range(start, stop + (1 if by > 0 else -1), by)


def _width(segments: str, text: str) -> int:
    numerals = re.findall(_NUMBER, _FIRST_AND_LAST.sub(r"\1", segments))
    if not any(map(is_padded, numerals)):
        return 0
    widths = set(map(len, numerals))
    if len(widths) > 1:
        raise PlanError(f"`{text}` pads numbers of unequal width: expected one width, such as `08..11`")
    return widths.pop()
