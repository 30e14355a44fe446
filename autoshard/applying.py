"""Apply a plan inside a function: its constraints at the arguments, the results and the einsums.

`apply` traces the function, checks that it is the one the plan was made for, finds the plan's einsums by
name and runs the jaxpr with constraints (`autoshard.constraining`). `autoshard.application` adds the
shardings of arguments and results outside and jits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from autoshard.choices import with_static_names
from autoshard.chosen import chosen_keywords
from autoshard.constraining import Chain, Chains, Constraints, run_constrained
from autoshard.equations import Equation, Equations
from autoshard.homes import homes_of
from autoshard.jit_options import argument_options, bind_call, positional_parameters
from autoshard.matching import absence, mismatch, require_match
from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord, TensorRecord
from autoshard.specs import parse_chain, parse_spec, rank_of, to_partition_spec
from autoshard.trace import Traced, trace

AnyMesh = Mesh | AbstractMesh
R = TypeVar("R", EinsumRecord, TensorRecord)


def apply(
    fn: Callable[..., Any],
    plan: Plan,
    *,
    mesh: AnyMesh | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
) -> Callable[..., Any]:
    """Return `fn` with the plan's sharding constraints inside; composes with jit, grad and scan.

    Args:
        fn: The function the plan was made for.
        plan: The plan.
        mesh: A mesh with the plan's axes; by default the plan's mesh over the attached devices.
        static_argnums: Positional arguments that are not arrays, as in `jax.jit`.
        static_argnames: Names of arguments that are not arrays, as in `jax.jit`.

    Raises:
        PlanMismatchError: When called with other shapes or another value of a choice, or when the plan is of
            another function or for another number of devices.
    """
    static = with_static_names(
        {"static_argnums": static_argnums, "static_argnames": static_argnames}, tuple(plan.choices)
    )

    def constrained(*args: Any, **kwargs: Any) -> Any:
        kwargs = dict(chosen_keywords(plan, args, kwargs, positional_parameters(fn)))
        call = bind_call(fn, args, kwargs, argument_options(static))
        traced = trace(fn, args, kwargs, **static)
        require_match(plan, traced)
        arrays = jax.tree.leaves((call.dynamic_args, call.dynamic_kwargs))
        return traced.result(run_planned(plan, traced, arrays, plan.mesh() if mesh is None else mesh))

    return functools.update_wrapper(constrained, fn, assigned=wrapper_names(fn))


def run_planned(plan: Plan, traced: Traced, arrays: Sequence[Any], mesh: AnyMesh) -> list[Any]:
    """Run a traced function on flat arguments under the constraints of its plan; return its flat results."""
    constrain = constrainer(mesh)
    specs = argument_specs(plan, traced.argument_names)
    leaves = [constrain(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    constraints = constraints_of(plan, traced.equations)
    results = run_constrained(traced.closed, leaves, constraints, constrain, mesh)
    return [constrain(array, spec) for array, spec in zip(results, result_specs(plan), strict=True)]


def wrapper_names(fn: Callable[..., Any]) -> list[str]:
    """The attributes that a wrapper of `fn` takes over: a `functools.partial` has no `__name__`."""
    return [name for name in functools.WRAPPER_ASSIGNMENTS if hasattr(fn, name)]


def constrainer(mesh: AnyMesh) -> Callable[[Any, PartitionSpec], Any]:
    """Return the function that puts one constraint over a mesh.

    An array cannot be padded outside of a compiled program: there what is padded gets a program of its own.
    """
    constrain_here: Callable[[Any, NamedSharding], Any] = jax.lax.with_sharding_constraint
    constrain_in_program = jax.jit(constrain_here, static_argnums=1)

    def constrain(array: Any, spec: PartitionSpec) -> Any:
        put = constrain_here if _divides(spec, jax.typeof(array).shape, mesh) else constrain_in_program
        return put(array, NamedSharding(mesh, spec))

    return constrain


def _divides(spec: PartitionSpec, shape: Sequence[int], mesh: AnyMesh) -> bool:
    """Whether the axes of each dim divide it."""
    named = ((entry,) if isinstance(entry, str) else entry for entry in spec)
    chips = (prod(mesh.shape[axis] for axis in axes) if isinstance(axes, tuple) else 1 for axes in named)
    return all(size % count == 0 for size, count in zip(shape, chips, strict=False))


def argument_specs(plan: Plan, names: Sequence[str] | None = None) -> list[PartitionSpec]:
    """Return the spec of each flat argument, in the order of `names`: a call may pass some by keyword."""
    arguments = plan.arguments.values() if names is None else [plan.arguments[name] for name in names]
    return [to_partition_spec(parse_spec(a.spec, rank_of(a.type))) for a in arguments]


def result_specs(plan: Plan) -> list[PartitionSpec]:
    """Return the spec of each flat result."""
    return [to_partition_spec(parse_spec(r.spec, rank_of(r.type))) for r in plan.results.values()]


def constraints_of(plan: Plan, equations: Equations) -> Constraints:
    """Turn the plan's specs, which go by name, into constraints by equation path.

    Raises:
        PlanMismatchError: An einsum or a tensor of the plan is not in the function.
    """
    by_name = {equation.name: equation for equation in equations.equations}
    operands: dict[str, Chains] = {}
    results: dict[str, Chains] = {}
    slots: dict[str, PartitionSpec] = {}
    records: list[EinsumRecord | TensorRecord] = [*plan.einsums, *plan.tensors]
    for record in records:
        missing = absence(record, by_name)
        if missing:
            raise mismatch(plan, missing)
    for einsum, equation in _copies(plan.einsums, by_name):
        pairs = zip(einsum.operands, equation.operands, strict=True)
        operands[equation.path] = tuple(_chain(text, equations, value) for text, value in pairs)
        results[equation.path] = (_chain(einsum.result, equations, equation.results[0]),)
    for tensor, equation in _copies(plan.tensors, by_name):
        chain = _chain(tensor.spec, equations, equation.results[0])
        if equation.eqn is not None:
            results[equation.path] = (chain,)
            if tensor.operands:
                pairs = zip(tensor.operands, equation.operands, strict=True)
                operands[equation.path] = tuple(_chain(text, equations, value) for text, value in pairs)
        elif chain:
            slots[equation.path] = chain[-1]
    padded = any(record.padding for record in records)
    homes = homes_of(equations, operands, {**results, **{path: ((spec,),) for path, spec in slots.items()}})
    return Constraints(operands, results, slots, held_at_start=padded, homes=homes)


def _copies(records: Iterable[R], by_name: Mapping[str, Equation]) -> Iterator[tuple[R, Equation]]:
    """Each record with the equation of each of its copies."""
    for record in records:
        for name in expand_name(record.name):
            yield record, by_name[name]


def _chain(text: str | None, equations: Equations, value: int) -> Chain:
    if text is None:
        return ()
    rank = len(equations.values[value].shape)
    return tuple(to_partition_spec(spec) for spec in parse_chain(text, rank))
