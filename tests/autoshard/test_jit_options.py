"""Calls sorted into arrays and the rest: what is equal makes one program."""

import functools
from typing import Any

import jax
import pytest

from autoshard.jit_options import (
    Call,
    argument_options,
    bind_call,
    keyword_parameters,
    positional_parameters,
)
from autoshard.static_leaves import unbox

A, B = [1.0], [2.0]


def step(params: Any, mode: str, /, x: Any, *rest: Any, power: int = 1, mask: Any = None) -> Any:
    return params, mode, x, rest, power, mask


def call(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Call:
    return bind_call(step, args, kwargs, argument_options(options or {}))


STATIC = {"static_argnums": 1, "static_argnames": ("power",)}


def test_arguments_are_sorted_by_what_they_are() -> None:
    found = call(A, "m", B, A, power=2, mask=B, options=STATIC)
    assert found.dynamic_names == ("params", "x", "arg3", "mask")
    assert found.dynamic == (A, B, A, B)
    assert found.dynamic_args == (A, B, A)
    assert found.dynamic_kwargs == {"mask": B}
    assert found.static.join("abcd") == (["a", "m", "b", "c"], {"mask": "d", "power": 2})


def test_it_runs_with_other_arrays_in_the_same_places() -> None:
    found = call(A, "m", x=B, power=2, options=STATIC)
    assert unbox(found.run([3.0], [4.0])) == ([3.0], "m", [4.0], (), 2, None)


def test_static_leaves_are_put_back_and_taken_out_again() -> None:
    found = call({"w": 1.0, "act": abs}, "m", B, options=STATIC)
    assert found.arrays == ({"w": 1.0, "act": None}, B)
    result = found.run(*jax.tree.map(lambda x: x + 1, found.dynamic))
    assert jax.tree.leaves(result) == [2.0, 3.0, 1]
    assert unbox(result) == ({"w": 2.0, "act": abs}, "m", [3.0], (), 1, None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (call(A, "m", B, options=STATIC), call(A, "n", B, options=STATIC)),
        (call(A, "m", B, power=1, options=STATIC), call(A, "m", B, power=True, options=STATIC)),
        (call(A, "m", B, options=STATIC), call(A, "m", x=B, options=STATIC)),
        (call(A, "m", B, options=STATIC), call((1.0,), "m", B, options=STATIC)),
        (call({"act": abs}, "m", B, options=STATIC), call({"act": len}, "m", B, options=STATIC)),
    ],
    ids=["value", "type", "keyword", "structure", "leaf"],
)
def test_another_program_has_another_form(first: Call, second: Call) -> None:
    assert first.form != second.form


def test_other_arrays_have_the_same_form() -> None:
    first = call({"w": 1.0, "act": abs}, "m", B, power=2, options=STATIC)
    second = call({"w": 5.0, "act": abs}, "m", A, power=2, options=STATIC)
    assert (first.form, hash(first.form)) == (second.form, hash(second.form))


def test_donated_arguments_are_counted_among_those_that_hold_arrays() -> None:
    found = call(A, "m", B, mask=A, options={**STATIC, "donate_argnames": ("x", "mask", "mode")})
    assert found.donated == (1, 2)


def test_parameters_that_can_be_passed_by_position() -> None:
    assert positional_parameters(step) == ["params", "mode", "x"]
    assert positional_parameters(len) == ["obj"]
    assert positional_parameters(dict) == []  # JAX cannot know them either


def test_parameters_that_can_be_passed_by_keyword() -> None:
    assert keyword_parameters(step) == ["x", "power", "mask"]
    assert keyword_parameters(functools.partial(step, A)) == ["x", "power", "mask"]
    assert keyword_parameters(dict) == []
