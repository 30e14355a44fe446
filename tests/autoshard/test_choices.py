"""Choices as they are declared and written."""

import functools
from typing import Any

import pytest

import autoshard
from autoshard.choices import (
    checked_choices,
    choice_text,
    combination_count,
    combination_label,
    combinations,
    parse_choice,
    parse_choices,
    with_static_names,
)
from autoshard.errors import OptionError


def step(x: Any, *, remat: str = "none", parts: int = 1) -> Any:
    del remat, parts
    return x


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("remat=none,dots,full", "remat", ("none", "dots", "full")),
        ("parts=1,2,4", "parts", (1, 2, 4)),
        ("fused=True,False", "fused", (True, False)),
        ("axis=None, 0", "axis", (None, 0)),
        ("mode='1',off", "mode", ("1", "off")),
        ("order=(0,1)", "order", ("(0", "1)")),
    ],
)
def test_a_choice_is_read_and_written_back(text: str, name: str, values: tuple[Any, ...]) -> None:
    assert parse_choice(text) == (name, values)
    assert parse_choice(choice_text(name, values)) == (name, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("remat", "`remat` is not a choice: expected NAME=VALUE,VALUE, such as remat=none,dots,full"),
        ("remat=", "is not a choice"),
        ("remat=none,,full", "is not a choice"),
        ("re-mat=none", "is not a choice"),
        ("rate=0.5,1", "choice `rate` has the value 0.5, a float: expected strings, whole numbers"),
        ("parts=1,1", r"choice `parts` has the values \[1, 1\]: expected at least one, each once"),
    ],
)
def test_what_is_no_choice_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_choice(text)


def test_a_choice_is_given_once() -> None:
    assert parse_choices(["a=1,2", "b=x"]) == {"a": (1, 2), "b": ("x",)}
    with pytest.raises(OptionError, match="choice `a` is given twice: give all of its values at once"):
        parse_choices(["a=1", "a=2"])


def test_the_last_choice_changes_fastest() -> None:
    choices = {"remat": ("none", "full"), "parts": (1, 2, 4)}
    assert combination_count(choices) == 6
    assert list(combinations(choices))[:4] == [("none", 1), ("none", 2), ("none", 4), ("full", 1)]
    assert combination_label({"remat": "full", "parts": 4}) == "remat=full parts=4"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rematerialise": ("none",)}, "`step` has no keyword argument `rematerialise`, .* as a choice"),
        ({"remat": ()}, r"choice `remat` has the values \[\]"),
        ({"parts": (1, 2.5)}, "choice `parts` has the value 2.5, a float"),
        ({"parts": (1, (2, 3))}, r"choice `parts` has the value \(2, 3\), a tuple"),
    ],
)
def test_a_declaration_is_checked_where_it_stands(choices: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        autoshard.jit(choices=choices)(step)


def test_a_function_that_takes_any_keyword_takes_a_choice() -> None:
    def any_keyword(x: Any, **options: Any) -> Any:
        return x, options

    assert checked_choices({"remat": ["none"]}, any_keyword) == {"remat": ("none",)}
    assert checked_choices({"remat": ["none"]}, functools.partial(step, parts=2)) == {"remat": ("none",)}


def test_choices_are_static_beside_what_is_static_already() -> None:
    assert with_static_names({}, ()) == {}
    assert with_static_names({"static_argnames": "mode"}, ("remat", "mode")) == {
        "static_argnames": ("mode", "remat")
    }
    assert autoshard.jit(step, choices={"parts": (1, 2)}).jit_options == {"static_argnames": ("parts",)}
