"""What repeats in a plan, said once in its file: an unrolled model of 80 layers is as long as one of a layer.

In the file every name is a pattern (`autoshard.name_patterns`). Arrays of `arguments` and `results` that have
the same record and names of one pattern are one entry: the pattern is its key, and `at` lists the places of
the arrays in the flat order. The other arrays fill the places that are left, in their order. Three arrays at
least make such an entry, and of several ways to divide arrays among entries the shortest text is written.

An einsum or a tensor is folded already in memory; its `repeats` is written where it is not 1, as are the
memory `order` of an array and the `padding` of an operation where there is one, and of the `cost` of an
operation or the step what is not 0.

Version 1 of the form had no patterns: its names are taken as they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoshard.errors import PlanError
from autoshard.name_patterns import count_names, escape_name, expand_name, fold_names, numbers_of
from autoshard.number_lists import parse_list, to_list

_ARRAYS = ("arguments", "results")
_OPERATIONS = ("einsums", "tensors")
_OPTIONAL = (
    "compiler_options",
    "pins",
    "kept",
    "forbidden",
    "hbm_limit_bytes",
    "padding",
    "choices",
    "combinations",
    "together",
    "fusions",
    "stored_padding",
)
"""Fields that are left out where they are empty."""
_FEWEST = 3

_Entry = dict[str, Any]


def fold_plan(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form in the file of a plan that is plain data.

    Raises:
        PlanError: the name of an operation is no pattern, or one of another number of names.
    """
    _check_operations(plain)
    arrays = {section: _fold_arrays(_without_orders(plain[section])) for section in _ARRAYS}
    operations = {section: [_without_default(each) for each in plain[section]] for section in _OPERATIONS}
    folded = {**plain, **arrays, **operations}
    if "predicted" in folded:
        folded["predicted"] = _without_default(folded["predicted"])
    return {field: value for field, value in folded.items() if value or field not in _OPTIONAL}


def unfold_plan(plain: Mapping[str, Any], *, version: int) -> dict[str, Any]:
    """Return the plan that a file holds, as plain data; what has a wrong type is left as it is.

    Args:
        plain: content of the file.
        version: version of its form.

    Raises:
        PlanError: a pattern is malformed; names the entry.
    """
    if version == 1:
        return {**plain, **{section: _escaped(plain[section]) for section in _OPERATIONS if section in plain}}
    _check_operations(plain)
    sections = {section: plain[section] for section in _ARRAYS if isinstance(plain.get(section), dict)}
    return {**plain, **{section: _unfold_arrays(section, entries) for section, entries in sections.items()}}


# ---- arrays


def _without_orders(arrays: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """The arrays without memory orders that are the written ones."""
    return {
        name: {field: value for field, value in record.items() if (field, value) != ("order", None)}
        for name, record in arrays.items()
    }


def _fold_arrays(arrays: Mapping[str, _Entry]) -> dict[str, _Entry]:
    places = {name: place for place, name in enumerate(arrays)}
    alike: dict[str, list[str]] = {}
    for name, record in arrays.items():
        alike.setdefault(json.dumps(record), []).append(name)
    entries: dict[int, tuple[str, _Entry]] = {}
    for text, names in alike.items():
        for copies in _divide(names, places, len(text)):
            for key, at in _keys(copies, places):
                record = arrays[copies[0]]
                entries[at[0]] = key, record if len(at) == 1 else {**record, "at": str(to_list(at))}
    return dict(entries[place] for place in sorted(entries))


def _divide(names: Sequence[str], places: Mapping[str, int], overhead: int) -> Iterator[Sequence[str]]:
    """Divide names of one record, a text of `overhead` characters, so that their entries are short."""
    for pattern in fold_names(names):
        yield from _divide_by_numbers(expand_name(pattern), places, overhead)


def _divide_by_numbers(
    names: Sequence[str], places: Mapping[str, int], overhead: int
) -> Iterator[Sequence[str]]:
    """Divide names of one pattern by one of their numbers, then by another, as long as that is shorter."""
    best, shortest = [names], _length(names, places, overhead)
    for column in zip(*map(numbers_of, names), strict=True):
        parts = _by_number(names, column)
        if 1 < len(parts) < shortest / overhead:
            length = sum(_length(part, places, overhead) for part in parts)
            if length < shortest:
                best, shortest = parts, length
    if len(best) == 1:
        yield names
    else:
        for part in best:
            yield from _divide_by_numbers(part, places, overhead)


def _by_number(names: Sequence[str], column: Sequence[str]) -> list[Sequence[str]]:
    parts: dict[str, list[str]] = {}
    for name, number in zip(names, column, strict=True):
        parts.setdefault(number, []).append(name)
    return list(parts.values())


def _length(names: Sequence[str], places: Mapping[str, int], overhead: int) -> int:
    """About how many characters the entries of `names` take."""
    return sum(overhead + len(key) + len(str(to_list(at))) for key, at in _keys(names, places))


def _keys(names: Sequence[str], places: Mapping[str, int]) -> Iterator[tuple[str, list[int]]]:
    """The keys of names of one pattern with their places: the pattern, or each name where they are few."""
    if len(names) < _FEWEST:
        yield from ((escape_name(name), [places[name]]) for name in names)
    else:
        (pattern,) = fold_names(names)
        yield pattern, [places[name] for name in names]


def _unfold_arrays(section: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by name, in flat order."""
    keyed = {key: (_names(section, key, record), record) for key, record in entries.items()}
    _check_distinct(section, {key: names for key, (names, _) in keyed.items()})
    total = sum(len(names) for names, _ in keyed.values())
    placed: dict[int, tuple[str, Any]] = {}
    for key, (names, record) in keyed.items():
        if _is_folded(record):
            rest = {field: value for field, value in record.items() if field != "at"}
            for place, name in zip(_places(section, key, record["at"], len(names)), names, strict=True):
                if place in placed or place >= total:
                    raise _wrong(section, key, f"its place {place} is taken or beyond the {total} arrays")
                placed[place] = name, rest
    others = iter([(names[0], record) for names, record in keyed.values() if not _is_folded(record)])
    return dict(placed[place] if place in placed else next(others) for place in range(total))


def _check_distinct(section: str, keyed: Mapping[str, Sequence[str]]) -> None:
    seen: set[str] = set()
    for key, names in keyed.items():
        distinct = set(names)
        if len(distinct) < len(names) or not seen.isdisjoint(distinct):
            raise _wrong(section, key, "an array is named twice; expected distinct names")
        seen |= distinct


def _is_folded(record: Any) -> bool:
    return isinstance(record, dict) and "at" in record


def _names(section: str, key: str, record: Any) -> tuple[str, ...]:
    try:
        names = expand_name(key)
    except PlanError as error:
        raise _wrong(section, key, str(error)) from None
    if len(names) > 1 and not _is_folded(record):
        raise _wrong(section, key, f"it names {len(names)} arrays; expected `at`, their places")
    return names


def _places(section: str, key: str, at: Any, count: int) -> list[int]:
    try:
        places = parse_list(str(at))
    except PlanError as error:
        raise _wrong(section, key, f"`at`: {error}") from None
    if places.count != count:
        raise _wrong(section, key, f"`at` lists {places.count} places; expected {count}, one for each array")
    return places.values()


# ---- operations


def _check_operations(plain: Mapping[str, Any]) -> None:
    for section in _OPERATIONS:
        for name, record in _named(plain.get(section)):
            try:
                count = count_names(name)
            except PlanError as error:
                raise _wrong(section, name, str(error)) from None
            if count != record.get("repeats", 1):
                repeats = record.get("repeats", 1)
                raise _wrong(section, name, f"it has `repeats` {repeats}, but its name says {count}")


def _named(operations: Any) -> Iterator[tuple[str, _Entry]]:
    if isinstance(operations, list | tuple):
        for each in operations:
            if isinstance(each, dict) and isinstance(each.get("name"), str):
                yield each["name"], each


def _without_default(operation: _Entry) -> _Entry:
    written = {field: value for field, value in operation.items() if (field, value) != ("repeats", 1)}
    if not written.get("padding", True):
        del written["padding"]
    cost = written.pop("cost", None)
    return (
        written if cost is None else {**written, "cost": {part: each for part, each in cost.items() if each}}
    )


def _escaped(operations: Any) -> Any:
    if not isinstance(operations, list):
        return operations
    return [
        {**each, "name": escape_name(each["name"])}
        if isinstance(each, dict) and isinstance(each.get("name"), str)
        else each
        for each in operations
    ]


def _wrong(section: str, name: str, reason: str) -> PlanError:
    return PlanError(f"`{section}`, entry `{name}`: {reason}")
