"""The check of numerics itself, on small programs: it passes what is right and finds what is wrong."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.numerics import compare
from autoshard.trace import trace
from tests.models.case import Case, Program
from tests.models.numerics_check import (
    check_case,
    compare_by_kind,
    failures,
    flat_function,
    kinds,
    with_used_moments,
)

LENGTH, WIDTH = 16, 32


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _case(build: Callable[[], Program], phase: str = "forward") -> Case:
    return Case("toy.dense." + phase, phase, "", build, build)


def _dense(weights: jax.Array, inputs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    noise = jax.random.normal(key, inputs.shape)
    return jnp.tanh((inputs + noise) @ weights) @ weights.T, jax.random.split(key)[0]


def _dense_program(fn: Callable[..., Any] = _dense) -> Program:
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (_shape(WIDTH, WIDTH), _shape(LENGTH, WIDTH), key)
    return Program(fn, arguments, options={"donate_argnames": ("weights", "key")})


def _train_step(state: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
    """A layer with a bias, and Adam."""
    params, first, second = state

    def loss_of(params: Any) -> Any:
        return jnp.mean((jnp.tanh(inputs @ params["kernel"]) + params["bias"]) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    update = jax.tree.map(lambda m, v: (m / 0.1) / (jnp.sqrt(v / 0.001) + 1e-8), first, second)
    return (jax.tree.map(lambda p, u: p - 1e-3 * u, params, update), first, second), loss


def _train_program() -> Program:
    shapes = {"kernel": _shape(WIDTH, WIDTH), "bias": _shape(WIDTH)}

    def values(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        random = np.random.default_rng(seed)
        kernel = jnp.asarray(random.normal(size=(WIDTH, WIDTH)), jnp.float32)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        inputs = jnp.asarray(random.normal(size=(LENGTH, WIDTH)), jnp.float32)
        return (({"kernel": kernel, "bias": zeros["bias"]}, zeros, zeros), inputs), {}

    return Program(
        _train_step,
        ((shapes, shapes, shapes), _shape(LENGTH, WIDTH)),
        options={"donate_argnames": "state"},
        values=values,
    )


@pytest.mark.parametrize(
    ("phase", "build"), [("forward", _dense_program), ("train", _train_program)], ids=["forward", "train"]
)
def test_what_is_right_passes_under_the_chosen_and_three_random_plans(
    phase: str, build: Callable[[], Program]
) -> None:
    checks = check_case(_case(build, phase))
    assert [check.name.partition(" ")[0] for check in checks] == ["chosen", "random", "random", "random"]
    assert len({check.name for check in checks}) == 4
    assert failures(checks) == {}
    assert all(check.comparison.tolerance == 1e-3 for check in checks)


def test_random_plans_cut_what_the_check_is_about() -> None:
    checks = check_case(_case(_dense_program))
    layouts = {check.name: [einsum.layout for einsum in check.plan.einsums] for check in checks}
    assert all(any("_" in layout for layout in each) for each in layouts.values()), layouts
    assert len({str(each) for each in layouts.values()}) > 1


def test_what_is_wrong_is_found() -> None:
    runs = itertools.count(1.0)

    def drifting(weights: jax.Array, inputs: jax.Array, key: jax.Array) -> Any:
        outputs, key = _dense(weights, inputs, key)
        return outputs * next(runs), key  # another function each time that it is traced

    wrong = failures(check_case(_case(partial(_dense_program, drifting))))
    assert len(wrong) == 4
    assert all("result/0" in detail for detail in wrong.values())


def test_results_that_are_not_finite_prove_nothing() -> None:
    def divide(weights: jax.Array) -> jax.Array:
        return weights / (weights - weights)

    case = _case(lambda: Program(divide, (_shape(8, 8),)))
    with pytest.raises(ValueError, match="not finite"):
        check_case(case)


def test_only_what_becomes_positive_from_zero_is_taken_for_a_second_moment() -> None:
    program = _train_program()
    traced = trace(program.fn, program.args, **program.options)
    # The order of the leaves: bias and kernel of the parameters, of the first and of the second moments.
    zeros, ones = jnp.zeros(WIDTH), jnp.ones((WIDTH, WIDTH))
    arrays = [zeros, ones, zeros, 0 * ones, zeros, 0 * ones, jnp.ones((LENGTH, WIDTH))]
    signs = np.resize([1.0, -1.0], WIDTH)
    small, large = np.linspace(0, 2e-9, WIDTH), np.full((WIDTH, WIDTH), 0.25)
    results = [signs, np.ones((WIDTH, WIDTH)), signs, -np.ones((WIDTH, WIDTH)), small, large, np.float32(1)]
    made = with_used_moments(traced, arrays, [np.asarray(each, np.float32) for each in results])
    for before, after in zip(arrays[:4], made[:4], strict=True):
        assert after is before
    np.testing.assert_allclose(made[4], 0.25e-6, rtol=1e-6)  # the least: 1e-6 of the largest of all
    np.testing.assert_allclose(made[5], 0.25)
    assert made[6] is arrays[6]


def test_results_are_of_one_kind_where_their_paths_end_as_others_do() -> None:
    paths = ["result/0/a/kernel", "result/0/a/bias", "result/0/b/bias", "result/1/mu/a/kernel"]
    paths += ["result/1/mu/a/bias", "result/1/mu/b/bias", "result/1/count", "result/2"]
    assert kinds(paths) == [[0, 1, 2], [3, 4, 5], [6], [7]]
    assert kinds(["result"]) == [[0]]


def test_a_wrong_gradient_is_not_small_beside_a_parameter() -> None:
    paths = ["result/0/kernel", "result/1/kernel", "result/2"]
    expected = [np.full(4, 1e3), np.full(4, 1e-3), np.array(1e6)]
    wrong = [expected[0], expected[1] * 1.01, expected[2]]
    assert compare(wrong, expected, paths, 1e-3).agrees
    found = compare_by_kind(wrong, expected, paths, 1e-3)
    assert not found.agrees
    assert found.worst_path == "result/1/kernel"
    assert found.max_error == pytest.approx(0.01)
    assert compare_by_kind(expected, expected, paths, 1e-3).agrees


def test_the_flat_function_takes_and_returns_arrays_alone() -> None:
    def labelled(label: str, tree: dict[str, Any]) -> tuple[Any, str]:
        return {"sum": tree["a"] + tree["b"]}, label

    program = Program(labelled, ("name", {"b": _shape(3), "a": _shape(3)}))
    flat, arrays = flat_function(program)
    assert [array.shape for array in arrays] == [(3,), (3,)]
    (total,) = flat(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3))
    np.testing.assert_array_equal(total, [2.0, 3.0, 4.0])
