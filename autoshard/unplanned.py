"""A function that has no plan yet: `jax.jit` as it is, but for static leaves of arguments and results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from autoshard.applying import wrapper_names
from autoshard.jit_options import argument_options, bind_call, positional_parameters
from autoshard.static_leaves import box, unbox


class Unplanned:
    """A function jitted without a plan; behaves as the result of `jax.jit`."""

    def __init__(self, fn: Callable[..., Any], jit_options: Mapping[str, Any]) -> None:
        """Prepare; nothing is traced yet."""
        self._fn = fn
        self._argument_options = argument_options(jit_options)
        self._parameters = positional_parameters(fn)

        def boxed(*args: Any, **kwargs: Any) -> Any:
            result = fn(*map(unbox, args), **{name: unbox(value) for name, value in kwargs.items()})
            return box(result, "result")

        functools.update_wrapper(boxed, fn, assigned=wrapper_names(fn), updated=())
        self._jit = jax.jit(boxed, **jit_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        args, kwargs = self._boxed(args, kwargs)
        return unbox(self._jit(*args, **kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for the given arguments."""
        args, kwargs = self._boxed(args, kwargs)
        return self._jit.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace the function for the given arguments."""
        args, kwargs = self._boxed(args, kwargs)
        return self._jit.trace(*args, **kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the shapes of the results."""
        args, kwargs = self._boxed(args, kwargs)
        return unbox(self._jit.eval_shape(*args, **kwargs))

    def _boxed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        call = bind_call(self._fn, args, kwargs, self._argument_options, self._parameters)
        return call.static.join(call.dynamic)
