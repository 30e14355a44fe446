"""Name patterns: the names of equal things as one text.

``params/layers/{0..79}/attn/q/kernel`` stands for 80 names. A hole ``{...}`` holds a list of integers
(`autoshard.number_lists`); several holes of one pattern advance together: ``layers/{0..79}/dot#{4..399..5}``.
A number that all names share stays text. The hole ``{#1..80}`` counts things of one name, of which the first
has no number (`autoshard.naming`): ``dot{#1..3}`` is ``dot``, ``dot#2``, ``dot#3``.

Literal braces are doubled, so every name has a pattern, and `expand_name` undoes `fold_names`. Names fold
together where they differ in numbers alone. Numbers padded with zeros (``layer_01``) count only where all
have one width; of others, those with a leading zero are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from autoshard.errors import PlanError
from autoshard.number_lists import DIGITS, NumberList, is_padded, parse_list, to_list

_NUMBER = re.compile(rf"(?<![0-9])([0-9]{{1,{DIGITS}}})(?![0-9])")
_NTH = re.compile(rf"#([2-9]|[1-9][0-9]{{1,{DIGITS - 1}}})\Z")
_TOKEN = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}|([^{}]+)")

_Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Hole:
    """A hole of a pattern; where it is `counting`, number 1 is silent and the others follow a ``#``."""

    numbers: NumberList
    counting: bool

    def texts(self) -> list[str]:
        if self.counting:
            return ["" if value == 1 else f"#{value}" for value in self.numbers.values()]
        return self.numbers.numerals()


def fold_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return as few patterns as say `names`, which are distinct.

    Names of one pattern keep their order, and patterns come in the order of their first names: one pattern
    expands to `names` itself, several expand to a permutation of them. Takes linear time.
    """
    groups: dict[_Row, list[tuple[int, _Row]]] = {}
    for index, name in enumerate(dict.fromkeys(names)):
        texts, numbers = _split(name)
        groups.setdefault(texts, []).append((index, numbers))
    folded = [
        (alike[0][0], _pattern(texts, [row for _, row in alike]))
        for texts, rows in groups.items()
        for alike in _of_one_width(rows)
    ]
    return tuple(pattern for _, pattern in sorted(folded))


def expand_name(pattern: str) -> tuple[str, ...]:
    """Return the names that `pattern` stands for, in order.

    Raises:
        PlanError: `pattern` is malformed.
    """
    parts = _parse(pattern)
    count = _count(parts, pattern)
    columns = [repeat(part, count) if isinstance(part, str) else part.texts() for part in parts]
    return tuple(map("".join, zip(*columns, strict=True))) if columns else ("",)


def count_names(pattern: str) -> int:
    """Return how many names `pattern` stands for; raises `PlanError` where it is malformed."""
    return _count(_parse(pattern), pattern)


def escape_name(name: str) -> str:
    """Return the pattern of one name: the name, braces doubled."""
    return name.replace("{", "{{").replace("}", "}}")


def numbers_of(name: str) -> tuple[str, ...]:
    """Return the numbers of a name, which patterns count by: as many for all names of one pattern."""
    return _split(name)[1]


def _split(name: str) -> tuple[_Row, _Row]:
    """The texts of a name and the numbers between them; the last number says which of its name it is."""
    nth = _NTH.search(name)
    parts = _NUMBER.split(name[: nth.start()] if nth else name)
    return tuple(parts[::2]), (*parts[1::2], nth[1] if nth else "1")


def _of_one_width(rows: list[tuple[int, _Row]]) -> Iterator[list[tuple[int, _Row]]]:
    """Rows whose padded numbers are of one width per column, or are the same in all rows."""
    columns = zip(*(row for _, row in rows), strict=True)
    mixed = [number for number, column in enumerate(columns) if _mixes_widths(column)]
    groups: dict[_Row, list[tuple[int, _Row]]] = {}
    for index, row in rows:
        fixed = tuple(row[number] if is_padded(row[number]) else "" for number in mixed)
        groups.setdefault(fixed, []).append((index, row))
    yield from groups.values()


def _mixes_widths(column: _Row) -> bool:
    return any(map(is_padded, column)) and len(set(map(len, column))) > 1


def _pattern(texts: _Row, rows: list[_Row]) -> str:
    *columns, nth = zip(*rows, strict=True)
    parts = zip(map(escape_name, texts), [*map(_hole, columns), _nth_hole(nth)], strict=True)
    return "".join(map("".join, parts))


def _hole(column: _Row) -> str:
    if len(set(column)) == 1:
        return column[0]
    width = len(column[0]) if any(map(is_padded, column)) else 0
    return f"{{{to_list(list(map(int, column)), width)}}}"


def _nth_hole(column: _Row) -> str:
    if "1" not in column:
        return "#" + _hole(column)
    return "" if len(set(column)) == 1 else "{#" + _hole(column)[1:]


def _parse(pattern: str) -> list[str | _Hole]:
    """Return the texts and the holes of a pattern."""
    parts: list[str | _Hole] = []
    end = 0
    for token in _TOKEN.finditer(pattern):
        if token.start() != end:
            break
        brace, hole, text = token.groups()
        parts.append(_parse_hole(hole, pattern) if hole is not None else text or brace[0])
        end = token.end()
    if end != len(pattern):
        raise PlanError(
            f"`{pattern}` is no name pattern: unmatched `{pattern[end]}` at character {end + 1}; expected a "
            "hole such as `{0..79}`, or a brace of the name itself twice"
        )
    return parts


def _parse_hole(text: str, pattern: str) -> _Hole:
    counting = text.startswith("#")
    try:
        numbers = parse_list(text.removeprefix("#"))
    except PlanError as error:
        raise PlanError(f"`{pattern}` is no name pattern: {error}") from None
    if counting and numbers.width:
        raise PlanError(f"`{pattern}` is no name pattern: `{{{text}}}` counts, expected no padded numbers")
    return _Hole(numbers, counting)


def _count(parts: Sequence[str | _Hole], pattern: str) -> int:
    counts = {part.numbers.count for part in parts if isinstance(part, _Hole)}
    if len(counts) > 1:
        raise PlanError(
            f"`{pattern}` is no name pattern: its holes list {sorted(counts)} numbers; expected as many "
            "in each"
        )
    return counts.pop() if counts else 1
