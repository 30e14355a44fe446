"""A function jitted under a plan: the plan's shardings of arguments and results outside, its constraints
inside.

`jax.jit` takes no keyword arguments beside `in_shardings`, so keyword arguments are passed on as
positional ones, in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.applying import AnyMesh, apply, argument_specs, result_specs
from autoshard.errors import PlanMismatchError
from autoshard.jit_options import TRACE_OPTIONS, Call, argument_options, bind_call
from autoshard.matching import require_match
from autoshard.plan import Plan
from autoshard.trace import trace


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
        self._options = dict(jit_options or {})
        self._mesh = plan.mesh() if mesh is None else mesh
        self._made: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run under the plan."""
        return self._explained(lambda jit, given: jit(*given), args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower under the plan; what is compiled takes keyword arguments behind the positional ones."""
        lowered: jax.stages.Lowered = self._explained(lambda jit, given: jit.lower(*given), args, kwargs)
        return lowered

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace under the plan."""
        traced: jax.stages.Traced = self._explained(lambda jit, given: jit.trace(*given), args, kwargs)
        return traced

    def _explained(
        self, use: Callable[[Any, list[Any]], Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Use the jitted function; where JAX refuses the arguments, say what the plan has against them."""
        try:
            return use(*self.jitted(args, kwargs))
        except PlanMismatchError:
            raise
        except ValueError:
            require_match(self._plan, trace(self._fn, args, kwargs, **self._options))
            raise

    def jitted(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Return a `jax.jit` object with the plan's shardings, and the arguments to call it with."""
        named = dict(sorted(kwargs.items()))
        key = (len(args), tuple(named), jax.tree.structure((tuple(args), named)))
        if key not in self._made:
            self._made[key] = self._make(bind_call(self._fn, args, named, argument_options(self._options)))
        return self._made[key], [*args, *named.values()]

    def _make(self, call: Call) -> Any:
        traced = trace(call.fn, call.args, call.kwargs, **self._options)
        require_match(self._plan, traced)
        static, donated = _positions(call)
        rest = {name: value for name, value in self._options.items() if name not in TRACE_OPTIONS}
        specs = argument_specs(self._plan, traced.argument_names)
        structure = jax.tree.structure((*call.dynamic_args, *call.dynamic_kwargs.values()))
        return jax.jit(
            self._positional(call),
            in_shardings=jax.tree.unflatten(structure, self._shardings(specs)),
            out_shardings=jax.tree.unflatten(traced.out_tree, self._shardings(result_specs(self._plan))),
            static_argnums=static,
            donate_argnums=donated,
            **rest,
        )

    def _positional(self, call: Call) -> Callable[..., Any]:
        """The function with constraints inside, its keyword arguments behind the positional ones."""
        options = argument_options(self._options)
        constrained = apply(
            self._fn,
            self._plan,
            mesh=self._mesh,
            static_argnums=options.static_argnums,
            static_argnames=options.static_argnames,
        )
        count, names = len(call.args), list(call.kwargs)

        def planned(*given: Any) -> Any:
            return constrained(*given[:count], **dict(zip(names, given[count:], strict=True)))

        planned.__name__ = planned.__qualname__ = getattr(self._fn, "__name__", "planned")
        return planned

    def _shardings(self, specs: Sequence[PartitionSpec]) -> list[NamedSharding]:
        return [NamedSharding(self._mesh, spec) for spec in specs]


def _positions(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of the static and of the donated arguments, the keyword ones behind the positional ones."""
    names = [*call.names, *call.kwargs]
    static = {*call.static, *(i for i, name in enumerate(names) if name in call.static_names)}
    donated = [i for i, name in enumerate(names) if name in call.donated_names and i not in static]
    return tuple(sorted(static)), tuple(donated)
