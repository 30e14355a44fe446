"""`autoshard.jit`: `jax.jit` under a plan.

With a plan, arguments and results get the plan's shardings and the function runs with the plan's constraints inside.
Without a plan file it is plain `jax.jit` and says once how to make one, so that a model can be decorated
before it has been tuned.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from autoshard.applying import Application
from autoshard.plan import Plan, load_plan

_LOG = logging.getLogger("autoshard")


class PlannedFunction:
    """A function under a plan; behaves as the result of `jax.jit`.

    Attributes:
        function: The undecorated function.
        inputs: Function that returns the abstract arguments, used by `autoshard tune`, or None.
        plan_path: File the plan is read from, or None.
        jit_options: Keyword arguments for `jax.jit`.
    """

    def __init__(
        self, function: Callable[..., Any], plan: Plan | str | os.PathLike[str] | None, inputs: Callable[[], Any] | None, jit_options: dict[str, Any]
    ) -> None:
        """Wrap `function`; nothing is read or traced yet."""
        self.function = function
        self.inputs = inputs
        self.jit_options = jit_options
        self.plan_path = None if plan is None or isinstance(plan, Plan) else os.fspath(plan)
        self._given = plan if isinstance(plan, Plan) else None
        self._jitted: Any = None
        functools.update_wrapper(self, function, assigned=[name for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)])

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as a method."""
        return self if instance is None else functools.partial(self, instance)

    def plan(self) -> Plan | None:
        """Return the plan in force, or None when its file does not exist yet."""
        if self._given is not None:
            return self._given
        if self.plan_path is None or not os.path.exists(self.plan_path):
            return None
        self._given = load_plan(self.plan_path)
        return self._given

    def jitted(self) -> Any:
        """Return the underlying `jax.jit` object or its stand-in under the plan."""
        if self._jitted is None:
            plan = self.plan()
            if plan is None:
                _LOG.warning("%s", self._hint())
                self._jitted = jax.jit(self.function, **self.jit_options)
            else:
                self._jitted = Application(self.function, plan, jit_options=self.jit_options)
        return self._jitted

    def _hint(self) -> str:
        name = getattr(self.function, "__name__", "function")
        output = f" -o {self.plan_path}" if self.plan_path else ""
        return f"no plan for `{name}` yet, running plain jax.jit; make one with: autoshard tune MODULE_OR_FILE:{name} --slice CHIP:TOPOLOGY{output}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function under the plan."""
        return self.jitted()(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower for the given arguments, as `jax.jit(...).lower`."""
        return self.jitted().lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace for the given arguments, as `jax.jit(...).trace`."""
        return self.jitted().trace(*args, **kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the shapes of the results, as `jax.jit(...).eval_shape`."""
        return jax.eval_shape(self.function, *args, **kwargs)

    def clear_cache(self) -> None:
        """Forget compiled programs and read the plan again at the next call."""
        self._jitted = None
        if self.plan_path is not None:
            self._given = None


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    inputs: Callable[[], Sequence[Any]] | None = None,
    **jit_options: Any,
) -> Any:
    """Compile a function under a sharding plan; without a plan file yet, as plain `jax.jit`.

    Args:
        fun: The function; may be a `functools.partial` or a bound method. Left out when used as a decorator with arguments.
        plan: A plan or the path of a plan file.
        inputs: A function that returns the abstract arguments (pytrees of `jax.ShapeDtypeStruct`); `autoshard tune` uses it.
        **jit_options: Keyword arguments of `jax.jit` (`donate_argnames`, `static_argnames`, ...).

    Returns:
        A function with `.lower()` and `.trace()`, or a decorator when `fun` is left out.

    Raises:
        PlanMismatchError: At the first call, when the plan was made for another function, other shapes or other devices.

    Example:
        >>> import autoshard
        >>> double = autoshard.jit(lambda x: 2 * x)
        >>> int(double(21))
        42
    """
    if fun is None:
        return lambda function: PlannedFunction(function, plan, inputs, jit_options)
    return PlannedFunction(fun, plan, inputs, jit_options)
