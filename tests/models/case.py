"""A case of the zoo: one phase of a published model by an author who knows nothing of us.

A case is shapes only: no weights, no downloads. `full` is the published configuration, `reduced` the same
code with two layers (one period, where layers alternate) and small dims, which runs on CPU devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Program:
    """A function and what it is called with.

    Attributes:
        fn: The function, as its library's users would jit it.
        args: Positional arguments: pytrees of `jax.ShapeDtypeStruct`, static ones as they are.
        kwargs: Keyword arguments.
        options: Keyword arguments of `jax.jit`: donate_argnames, static_argnames...
        values: Given a seed, concrete positional and keyword arguments, where made-up numbers would not do
            (page tables, positions, segment ids); None where any float and any integer below `integer_bound`
            will.
        integer_bound: Integer arguments made up for a run are below this.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    values: Callable[[int], tuple[tuple[Any, ...], Mapping[str, Any]]] | None = None
    integer_bound: int = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One phase of one model of one library.

    Attributes:
        name: "library.model.phase", such as "hf.llama3_70b.decode".
        phase: forward, prefill, decode or train.
        source: Where the configuration was published.
        full: Builds the program at its published size.
        reduced: Builds the same code, small.
    """

    name: str
    phase: str
    source: str
    full: Callable[[], Program]
    reduced: Callable[[], Program]
