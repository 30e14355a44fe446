"""Apply a plan to a function: argument and result shardings, and constraints at the einsums.

`apply` traces the function, checks that it is the one the plan was made for, finds the plan's einsums by name and runs the
jaxpr with constraints (`autoshard.constraining`).  `Application` adds the shardings of arguments and results and jits.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from autoshard.constraining import Chain, Chains, Constraints, run_constrained
from autoshard.equations import Equations
from autoshard.errors import PlanMismatchError
from autoshard.plan import Plan
from autoshard.specs import format_type, parse_chain, parse_spec, rank_of, to_partition_spec
from autoshard.trace import Traced, trace

AnyMesh = Mesh | AbstractMesh


def apply(
    fn: Callable[..., Any],
    plan: Plan,
    *,
    mesh: AnyMesh | None = None,
    static_argnums: Sequence[int] = (),
    static_argnames: Sequence[str] = (),
) -> Callable[..., Any]:
    """Return `fn` with the plan's sharding constraints inside; composes with jit, grad and scan.

    Args:
        fn: The function the plan was made for.
        plan: The plan.
        mesh: A mesh with the plan's axes; by default the plan's mesh over the attached devices.
        static_argnums: Positional arguments that are not arrays, as in `jax.jit`.
        static_argnames: Names of arguments that are not arrays, as in `jax.jit`.

    Raises:
        PlanMismatchError: When called with other shapes, or when the plan is of another function or device count.
    """

    @functools.wraps(fn, assigned=[name for name in functools.WRAPPER_ASSIGNMENTS if hasattr(fn, name)])
    def constrained(*args: Any, **kwargs: Any) -> Any:
        traced = trace(fn, args, kwargs, static_argnums=static_argnums, static_argnames=static_argnames)
        require_match(plan, traced)
        target = plan.mesh() if mesh is None else mesh
        dynamic = _dynamic_leaves(fn, args, kwargs, static_argnums, static_argnames)

        def constrain(array: Any, spec: PartitionSpec) -> Any:
            return jax.lax.with_sharding_constraint(array, NamedSharding(target, spec))

        leaves = [constrain(leaf, spec) for leaf, spec in zip(dynamic, argument_specs(plan), strict=True)]
        results = run_constrained(traced.closed, leaves, constraints_of(plan, traced.equations), constrain)
        results = [constrain(leaf, spec) for leaf, spec in zip(results, result_specs(plan), strict=True)]
        return jax.tree.unflatten(traced.out_tree, results)

    return constrained


def _dynamic_leaves(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], static_argnums: Sequence[int], static_argnames: Sequence[str]) -> list[Any]:
    static = static_positions(fn, len(args), static_argnums, static_argnames)
    dynamic = tuple(arg for i, arg in enumerate(args) if i not in static)
    named = {name: value for name, value in kwargs.items() if name not in set(static_argnames)}
    return jax.tree.leaves((dynamic, named))


def static_positions(fn: Callable[..., Any], count: int, static_argnums: Sequence[int], static_argnames: Sequence[str]) -> set[int]:
    """Return the positions among `count` positional arguments that are static."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        names = []
    named = {i for i, name in enumerate(names[:count]) if name in set(static_argnames)}
    return named | {i % max(1, count) for i in static_argnums}


def argument_specs(plan: Plan) -> list[PartitionSpec]:
    """Return the spec of each flat argument."""
    return [to_partition_spec(parse_spec(a.spec, rank_of(a.type))) for a in plan.arguments.values()]


def result_specs(plan: Plan) -> list[PartitionSpec]:
    """Return the spec of each flat result."""
    return [to_partition_spec(parse_spec(r.spec, rank_of(r.type))) for r in plan.results.values()]


def require_match(plan: Plan, traced: Traced) -> None:
    """Raise `PlanMismatchError` naming the first difference between the plan and a traced function."""
    difference = next(iter(differences(plan, traced)), None)
    if difference is not None:
        raise PlanMismatchError(f"the plan of `{plan.function.name}` does not fit: {difference}. {_mend(plan)}")


def _mend(plan: Plan) -> str:
    target = plan.function.target or f"MODULE_OR_FILE:{plan.function.name}"
    return f"Make it again with: autoshard tune {target} --slice {plan.slice} -o PLAN"


def differences(plan: Plan, traced: Traced) -> list[str]:
    """Return in words what differs between the function that was planned and the traced one, first things first."""
    found = _tensor_differences("argument", {n: a.type for n, a in plan.arguments.items()}, traced.argument_names, traced.in_avals)
    found += _tensor_differences("result", {n: r.type for n, r in plan.results.items()}, traced.result_names, traced.out_avals)
    if found:
        return found
    have = {e.name for e in traced.equations.equations}
    found += [f"einsum `{e.name}` ({e.source}) of the plan is not in the function" for e in plan.einsums if e.name not in have]
    if not found and traced.fingerprint() != plan.function.fingerprint:
        found.append("the function has changed since it was planned (other einsums, sizes or loop lengths)")
    return found


def _tensor_differences(kind: str, planned: dict[str, str], names: Sequence[str], avals: Sequence[Any]) -> list[str]:
    actual = {name: format_type(aval.dtype, aval.shape) for name, aval in zip(names, avals, strict=True)}
    found = [f"{kind} `{name}` of the plan is missing" for name in planned if name not in actual]
    found += [f"{kind} `{name}` is not in the plan" for name in actual if name not in planned]
    found += [f"{kind} `{name}` is {actual[name]}, the plan has {type_text}" for name, type_text in planned.items() if name in actual and actual[name] != type_text]
    return found


def constraints_of(plan: Plan, equations: Equations) -> Constraints:
    """Turn the plan's specs, which go by name, into constraints by equation path."""
    by_name = {equation.name: equation for equation in equations.equations}
    operands: dict[str, Chains] = {}
    results: dict[str, Chains] = {}
    slots: dict[str, PartitionSpec] = {}
    for einsum in plan.einsums:
        equation = by_name[einsum.name]
        operands[equation.path] = tuple(
            _chain(text, equations, value) for text, value in zip(einsum.operands, equation.operands, strict=True)
        )
        results[equation.path] = (_chain(einsum.result, equations, equation.results[0]),)
    for tensor in plan.tensors:
        found = by_name.get(tensor.name)
        if found is None:
            raise PlanMismatchError(f"tensor `{tensor.name}` ({tensor.source}) of the plan is not in the function. {_mend(plan)}")
        chain = _chain(tensor.spec, equations, found.results[0])
        if found.eqn is not None:
            results[found.path] = (chain,)
        elif chain:
            slots[found.path] = chain[-1]
    return Constraints(operands, results, slots)


def _chain(text: str | None, equations: Equations, value: int) -> Chain:
    if text is None:
        return ()
    rank = len(equations.values[value].shape)
    return tuple(to_partition_spec(spec) for spec in parse_chain(text, rank))


class Application:
    """A function jitted under a plan: shardings of arguments and results, constraints inside."""

    def __init__(self, fn: Callable[..., Any], plan: Plan, *, mesh: AnyMesh | None = None, jit_options: dict[str, Any] | None = None) -> None:
        """Prepare; the mesh is built here so that a wrong device count is told at once."""
        self._fn = fn
        self._plan = plan
        self._options = dict(jit_options or {})
        self._mesh = plan.mesh() if mesh is None else mesh
        self._cache: dict[Any, Any] = {}

    def jitted(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        """Return a `jax.jit` object with the plan's shardings and the positional arguments to call it with."""
        names = list(kwargs)
        key = (len(args), tuple(names), jax.tree.structure((tuple(args), kwargs)))
        if key not in self._cache:
            self._cache[key] = self._make(args, kwargs, names)
        return self._cache[key], [*args, *(kwargs[name] for name in names)]

    def _make(self, args: Sequence[Any], kwargs: dict[str, Any], names: list[str]) -> Any:
        options = dict(self._options)
        static_nums, static_names = _tuple(options.pop("static_argnums", ())), _tuple(options.pop("static_argnames", ()))
        donate_nums, donate_names = _tuple(options.pop("donate_argnums", ())), _tuple(options.pop("donate_argnames", ()))
        constrained = apply(self._fn, self._plan, mesh=self._mesh, static_argnums=static_nums, static_argnames=static_names)
        count = len(args)

        def positional(*given: Any) -> Any:
            return constrained(*given[:count], **dict(zip(names, given[count:], strict=True)))

        static = static_positions(self._fn, count, static_nums, static_names)
        static |= {count + i for i, name in enumerate(names) if name in static_names}
        donated = static_positions(self._fn, count, donate_nums, donate_names)
        donated |= {count + i for i, name in enumerate(names) if name in donate_names}
        everything = [*args, *kwargs.values()]
        dynamic = [arg for i, arg in enumerate(everything) if i not in static]
        positional.__name__ = getattr(self._fn, "__name__", "planned")
        return jax.jit(
            positional,
            in_shardings=self._in_shardings(dynamic),
            out_shardings=self._out_shardings(args, kwargs, static_nums, static_names),
            static_argnums=tuple(sorted(static)) or None,
            donate_argnums=tuple(sorted(donated)),
            **options,
        )

    def _in_shardings(self, dynamic: Sequence[Any]) -> Any:
        leaves, tree = jax.tree.flatten(tuple(dynamic))
        specs = argument_specs(self._plan)
        if len(specs) != len(leaves):
            raise PlanMismatchError(
                f"the plan of `{self._plan.function.name}` has {len(specs)} argument arrays, the call has {len(leaves)}. {_mend(self._plan)}"
            )
        return jax.tree.unflatten(tree, [NamedSharding(self._mesh, spec) for spec in specs])

    def _out_shardings(self, args: Sequence[Any], kwargs: dict[str, Any], static_nums: Sequence[int], static_names: Sequence[str]) -> Any:
        traced = trace(self._fn, args, kwargs, static_argnums=static_nums, static_argnames=static_names)
        require_match(self._plan, traced)
        return jax.tree.unflatten(traced.out_tree, [NamedSharding(self._mesh, spec) for spec in result_specs(self._plan)])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run under the plan."""
        jitted, positional = self.jitted(args, kwargs)
        return jitted(*positional)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower under the plan."""
        jitted, positional = self.jitted(args, kwargs)
        return jitted.lower(*positional)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """Trace under the plan."""
        jitted, positional = self.jitted(args, kwargs)
        return jitted.trace(*positional)


def _tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int | str) else tuple(value or ())
