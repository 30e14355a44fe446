"""The keyword arguments of `jax.jit` that say which arguments are static and which are donated.

They mean here what they mean to JAX: a number counts positional parameters (from the end where negative),
and a parameter that can be passed by name has the option however it is passed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRACE_OPTIONS = ("donate_argnums", "donate_argnames", "static_argnums", "static_argnames")
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class ArgumentOptions:
    """Which arguments are static and which are donated, as numbers of positional arguments and as names."""

    donate_argnums: tuple[int, ...] = ()
    donate_argnames: tuple[str, ...] = ()
    static_argnums: tuple[int, ...] = ()
    static_argnames: tuple[str, ...] = ()


def argument_options(options: Mapping[str, Any]) -> ArgumentOptions:
    """Take from keyword arguments of `jax.jit` those that concern arguments."""
    return ArgumentOptions(**{key: _as_tuple(options[key]) for key in TRACE_OPTIONS if key in options})


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int | str) else tuple(value or ())


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function, its arguments sorted by what they are.

    Attributes:
        fn: The function.
        args: Positional arguments.
        kwargs: Keyword arguments.
        names: Name of each positional argument; those behind `*args` are called arg0, arg1 ... by position.
        static: Positions of static positional arguments.
        static_names: Names of static keyword arguments.
        donated_names: Names of donated arguments, positional or not.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    static: frozenset[int]
    static_names: frozenset[str]
    donated_names: frozenset[str]

    @property
    def dynamic_args(self) -> tuple[Any, ...]:
        """The positional arguments that hold arrays."""
        return tuple(arg for i, arg in enumerate(self.args) if i not in self.static)

    @property
    def dynamic_kwargs(self) -> dict[str, Any]:
        """The keyword arguments that hold arrays."""
        return {name: value for name, value in self.kwargs.items() if name not in self.static_names}

    @property
    def static_kwargs(self) -> dict[str, Any]:
        """The keyword arguments that are static."""
        return {name: value for name, value in self.kwargs.items() if name in self.static_names}

    @property
    def dynamic_names(self) -> tuple[str, ...]:
        """Names of `dynamic_args`."""
        return tuple(name for i, name in enumerate(self.names) if i not in self.static)

    def run(self, *dynamic: Any, **dynamic_kwargs: Any) -> Any:
        """Call the function with other arrays in the places of the dynamic arguments."""
        rest = iter(dynamic)
        args = [arg if i in self.static else next(rest) for i, arg in enumerate(self.args)]
        return self.fn(*args, **dynamic_kwargs, **self.static_kwargs)


def bind_call(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: ArgumentOptions
) -> Call:
    """Sort the arguments of a call."""
    parameters = _positional_parameters(fn)
    names = tuple(parameters[i] if i < len(parameters) else f"arg{i}" for i in range(len(args)))
    static_names = _names(options.static_argnums, options.static_argnames, parameters, names)
    return Call(
        fn=fn,
        args=tuple(args),
        kwargs=dict(kwargs),
        names=names,
        static=frozenset(i for i, name in enumerate(names) if name in static_names),
        static_names=static_names & kwargs.keys(),
        donated_names=_names(options.donate_argnums, options.donate_argnames, parameters, names),
    )


def _names(
    numbers: Sequence[int], named: Sequence[str], parameters: Sequence[str], names: Sequence[str]
) -> frozenset[str]:
    """The names that an option covers: those given, and those of the numbered parameters."""
    every = [*names, *parameters[len(names) :]]
    counted = (i if i >= 0 else i + len(names) for i in numbers)
    return frozenset(named) | {every[i] for i in counted if 0 <= i < len(every)}


def _positional_parameters(fn: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in _BY_POSITION]
