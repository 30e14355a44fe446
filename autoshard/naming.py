"""Names of equations: what a plan file is keyed by, so they must survive small edits.

An einsum is named after the argument it reads (`layers/wi`) or after its scope and letters
(`attention/bhd,btd->bht`), never after its position alone; a repeat is counted from `#2` on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from jax.extend import source_info_util
from jax.extend.core import JaxprEqn

from autoshard.equations import Equation, TracedValue
from autoshard.primitives import shape_of
from autoshard.scopes import Scope
from autoshard.search.graph import OpKind


def source_of(eqn: JaxprEqn) -> str:
    """Return "file.py:12", the user's line that made an equation, or ""."""
    return _line(eqn.source_info.traceback)


@functools.lru_cache(maxsize=2**14)
def _line(traceback: Any) -> str:
    """The line of a traceback; the equations of one line have equal ones."""
    text = source_info_util.summarize(source_info_util.SourceInfo(traceback, source_info_util.NameStack()))
    match = re.match(r"(.*?):(\d+)", text)
    return f"{match[1].rsplit('/', 1)[-1]}:{match[2]}" if match else ""


def einsum_letters(eqn: JaxprEqn, scope: Scope) -> str:
    """Return the letters of a dot_general, those that the user wrote in `jnp.einsum` where they fit."""
    left, right = (len(shape_of(v.aval)) for v in eqn.invars[:2])
    return _letters((left, right), eqn.params["dimension_numbers"], scope.einsum, scope.backward)


@functools.lru_cache(maxsize=2**12)
def _letters(ranks: tuple[int, int], dimension_numbers: Any, einsum: str, backward: bool) -> str:
    contract, batch = dimension_numbers
    pairs = (*zip(*contract, strict=True), *zip(*batch, strict=True))
    dims = _Dims(ranks, pairs, contract, batch)
    left, right = _written_letters(einsum, backward, dims) or _default_letters(dims)
    return f"{left},{right}->{dims.output(left, right)}"


@dataclass(frozen=True, slots=True)
class _Dims:
    """The dims of a dot_general: `pairs` are those of the two operands that share a letter."""

    ranks: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    contract: tuple[Sequence[int], Sequence[int]]
    batch: tuple[Sequence[int], Sequence[int]]

    def output(self, left: str, right: str) -> str:
        gone = [{*contracted, *batch} for contracted, batch in zip(self.contract, self.batch, strict=True)]
        shared = "".join(left[i] for i in self.batch[0])
        rest = (
            c
            for text, dims in zip((left, right), gone, strict=True)
            for i, c in enumerate(text)
            if i not in dims
        )
        return shared + "".join(rest)

    def fit(self, left: str, right: str) -> bool:
        shared = set(left) & set(right)
        return (
            (len(left), len(right)) == self.ranks
            and all(left[i] == right[j] for i, j in self.pairs)
            and (len(set(left)), len(set(right)), len(shared)) == (*self.ranks, len(self.pairs))
        )


def _written_letters(einsum: str, backward: bool, dims: _Dims) -> tuple[str, str] | None:
    """The user's letters.

    `jnp.einsum` may have exchanged the operands, and a gradient contracts the result with one of them: of the
    choices that fit, one that gives the third tensor as it was written is best.
    """
    inputs, arrow, output = einsum.partition("->")
    operands = inputs.split(",")
    if len(operands) != 2 or "." in einsum:
        return None
    if not arrow:
        output = "".join(c for c in sorted(set(inputs) - {","}) if inputs.count(c) == 1)
    fitting = []
    for left, right, third in permutations([*operands, output]):
        if (backward or third == output) and dims.fit(left, right):
            fitting.append((dims.output(left, right) != third, left, right))
    if not fitting:
        return None
    _, left, right = min(fitting, key=lambda choice: choice[0])
    return left, right


def _default_letters(dims: _Dims) -> tuple[str, str]:
    alphabet = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = [next(alphabet) for _ in range(dims.ranks[0])]
    right = [""] * dims.ranks[1]
    for i, j in dims.pairs:
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
        result.append(_renamed(equation, name))
    return result


def _renamed(equation: Equation, name: str) -> Equation:
    """The equation with another name: `dataclasses.replace`, which takes twice as long."""
    e = equation
    return Equation(
        *(e.index, e.eqn, e.primitive, e.kind, e.operands, e.results, e.flops, e.trips, e.loop),
        *(e.source, e.scope, e.equation, e.path, name),
    )


def _base_name(equation: Equation, values: Sequence[TracedValue]) -> str:
    label = equation.equation or equation.primitive
    if equation.kind is OpKind.EINSUM:
        stored = {values[v].name for v in equation.operands if values[v].name and values[v].stored_bytes}
        weights = {name for name in stored if "/" in name} or stored  # rather than an argument of its own
        if len(weights) == 1:
            return _weight_name(weights.pop(), equation.scope)
    return f"{equation.scope}/{label}" if equation.scope else label


def _weight_name(path: str, scope: str) -> str:
    """The argument's path without the parameter's own name."""
    return (path.partition("/")[2] or path) + (".grad" if scope.endswith(".grad") else "")
