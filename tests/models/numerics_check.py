"""Whether a case computes under a plan, on eight devices, what it computes as it is, on one.

The reduced program runs under the plan that `autoshard.tune` chooses and under random plans that are possible
and fit, each on another mesh, each by way of its file; every array that it returns is compared with that of
plain `jax.jit`, by the measure of `autoshard.numerics`.

AdamW's first step is no fair trial: it moves a parameter by its gradient's sign, and where the gradient is
zero but for rounding (that of the bias of attention's keys), by the sign of rounding. So a train step is
tried on an optimizer that has taken steps: where second moments are all zero they are set to the largest
that the step makes of them, and an update is about the gradient over the largest of its array. Gradients
are compared as they are: first moments stay zero, so the new ones are a multiple of the gradient.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import autoshard
from autoshard.cost.slices import parse_slice
from autoshard.graph_building import aliases, build_graph
from autoshard.mesh_study import mesh_label, meshes_to_try
from autoshard.numerics import Comparison, all_finite, compare, make_inputs, tolerance_of
from autoshard.plan import Plan, load_plan
from autoshard.planning import make_plan
from autoshard.search.building import build_problem
from autoshard.search.planner import Outcome
from autoshard.search.sampling import random_candidates
from autoshard.trace import Traced, trace
from tests.models.case import Case, Program

SLICE = "cpu:8"
RANDOM_PLANS = 3
_LEAST_MOMENT = 1e-6
"""Second moments are set to this share of the largest of all at the least: a gradient of rounding alone
(1e-3 of the largest gradient and less) then moves its parameter by as little."""

Arrays = list[Any]
"""Flat, in the order of the leaves of a function's arguments or results."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How a program fared under one plan; `name` is "chosen" or "random" with its mesh."""

    name: str
    plan: Plan
    comparison: Comparison


def check_case(
    case: Case, *, random_plans: int = RANDOM_PLANS, seed: int = 0, **jit_options: Any
) -> tuple[Checked, ...]:
    """Run the reduced program of a case under the chosen plan and under random ones.

    Args:
        case: The case; eight devices have to be there.
        random_plans: How many random plans.
        seed: Of the inputs and of the random plans.
        **jit_options: Further keyword arguments of `jax.jit`, such as `compiler_options`.

    Raises:
        ValueError: What the program returns on one device is not finite, so that nothing would be compared.
    """
    program = case.reduced()
    trial = Trial.of(program, seed, used_optimizer=case.phase == "train", **jit_options)
    return tuple(
        Checked(name, plan, trial.under(plan, **jit_options))
        for name, plan in (chosen_plan(program), *random_plans_of(trial.traced, random_plans, seed))
    )


def chosen_plan(program: Program) -> tuple[str, Plan]:
    """What a user would get."""
    options = dict(program.options)
    plan = autoshard.tune(program.fn, *program.args, slice=SLICE, refine="none", top_k=1, **options)
    return "chosen", plan


def random_plans_of(traced: Traced, count: int, seed: int) -> Iterator[tuple[str, Plan]]:
    """Random plans, the first on the mesh of most axes."""
    graph, slice_ = build_graph(traced), parse_slice(SLICE)
    meshes = meshes_to_try(slice_, "auto")
    for number in range(count):
        mesh = meshes[-1 - number % len(meshes)]
        problem = build_problem(graph, mesh)
        limit = slice_.chip.hbm_usable_bytes
        for candidate in random_candidates(problem, limit, 1, seed=seed + number):
            outcome = Outcome((candidate,), 0.0, "random")
            plan = make_plan(traced, problem, candidate, outcome, function_name="random")
            yield f"random {mesh_label(mesh)}", plan


@dataclass(frozen=True, slots=True)
class Trial:
    """A program with its inputs and what it makes of them on one device.

    Attributes:
        program: The program.
        traced: The same, traced.
        arrays: The arrays of its arguments, flat.
        expected: The arrays of its results, flat, on the host.
    """

    program: Program
    traced: Traced
    arrays: Arrays
    expected: Arrays

    @classmethod
    def of(cls, program: Program, seed: int, *, used_optimizer: bool = False, **jit_options: Any) -> Trial:
        """Make up inputs and run the program as it is; see `check_case`."""
        traced = trace(program.fn, program.args, program.kwargs, **program.options)
        as_it_is = jax.jit(flat_function(program)[0], **jit_options)
        for arrays in _inputs(program, traced, seed):
            expected = _on_host(as_it_is(*arrays))
            if used_optimizer:
                arrays = with_used_moments(traced, arrays, expected)
                expected = _on_host(as_it_is(*arrays))
            if all_finite(expected):
                return cls(program, traced, arrays, expected)
        raise ValueError("the results on one device are not finite; the case has to give better `values`")

    def under(self, plan: Plan, **jit_options: Any) -> Comparison:
        """Run the program under a plan and compare; one that does not compile or run does not agree."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.json"
            plan.save(path)
            reloaded = load_plan(path)
        planned = autoshard.jit(self.program.fn, plan=reloaded, **self.program.options, **jit_options)
        args, kwargs = _arguments(self.program, [jnp.copy(array) for array in self.arrays])  # may be donated
        tolerance = tolerance_of(array.dtype for array in (*self.traced.in_avals, *self.expected))
        try:
            actual = _on_host(_results(planned(*args, **kwargs)))
        except jax.errors.JaxRuntimeError as error:
            return Comparison(False, math.inf, "", tolerance, f"does not run: {error}")
        return compare_by_kind(actual, self.expected, self.traced.result_names, tolerance)


def flat_function(program: Program) -> tuple[Callable[..., list[Any]], list[Any]]:
    """Return a program as a function of arrays alone that returns a list of them, and its arguments' arrays.

    What is no array is part of the function, as `jax.jit` and `jax.make_jaxpr` need it.
    """

    def flat(*arrays: Any) -> list[Any]:
        args, kwargs = _arguments(program, arrays)
        return _results(program.fn(*args, **kwargs))

    return flat, _arrays((program.args, dict(program.kwargs)))


def _arguments(program: Program, arrays: Iterable[Any]) -> Any:
    """Positional and keyword arguments of a program with these arrays."""
    leaves, structure = jax.tree.flatten((program.args, dict(program.kwargs)))
    given = iter(arrays)
    return jax.tree.unflatten(structure, [next(given) if _is_array(leaf) else leaf for leaf in leaves])


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or stands for one."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _results(tree: Any) -> list[Any]:
    """The arrays of results, numbers among them, as under `jax.jit`."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf) or isinstance(leaf, Number)]


def _on_host(arrays: Sequence[Any]) -> Arrays:
    """Arrays as NumPy arrays, keys as their data."""
    return [np.asarray(jax.random.key_data(array) if _is_key(array) else array) for array in arrays]


def _is_key(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


def _inputs(program: Program, traced: Traced, seed: int) -> Iterator[Arrays]:
    """The program's own inputs, or made-up ones: first any floats, then floats that are not negative."""
    if program.values is not None:
        yield _arrays(program.values(seed))
        return
    for non_negative in (False, True):
        bound = program.integer_bound
        yield make_inputs(traced.in_avals, seed, integer_bound=bound, non_negative=non_negative)


def compare_by_kind(
    actual: Sequence[Any], expected: Sequence[Any], paths: Sequence[str], tolerance: float
) -> Comparison:
    """Compare as `autoshard.numerics.compare` does, but one kind of results after the other.

    What is small beside other results is judged on their scale. Gradients are not small beside parameters.
    """
    if len(actual) != len(expected):
        return compare(actual, expected, paths, tolerance)
    found = [
        compare([actual[i] for i in kind], [expected[i] for i in kind], [paths[i] for i in kind], tolerance)
        for kind in kinds(paths)
    ]
    return max(found, key=lambda comparison: (not comparison.agrees, comparison.max_error))


def kinds(paths: Sequence[str]) -> list[list[int]]:
    """Group results by what their paths begin with, up to an end that is that of another path, too.

    "0/params/layer/bias" and "1/mu/layer/bias" are of the kinds "0/params" and "1/mu".
    """
    steps = [path.split("/") for path in paths]
    ends = Counter("/".join(each[i:]) for each in steps for i in range(1, len(each)))
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(steps):
        common = next((i for i in range(1, len(each)) if ends["/".join(each[i:])] > 1), len(each))
        groups.setdefault("/".join(each[:common]), []).append(number)
    return list(groups.values())


def with_used_moments(traced: Traced, arrays: Sequence[Any], results: Sequence[Any]) -> Arrays:
    """Return the inputs with second moments that are not zero.

    A second moment is told by what a step does: an array of zeros that is donated becomes one that is
    nowhere negative and somewhere positive. A bias to which that happens gets a value, too, and any will do.

    Args:
        traced: The train step.
        arrays: Its inputs.
        results: What it makes of them.
    """
    moments = {
        argument: float(np.max(results[result]))
        for argument, result in aliases(traced)
        if _became_positive(arrays[argument], results[result])
    }
    least = _LEAST_MOMENT * max(moments.values(), default=0.0)
    return [
        jnp.full(array.shape, max(moments[number], least), array.dtype) if number in moments else array
        for number, array in enumerate(arrays)
    ]


def _became_positive(before: Any, after: np.ndarray[Any, Any]) -> bool:
    if not jnp.issubdtype(after.dtype, jnp.floating) or np.asarray(before).any():
        return False
    return bool((after >= 0).all() and (after > 0).any())


def failures(checks: Sequence[Checked]) -> Mapping[str, str]:
    """What is wrong, by plan; empty where all agree."""
    return {check.name: check.comparison.detail for check in checks if not check.comparison.agrees}
