"""Names of equations: what a plan file is keyed by, so they must survive small edits.

An einsum is named after the argument it reads (`layers/wi`) or after its scope and letters
(`attention/bhd,btd->bht`), never after its position alone; a repeat is counted from `#2` on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from jax.extend import source_info_util
from jax.extend.core import JaxprEqn

from autoshard.equations import Equation, TracedValue
from autoshard.primitives import shape_of
from autoshard.search.graph import OpKind

_WRAPPER = re.compile(
    r"\b(?:jit|jvp|vmap|remat|checkpoint|rematted_computation|closed_call|while|body|cond)\b"
)


def source_of(eqn: JaxprEqn) -> str:
    """Return "file.py:12", the user's line that made an equation, or ""."""
    match = re.match(r"(.*?):(\d+)", source_info_util.summarize(eqn.source_info))
    return f"{match[1].rsplit('/', 1)[-1]}:{match[2]}" if match else ""


def scope_of(eqn: JaxprEqn) -> tuple[str, str]:
    """Return the user's scope as a path, and the letters of `jnp.einsum`, if any.

    What runs backward has ".grad" after its scope.
    """
    text = str(eqn.source_info.name_stack)
    parts = [_WRAPPER.sub("", part.replace("transpose", "")).strip("()") for part in text.split("/")]
    letters = next((part for part in parts if "->" in part), "")
    scope = "/".join(part for part in parts if part and "->" not in part)
    return (f"{scope}.grad" if "transpose(" in text else scope), letters


def einsum_letters(eqn: JaxprEqn, written: str) -> str:
    """Return the letters of a dot_general, those that the user wrote in `jnp.einsum` where they fit.

    Args:
        eqn: The dot_general.
        written: What `jnp.einsum` was called with, or "".
    """
    contract, batch = eqn.params["dimension_numbers"]
    pairs = [*zip(*contract, strict=True), *zip(*batch, strict=True)]
    ranks = [len(shape_of(v.aval)) for v in eqn.invars[:2]]
    left, right = _written_letters(written, ranks, pairs) or _default_letters(ranks, pairs)
    gone_left, gone_right = {*contract[0], *batch[0]}, {*contract[1], *batch[1]}
    shared = "".join(left[i] for i in batch[0])
    rows = "".join(letter for i, letter in enumerate(left) if i not in gone_left)
    columns = "".join(letter for i, letter in enumerate(right) if i not in gone_right)
    return f"{left},{right}->{shared}{rows}{columns}"


_Pairs = Sequence[tuple[int, int]]
"""Dims of the two operands that share a letter."""


def _written_letters(written: str, ranks: Sequence[int], pairs: _Pairs) -> tuple[str, str] | None:
    """The user's letters; `jnp.einsum` may have exchanged the operands."""
    inputs = written.partition("->")[0].split(",")
    if len(inputs) != 2:
        return None
    for left, right in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
        if [len(left), len(right)] == list(ranks) and _fits(left, right, pairs):
            return left, right
    return None


def _fits(left: str, right: str, pairs: _Pairs) -> bool:
    return all(left[i] == right[j] for i, j in pairs) and len(set(left) & set(right)) == len(pairs)


def _default_letters(ranks: Sequence[int], pairs: _Pairs) -> tuple[str, str]:
    alphabet = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = [next(alphabet) for _ in range(ranks[0])]
    right = [""] * ranks[1]
    for i, j in pairs:
        right[j] = left[i]
    return "".join(left), "".join(letter or next(alphabet) for letter in right)


def named(equations: Sequence[Equation], values: Sequence[TracedValue]) -> list[Equation]:
    """Give every equation a unique name."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    result = []
    for equation in equations:
        base = name = equation.name or _base_name(equation, values)
        while name in taken:
            counts[base] = counts.get(base, 1) + 1
            name = f"{base}#{counts[base]}"
        taken.add(name)
        result.append(replace(equation, name=name))
    return result


def _base_name(equation: Equation, values: Sequence[TracedValue]) -> str:
    label = equation.equation or equation.primitive
    if equation.kind is OpKind.EINSUM:
        weights = {values[v].name for v in equation.operands if values[v].name and values[v].stored_bytes}
        if len(weights) == 1:
            return _weight_name(weights.pop(), equation.scope)
    return f"{equation.scope}/{label}" if equation.scope else label


def _weight_name(path: str, scope: str) -> str:
    """The argument's path without the parameter's own name."""
    return (path.partition("/")[2] or path) + (".grad" if scope.endswith(".grad") else "")
