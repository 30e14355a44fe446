"""The keyword arguments of `jax.jit` that say which arguments are static and which are donated.

They mean here what they mean to JAX: a number counts positional parameters (from the end where negative),
and a parameter that can be passed by name has the option however it is passed. An argument that is not
static may still have leaves that are no arrays: `autoshard.static_leaves`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.static_leaves import arrays_of, box, box_and_form, unbox

TRACE_OPTIONS = ("donate_argnums", "donate_argnames", "static_argnums", "static_argnames")
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
class StaticPart:
    """What of a call is no array: equal parts make one program.

    Attributes:
        n_args: Number of positional arguments.
        args: (position, type, value) of each static positional argument; the type tells True from 1.
        kwargs: (name, type, value) of each static keyword argument.
        names: Names of the keyword arguments that hold arrays, in their order.
    """

    n_args: int
    args: tuple[tuple[int, type, Any], ...]
    kwargs: tuple[tuple[str, type, Any], ...]
    names: tuple[str, ...]

    def join(self, dynamic: Iterable[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return all arguments, positional and keyword ones, given those that hold arrays."""
        static, rest = {position: value for position, _, value in self.args}, iter(dynamic)
        args = [static[i] if i in static else next(rest) for i in range(self.n_args)]
        kwargs = {name: next(rest) for name in self.names}
        return args, kwargs | {name: value for name, _, value in self.kwargs}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function, its arguments sorted by what they are.

    Attributes:
        fn: The function.
        static: What is no array.
        dynamic: The arguments that hold arrays, positional ones and then keyword ones by name; one with
            leaves that are no arrays is boxed (`autoshard.static_leaves`).
        dynamic_names: Their names; those behind `*args` are called arg0, arg1 ... by position.
        donated_names: Names of donated arguments.
        form: All of the call but its arrays: calls of one form differ in the types of their arrays at most.
    """

    fn: Callable[..., Any]
    static: StaticPart
    dynamic: tuple[Any, ...]
    dynamic_names: tuple[str, ...]
    donated_names: frozenset[str]
    form: Hashable

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arguments that hold arrays, with None where a leaf is none."""
        return tuple(map(arrays_of, self.dynamic))

    @property
    def dynamic_args(self) -> tuple[Any, ...]:
        """The positional ones of `arrays`."""
        return self.arrays[: len(self.dynamic) - len(self.static.names)]

    @property
    def dynamic_kwargs(self) -> dict[str, Any]:
        """The keyword ones of `arrays`."""
        first = len(self.dynamic) - len(self.static.names)
        return dict(zip(self.static.names, self.arrays[first:], strict=True))

    @property
    def donated(self) -> tuple[int, ...]:
        """Positions of the donated arguments among `dynamic`."""
        return tuple(i for i, name in enumerate(self.dynamic_names) if name in self.donated_names)

    def run(self, *dynamic: Any) -> Any:
        """Call the function with other arrays in `dynamic`; the result is boxed where that is needed."""
        args, kwargs = self.static.join(map(unbox, dynamic))
        return box(self.fn(*args, **kwargs), "result")


def bind_call(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: ArgumentOptions,
    parameters: Sequence[str] | None = None,
) -> Call:
    """Sort the arguments of a call.

    Args:
        fn: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: Which of them are static or donated.
        parameters: `positional_parameters(fn)`, where they are known.

    Raises:
        TraceError: An argument that is not static has a leaf that can be neither an array nor static.
    """
    parameters = positional_parameters(fn) if parameters is None else parameters
    names = tuple(parameters[i] if i < len(parameters) else f"arg{i}" for i in range(len(args)))
    static = _names(options.static_argnums, options.static_argnames, parameters, names)
    keywords = sorted(kwargs.items())
    named = [pair for pair in (*zip(names, args, strict=True), *keywords) if pair[0] not in static]
    boxed = [box_and_form(value, name) for name, value in named]
    part = StaticPart(
        n_args=len(args),
        args=tuple((i, type(args[i]), args[i]) for i, name in enumerate(names) if name in static),
        kwargs=tuple((name, type(value), value) for name, value in keywords if name in static),
        names=tuple(name for name, _ in keywords if name not in static),
    )
    return Call(
        fn=fn,
        static=part,
        dynamic=tuple(value for value, _ in boxed),
        dynamic_names=tuple(name for name, _ in named),
        donated_names=_names(options.donate_argnums, options.donate_argnames, parameters, names),
        form=(part, *(form for _, form in boxed)),
    )


def _names(
    numbers: Sequence[int], named: Sequence[str], parameters: Sequence[str], names: Sequence[str]
) -> frozenset[str]:
    """The names that an option covers: those given, and those of the numbered parameters."""
    every = [*names, *parameters[len(names) :]]
    counted = (i if i >= 0 else i + len(names) for i in numbers)
    return frozenset(named) | {every[i] for i in counted if 0 <= i < len(every)}


def positional_parameters(fn: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that can be passed by position; none where they are not known."""
    return _parameters(fn, _BY_POSITION)


def keyword_parameters(fn: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that can be passed by keyword; none where they are not known."""
    return _parameters(fn, _BY_KEYWORD)


def _parameters(fn: Callable[..., Any], kinds: Collection[Any]) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in kinds]
