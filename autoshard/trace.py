"""From a function and abstract arguments to its equations.

`jax.make_jaxpr` runs the function on abstract arguments (no weights, no devices); `autoshard.walking`
flattens the jaxpr; `autoshard.graph_building` joins the equations with their sharding rules. Whatever goes
wrong while the function runs is told as a `TraceError` at the user's line.
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr
from jax.tree_util import PyTreeDef

import autoshard
from autoshard.callbacks import host_callback
from autoshard.equations import Equation, Equations
from autoshard.errors import AutoshardError, TraceError
from autoshard.jit_options import Call, argument_options, bind_call
from autoshard.paths import paths_of, unique
from autoshard.plan_shardings import remember_structure
from autoshard.search.graph import OpKind
from autoshard.specs import format_type
from autoshard.static_leaves import Boxed, StaticLeaves, arrays_of, unbox
from autoshard.walking import walk

_MACHINERY = tuple(f"{Path(module.__file__ or '').parent}/" for module in (jax, autoshard))
"""Folders whose frames are never the user's code."""
_LIBRARIES = tuple(f"{folder}/" for folder in sysconfig.get_paths().values())
"""Folders whose frames are the user's code only where there is no other."""
_VALUE_DEPENDENT = (
    jax.errors.ConcretizationTypeError,  # the error of `if` on an array, too
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where Python looks at the value of an array."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced function.

    Attributes:
        closed: Its jaxpr.
        equations: The jaxpr, flattened and named.
        argument_names: Path of each flat argument, e.g. "params/layers/wi".
        result_names: Path of each flat result.
        in_tree: Structure of (args, kwargs), with None in the place of a static leaf.
        out_tree: Structure of the results, likewise.
        donated: Positions of donated flat arguments.
        static_results: The leaves of the results that are no arrays.
    """

    closed: ClosedJaxpr
    equations: Equations
    argument_names: tuple[str, ...]
    result_names: tuple[str, ...]
    in_tree: PyTreeDef
    out_tree: PyTreeDef
    donated: tuple[int, ...]
    static_results: StaticLeaves | None = None

    @property
    def in_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Type of each flat argument."""
        return [_abstract(v.aval) for v in self.closed.jaxpr.invars]

    @property
    def out_avals(self) -> list[jax.ShapeDtypeStruct]:
        """Type of each flat result."""
        return [_abstract(v.aval) for v in self.closed.jaxpr.outvars]

    def result(self, arrays: Iterable[Any]) -> Any:
        """Return what the function returns when its flat results are `arrays`, static leaves included."""
        return unbox(self.boxed_result(arrays))

    def boxed_result(self, arrays: Iterable[Any]) -> Any:
        """Return the result as `autoshard.static_leaves.box` leaves it."""
        tree = jax.tree.unflatten(self.out_tree, arrays)
        return tree if self.static_results is None else Boxed(tree, self.static_results)

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


def _abstract(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


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
    call = _bind(fn, args, kwargs or {}, jit_options)
    closed, result = _make_jaxpr(call)
    argument_names = unique(_argument_names(call))
    result_names = unique(paths_of("result", arrays_of(result)))
    equations = walk(closed, argument_names, result_names)
    _refuse_host_callbacks(call, equations)
    out_tree = jax.tree.structure(arrays_of(result))
    remember_structure(jax.tree.structure(call.arrays))
    remember_structure(out_tree)
    donated = [i for i, name in enumerate(argument_names) if name.partition("/")[0] in call.donated_names]
    return Traced(
        closed=closed,
        equations=equations,
        argument_names=tuple(argument_names),
        result_names=tuple(result_names),
        in_tree=jax.tree.structure((call.dynamic_args, call.dynamic_kwargs)),
        out_tree=out_tree,
        donated=tuple(donated),
        static_results=result.static if isinstance(result, Boxed) else None,
    )


def _bind(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], jit_options: Mapping[str, Any]
) -> Call:
    try:
        return bind_call(fn, args, kwargs, argument_options(jit_options))
    except AutoshardError:
        raise
    except Exception as error:
        raise TraceError(
            f"the arguments of {_name(fn)} are no pytrees: {type(error).__name__}: {error}"
        ) from error


def _make_jaxpr(call: Call) -> tuple[ClosedJaxpr, Any]:
    """Run the function on tracers; the result is boxed, with types in the place of its arrays."""
    name = _name(call.fn)
    try:
        made: tuple[ClosedJaxpr, Any] = jax.make_jaxpr(call.run, return_shape=True)(*call.dynamic)
    except AutoshardError:
        raise
    except _VALUE_DEPENDENT as error:
        raise TraceError(
            f"{name} cannot be traced{_place(error)}: {_first_line(error)}\n"
            "A plan needs a function whose control flow does not look at array values: use jax.lax.cond, "
            "scan or where, or mark them static (static_argnames=...)."
        ) from error
    except Exception as error:
        raise TraceError(
            f"{name} cannot be traced on the given inputs{_place(error)}: {type(error).__name__}: {error}\n"
            "`jax.eval_shape` of the function on the same inputs fails alike: correct the function or them."
        ) from error
    return made


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _refuse_host_callbacks(call: Call, equations: Equations) -> None:
    found = host_callback(equations.equations)
    if found is not None:
        raise TraceError(
            f"{_name(call.fn)} cannot be planned: it calls back to Python{_at(found.source)} "
            f"({found.primitive}), which a program compiled ahead of time for a slice cannot do.\n"
            "Compute the value with jax.numpy, or outside of the function and pass it as an argument; "
            "jax.debug.print and jax.debug.callback may stay."
        )


def _place(error: BaseException) -> str:
    """The innermost line of the user's code that an error came through, as " at file.py:12"."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [f for f in frames if f.filename == "<stdin>" or not f.filename.startswith((*_MACHINERY, "<"))]
    own = [f for f in foreign if not f.filename.startswith(_LIBRARIES)] or foreign
    return _at(f"{own[-1].filename}:{own[-1].lineno}" if own else "")


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return f"`{name}`"


def _argument_names(call: Call) -> list[str]:
    """Paths of the flat arguments: positional ones, then keyword ones by name, as JAX orders them."""
    pairs = zip(call.dynamic_names, call.arrays, strict=True)
    return [path for name, tree in pairs for path in paths_of(name, tree)]
