"""A function jitted under a plan: the plan's shardings of arguments and results outside, its constraints
inside.

`jax.jit` takes no keyword arguments beside `in_shardings`, so keyword arguments are passed on as
positional ones, in the order of their names. Arguments with leaves that are no arrays pass boxed
(`autoshard.static_leaves`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from autoshard.applying import AnyMesh, run_planned
from autoshard.choices import with_static_names
from autoshard.chosen import chosen_keywords
from autoshard.errors import AutoshardError, PlanMismatchError, TraceError
from autoshard.jit_options import (
    TRACE_OPTIONS,
    Call,
    StaticPart,
    argument_options,
    bind_call,
    positional_parameters,
)
from autoshard.matching import require_match
from autoshard.memory_orders import holds_on, placed
from autoshard.plan import Plan
from autoshard.plan_records import ArgumentRecord, ResultRecord
from autoshard.plan_shardings import sharding_of
from autoshard.static_leaves import unbox
from autoshard.trace import Traced, trace

_OTHER_ORDER = "Layout passed to jit does not match the layout on the respective arg"


class Application:
    """A function jitted under a plan; behaves as the result of `jax.jit`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        plan: Plan,
        *,
        mesh: AnyMesh | None = None,
        jit_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare; the mesh is built here so that a wrong device count is told at once."""
        self._fn = fn
        self._plan = plan
        self._options = with_static_names(jit_options or {}, tuple(plan.choices))
        self._argument_options = argument_options(self._options)
        self._parameters = positional_parameters(fn)
        self._mesh = plan.mesh() if mesh is None else mesh
        self._made: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run under the plan."""
        return unbox(self._explained(lambda jit, given: jit(*given), args, kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower under the plan.

        What is compiled takes keyword arguments behind the positional ones, and an argument with static
        leaves boxed (`autoshard.static_leaves.box`).
        """
        lowered: jax.stages.Lowered = self._explained(lambda jit, given: jit.lower(*given), args, kwargs)
        return lowered

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace under the plan."""
        traced: jax.stages.Traced = self._explained(lambda jit, given: jit.trace(*given), args, kwargs)
        return traced

    def _explained(
        self, use: Callable[[Any, Sequence[Any]], Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Use the jitted function; where JAX refuses the arguments, say what the plan has against them."""
        kwargs = chosen_keywords(self._plan, args, kwargs, self._parameters)
        try:
            return use(*self.jitted(args, kwargs))
        except AutoshardError:
            raise
        except ValueError as error:
            require_match(self._plan, trace(self._fn, args, kwargs, **self._options))
            if _OTHER_ORDER in str(error):
                raise PlanMismatchError(
                    f"An argument of `{self._plan.function.name}` lies in memory in another order than "
                    "the plan has: place it with `jax.device_put(argument, plan.in_formats(mesh)[i])`."
                ) from error
            raise

    def jitted(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Sequence[Any]]:
        """Return a `jax.jit` object with the plan's shardings, and the arguments to call it with."""
        call = bind_call(self._fn, args, kwargs, self._argument_options, self._parameters)
        if not _is_known(call.form, self._made):
            self._made[call.form] = self._make(call, trace(self._fn, args, kwargs, **self._options))
        return self._made[call.form], call.dynamic

    def _make(self, call: Call, traced: Traced) -> Any:
        require_match(self._plan, traced)
        arguments = [self._plan.arguments[name] for name in traced.argument_names]
        at_hand = [traced]
        jitted = jax.jit(
            self._planned(call.static, at_hand),
            in_shardings=jax.tree.unflatten(jax.tree.structure(call.dynamic), self._placed(arguments)),
            out_shardings=traced.boxed_result(self._placed(self._plan.results.values())),
            donate_argnums=call.donated,
            **self._other_options(),
        )
        jitted.trace(*call.dynamic)
        at_hand.clear()
        return jitted

    def _planned(self, static: StaticPart, at_hand: Sequence[Traced]) -> Callable[..., Any]:
        """The function of the arguments that are not static, with constraints inside.

        JAX runs it on the types that the function `at_hand` was traced on, and on others only where the plan
        may turn out not to fit them.
        """

        def planned(*given: Any) -> Any:
            if at_hand:
                traced = at_hand[0]
            else:
                args, kwargs = static.join(map(unbox, given))
                traced = trace(self._fn, args, kwargs, **self._options)
                require_match(self._plan, traced)
            return traced.boxed_result(run_planned(self._plan, traced, jax.tree.leaves(given), self._mesh))

        planned.__name__ = planned.__qualname__ = getattr(self._fn, "__name__", "planned")
        return planned

    def _other_options(self) -> dict[str, Any]:
        """The user's other options of `jax.jit`; on TPUs with the compiler options of the plan below them."""
        options = {name: value for name, value in self._options.items() if name not in TRACE_OPTIONS}
        if self._plan.compiler_options and holds_on(self._mesh):
            options["compiler_options"] = {
                **self._plan.compiler_options,
                **(options.get("compiler_options") or {}),
            }
        return options

    def _placed(self, records: Iterable[ArgumentRecord | ResultRecord]) -> list[Any]:
        """Where arrays lie: their shardings, with a memory order where the plan has one that holds here."""
        return [placed(record, sharding_of(record, self._mesh)) for record in records]


def _is_known(key: Any, made: Mapping[Any, Any]) -> bool:
    try:
        return key in made
    except TypeError as error:
        raise TraceError(
            f"a static argument cannot be compared with that of the next call: {error}; "
            "expected a hashable one"
        ) from error
