"""Choices of the model: keyword arguments that change a function's program but not its meaning.

A train step may take `remat="dots"` and `microbatches=2`: whatever they are, it computes the same. Such
arguments are static, and `autoshard tune` picks their values together with the shardings. They are declared
where the function is decorated, on the command line, or in both, where the command line overrides::

    @autoshard.jit(choices={"remat": ("none", "dots", "full"), "microbatches": (1, 2, 4)})
    autoshard tune train.py:step --choice remat=none,dots,full --choice microbatches=1,2,4

One value for each of them is a combination. Under a plan the arguments have the plan's values.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from autoshard.errors import OptionError

Value = str | int | bool | None
"""A value of a choice: what a plan file can hold exactly."""
Choices = Mapping[str, Sequence[Value]]
"""The values of each choice by the name of its argument."""

_TYPES = (str, int, bool, type(None))
_FORM = "expected NAME=VALUE,VALUE, such as remat=none,dots,full or microbatches=1,2,4"


def checked_choices(choices: Choices | None, function: Callable[..., Any]) -> dict[str, tuple[Value, ...]]:
    """Return the choices of a function as they are kept.

    Raises:
        OptionError: One has no values, the same twice, or one that a plan cannot hold; or the function has no
            such keyword argument.
    """
    for name, values in (choices or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise OptionError(
                f"choice `{name}` is {values!r}: expected a sequence of values, such as (1, 2, 4)"
            )
    found = {name: tuple(values) for name, values in (choices or {}).items()}
    for name, values in found.items():
        _require_values(name, values)
        if not takes_keyword(function, name):
            called = getattr(function, "__name__", "the function")
            raise OptionError(
                f"`{called}` has no keyword argument `{name}`, which is declared as a choice: expected one "
                "that changes its program but not its meaning; correct the name, or give it the argument"
            )
    return found


def _require_values(name: str, values: Sequence[Value]) -> None:
    wrong = next((value for value in values if type(value) not in _TYPES), None)
    if wrong is not None:
        raise OptionError(
            f"choice `{name}` has the value {wrong!r}, a {type(wrong).__name__}: expected strings, whole "
            "numbers, True, False or None, which a plan file holds exactly"
        )
    unfit = next((value for value in values if isinstance(value, str) and not _survives(value)), None)
    if unfit is not None:
        raise OptionError(
            f"choice `{name}` has the value {unfit!r}: expected one without commas and outer spaces, "
            "which a command line can repeat"
        )
    if not values or len(set(values)) < len(values):
        raise OptionError(f"choice `{name}` has the values {list(values)}: expected at least one, each once")


def _survives(text: str) -> bool:
    """Whether a string can be written in `NAME=VALUE,VALUE`."""
    return bool(text) and text == text.strip() and "," not in text


def takes_keyword(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be given an argument by this name; True where its parameters are not known."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return True
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return name in parameters and parameters[name].kind in by_name


def parse_choice(text: str) -> tuple[str, tuple[Value, ...]]:
    """Read `NAME=VALUE,VALUE`; a value is as Python reads it where that is one for a choice, else a string.

    Raises:
        OptionError: It is not of that form, or a value is a float.
    """
    name, equals, values = text.partition("=")
    if not equals or not name.isidentifier() or not all(part.strip() for part in values.split(",")):
        raise OptionError(f"`{text}` is not a choice: {_FORM}")
    found = tuple(_parse_value(part.strip()) for part in values.split(","))
    _require_values(name, found)
    return name, found


def parse_choices(texts: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """Read several; raises `OptionError` as `parse_choice`, and where one is named twice."""
    found: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        name, values = parse_choice(text)
        if name in found:
            raise OptionError(f"choice `{name}` is given twice: give all of its values at once, {_FORM[9:]}")
        found[name] = values
    return found


def _parse_value(text: str) -> Value:
    try:
        value: Value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what literal_eval may raise
        return text
    return value if type(value) in (*_TYPES, float) else text


def choice_text(name: str, values: Sequence[Value]) -> str:
    """Write a choice as `parse_choice` reads it."""
    return f"{name}={','.join(_value_text(value) for value in values)}"


def _value_text(value: Value) -> str:
    text = str(value)
    return repr(value) if isinstance(value, str) and _parse_value(text) != value else text


def combination_label(values: Mapping[str, Value]) -> str:
    """A readable name of a combination, such as "remat=dots microbatches=2"."""
    return " ".join(choice_text(name, (value,)) for name, value in values.items())


def combination_count(choices: Choices) -> int:
    """How many combinations there are."""
    return math.prod(len(values) for values in choices.values())


def combinations(choices: Choices) -> Iterator[tuple[Value, ...]]:
    """Every combination, the last choice changing fastest."""
    return itertools.product(*choices.values())


def with_static_names(jit_options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return keyword arguments of `jax.jit` under which the named arguments are static, too."""
    if not names:
        return dict(jit_options)
    given = jit_options.get("static_argnames") or ()
    held = (given,) if isinstance(given, str) else tuple(given)
    return {**jit_options, "static_argnames": (*held, *(name for name in names if name not in held))}
