"""`autoshard.jit`: `jax.jit` under a plan.

With a plan, arguments and results get the plan's shardings and the function runs with the plan's
constraints inside. Without a plan file it is plain `jax.jit` and says once how to make one, so that a
model can be decorated before it has been tuned.
"""

from __future__ import annotations

import functools
import logging
import os
import types
from collections.abc import Callable
from typing import Any, overload

import jax

from autoshard.application import Application
from autoshard.applying import wrapper_names
from autoshard.choices import Choices, checked_choices, with_static_names
from autoshard.chosen import chosen_keywords
from autoshard.jit_options import positional_parameters
from autoshard.plan import Plan, load_plan
from autoshard.unplanned import Unplanned

_LOG = logging.getLogger("autoshard")

PlanSource = Plan | str | os.PathLike[str]
"""A plan, or the path of a plan file."""


class PlannedFunction:
    """A function under a plan; behaves as the result of `jax.jit`.

    Attributes:
        function: The undecorated function.
        inputs: Function that returns the abstract arguments, used by `autoshard tune`, or None.
        plan_path: File the plan is read from, or None.
        jit_options: Keyword arguments for `jax.jit`; choices are static.
        choices: Values of the arguments that `autoshard tune` may pick (`autoshard.choices`).
    """

    __name__: str

    def __init__(
        self,
        function: Callable[..., Any],
        plan: PlanSource | None = None,
        inputs: Callable[[], Any] | None = None,
        jit_options: dict[str, Any] | None = None,
        choices: Choices | None = None,
    ) -> None:
        """Wrap `function`; nothing is read or traced yet."""
        functools.update_wrapper(
            self, function, assigned=wrapper_names(function)
        )  # its attributes, then ours
        self.function = function
        self.inputs = inputs
        self.choices = checked_choices(choices, function)
        self.jit_options = with_static_names(jit_options or {}, tuple(self.choices))
        self.plan_path = None if plan is None or isinstance(plan, Plan) else os.fspath(plan)
        self._plan = plan if isinstance(plan, Plan) else None
        self._jitted: Any = None
        self._hinted = False

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as a method, as the result of `jax.jit` does: the instance is the first argument."""
        return self if instance is None else types.MethodType(self, instance)

    @property
    def plan(self) -> Plan | None:
        """The plan in force, or None when its file does not exist yet."""
        if self._plan is None and self.plan_path is not None and os.path.exists(self.plan_path):
            self._plan = load_plan(self.plan_path)
        return self._plan

    def jitted(self) -> Any:
        """Return the stand-in for the `jax.jit` object, under the plan or without one."""
        if self._jitted is None:
            plan = self.plan
            if plan is not None:
                self._jitted = Application(self.function, plan, jit_options=self.jit_options)
            else:
                self._hint()
                self._jitted = Unplanned(self.function, self.jit_options)
        return self._jitted

    def _hint(self) -> None:
        if self._hinted:
            return
        self._hinted = True
        name = getattr(self.function, "__name__", "function")
        output = self.plan_path or "PLAN"
        _LOG.warning(
            "no plan for `%s` yet, running plain jax.jit; make one with: "
            "autoshard tune MODULE_OR_FILE:%s --slice CHIP:TOPOLOGY -o %s",
            name,
            name,
            output,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function under the plan."""
        return self.jitted()(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower for the given arguments, as `jax.jit(...).lower`."""
        lowered: jax.stages.Lowered = self.jitted().lower(*args, **kwargs)
        return lowered

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace for the given arguments, as `jax.jit(...).trace`."""
        traced: jax.stages.Traced = self.jitted().trace(*args, **kwargs)
        return traced

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the shapes of the results, as `jax.jit(...).eval_shape`."""
        chosen = {} if self.plan is None else self.plan.choices
        options = with_static_names(self.jit_options, tuple(chosen))
        if self.plan is not None:
            kwargs = dict(chosen_keywords(self.plan, args, kwargs, positional_parameters(self.function)))
        return Unplanned(self.function, options).eval_shape(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget compiled programs and read the plan again at the next call."""
        self._jitted = None
        if self.plan_path is not None:
            self._plan = None


@overload
def jit(
    fun: Callable[..., Any],
    *,
    plan: PlanSource | None = None,
    inputs: Callable[[], Any] | None = None,
    choices: Choices | None = None,
    **jit_options: Any,
) -> PlannedFunction: ...


@overload
def jit(
    *,
    plan: PlanSource | None = None,
    inputs: Callable[[], Any] | None = None,
    choices: Choices | None = None,
    **jit_options: Any,
) -> Callable[[Callable[..., Any]], PlannedFunction]: ...


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    plan: PlanSource | None = None,
    inputs: Callable[[], Any] | None = None,
    choices: Choices | None = None,
    **jit_options: Any,
) -> PlannedFunction | Callable[[Callable[..., Any]], PlannedFunction]:
    """Compile a function under a sharding plan; without a plan file yet, as plain `jax.jit`.

    Leaves of arguments and results that are no arrays (functions, strings; all but arrays in an
    `equinox.Module`) are static, as for `equinox.filter_jit`.

    Args:
        fun: The function; may be a `functools.partial` or a bound method. Left out when used as a decorator
            with arguments.
        plan: A plan or the path of a plan file.
        inputs: A function that returns the abstract arguments, a tuple of pytrees of `jax.ShapeDtypeStruct`;
            `autoshard tune` uses it.
        choices: Values of keyword arguments that change the program but not its meaning, such as
            ``{"remat": ("none", "full"), "microbatches": (1, 2, 4)}``: `autoshard tune` picks one of each,
            and under the plan the arguments have these values. They are static.
        **jit_options: Keyword arguments of `jax.jit` (`donate_argnames`, `static_argnames`, ...), but not the
            shardings: those are the plan's.

    Returns:
        A function with `.lower()` and `.trace()`, or a decorator when `fun` is left out.

    Raises:
        OptionError: A choice is no keyword argument of the function, or has values that a plan cannot hold.
        PlanMismatchError: At the first call, when the plan was made for another function, other shapes or
            other devices; at a call that gives a choice another value than the plan.

    Example:
        >>> import autoshard
        >>> double = autoshard.jit(lambda x: 2 * x)
        >>> int(double(21))
        42
    """
    shardings = sorted({"in_shardings", "out_shardings"} & jit_options.keys())
    if shardings:
        raise TypeError(
            f"autoshard.jit() takes no {' or '.join(shardings)}: the plan says them; use jax.jit instead"
        )
    if fun is None:
        return lambda function: PlannedFunction(function, plan, inputs, jit_options, choices)
    return PlannedFunction(fun, plan, inputs, jit_options, choices)
