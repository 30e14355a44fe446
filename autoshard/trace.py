"""From a function and abstract arguments to its equations.

`jax.make_jaxpr` runs the function on abstract arguments (no weights, no devices); `autoshard.walking`
flattens the jaxpr; `autoshard.graph_building` joins the equations with their sharding rules.
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr
from jax.tree_util import PyTreeDef, keystr, tree_flatten_with_path

import autoshard
from autoshard.equations import Equation, Equations
from autoshard.errors import TraceError
from autoshard.jit_options import Call, argument_options, bind_call
from autoshard.search.graph import OpKind
from autoshard.specs import format_type
from autoshard.walking import walk

_MACHINERY = tuple(f"{Path(module.__file__ or '').parent}/" for module in (jax, autoshard))
"""Folders whose frames are never the user's code."""
_LIBRARIES = tuple(f"{folder}/" for folder in sysconfig.get_paths().values())
"""Folders whose frames are the user's code only where there is no other."""
_WRONG_PROGRAM = (TypeError, ValueError, KeyError, AttributeError, IndexError, NameError, AssertionError)


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced function.

    Attributes:
        closed: Its jaxpr.
        equations: The jaxpr, flattened and named.
        argument_names: Path of each flat argument, e.g. "params/layers/wi".
        result_names: Path of each flat result.
        in_tree: Structure of (args, kwargs).
        out_tree: Structure of the results.
        donated: Positions of donated flat arguments.
    """

    closed: ClosedJaxpr
    equations: Equations
    argument_names: tuple[str, ...]
    result_names: tuple[str, ...]
    in_tree: PyTreeDef
    out_tree: PyTreeDef
    donated: tuple[int, ...]

    @property
    def in_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each flat argument."""
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.closed.jaxpr.invars]

    @property
    def out_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each flat result."""
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.closed.jaxpr.outvars]

    @property
    def argument_types(self) -> dict[str, str]:
        """Type of each flat argument by path, e.g. "bfloat16[32,4096]"."""
        return _types(self.argument_names, self.in_avals)

    @property
    def result_types(self) -> dict[str, str]:
        """Type of each flat result by path."""
        return _types(self.result_names, self.out_avals)

    @property
    def donated_names(self) -> frozenset[str]:
        """Paths of the donated flat arguments."""
        return frozenset(self.argument_names[position] for position in self.donated)

    def fingerprint(self) -> str:
        """Return a hash of what a plan depends on: argument and result types and the named einsums.

        It is the same whether an argument is passed by position or by keyword.
        """
        lines = [f"{name} {type_text}" for name, type_text in sorted(self.argument_types.items())]
        lines += [f"-> {name} {type_text}" for name, type_text in self.result_types.items()]
        lines += [self._einsum_line(e) for e in self.equations.equations if e.kind is OpKind.EINSUM]
        return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def _einsum_line(self, equation: Equation) -> str:
        tensors = [self.equations.values[v] for v in (*equation.operands, *equation.results)]
        types = [f"{value.dtype}{list(value.shape)}" for value in tensors]
        return f"{equation.name} {equation.equation} {equation.trips} {types}"


def _types(names: Sequence[str], avals: Sequence[jax.ShapeDtypeStruct]) -> dict[str, str]:
    return {name: format_type(aval.dtype, aval.shape) for name, aval in zip(names, avals, strict=True)}


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    **jit_options: Any,
) -> Traced:
    """Trace `fn` on abstract (or concrete) arguments.

    Args:
        fn: The function.
        args: Its positional arguments: pytrees of arrays or `jax.ShapeDtypeStruct`; static ones as they are.
        kwargs: Its keyword arguments.
        **jit_options: Keyword arguments of `jax.jit`; those that say what is static or donated count.

    Raises:
        TraceError: The function cannot be traced; the message has the cause and the user's line.
    """
    call = bind_call(fn, args, kwargs or {}, argument_options(jit_options))
    closed, out_shape = _make_jaxpr(call)
    argument_names = _argument_names(call)
    result_names = _paths("result", out_shape)
    donated = [i for i, name in enumerate(argument_names) if name.partition("/")[0] in call.donated_names]
    return Traced(
        closed=closed,
        equations=walk(closed, argument_names, result_names),
        argument_names=tuple(argument_names),
        result_names=tuple(result_names),
        in_tree=jax.tree.structure((call.dynamic_args, call.dynamic_kwargs)),
        out_tree=jax.tree.structure(out_shape),
        donated=tuple(donated),
    )


def _make_jaxpr(call: Call) -> tuple[ClosedJaxpr, Any]:
    name = _name(call.fn)
    try:
        closed, out_shape = jax.make_jaxpr(call.run, return_shape=True)(
            *call.dynamic_args, **call.dynamic_kwargs
        )
    except jax.errors.JAXTypeError as error:
        raise TraceError(
            f"{name} cannot be traced{_place(error)}: {str(error).splitlines()[0]}\n"
            "A plan needs a function whose control flow does not look at array values: use jax.lax.cond, "
            "scan or where, or mark them static (static_argnames=...)."
        ) from error
    except _WRONG_PROGRAM as error:
        raise TraceError(
            f"{name} cannot be traced on the given inputs{_place(error)}: {type(error).__name__}: {error}"
        ) from error
    return closed, out_shape


def _place(error: BaseException) -> str:
    """The innermost line of the user's code that an error came through, as " at file.py:12"."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [f for f in frames if not f.filename.startswith((*_MACHINERY, "<"))]
    own = [f for f in foreign if not f.filename.startswith(_LIBRARIES)] or foreign
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return f"`{getattr(fn, '__qualname__', repr(fn))}`"


def _argument_names(call: Call) -> list[str]:
    """Paths of the flat arguments: positional ones, then keyword ones by name, as JAX orders them."""
    pairs = [*zip(call.dynamic_names, call.dynamic_args, strict=True), *sorted(call.dynamic_kwargs.items())]
    return [path for name, value in pairs for path in _paths(name, value)]


def _paths(root: str, tree: Any) -> list[str]:
    leaves, _ = tree_flatten_with_path(tree)
    paths = (keystr(path, simple=True, separator="/") for path, _ in leaves)
    return [f"{root}/{path}" if path else root for path in paths]
