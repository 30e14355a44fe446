"""Trip counts that a jaxpr shows, each counted by hand, and those that it does not show."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autoshard.equations import Equations
from autoshard.known_integers import MOST_ITERATIONS, Trips
from autoshard.trace import trace

X = jax.ShapeDtypeStruct((8, 16), "float32")
INDEX = jax.ShapeDtypeStruct((), "int32")


def walked(fn: Callable[..., Any], *args: Any) -> Equations:
    return trace(fn, args).equations


def trips(fn: Callable[..., Any], *args: Any) -> list[int | None]:
    """Trips of all loops, None for those that are counted once."""
    return [loop.trips if loop.trips_known else None for loop in walked(fn, *args).loops]


def counting(test: Callable[[Any], Any], step: Callable[[Any], Any], start: int = 0) -> Callable[[Any], Any]:
    """A loop over a counter and an array."""

    def run(x: Any) -> Any:
        return lax.while_loop(lambda c: test(c[0]), lambda c: (step(c[0]), jnp.sin(c[1])), (start, x))

    return run


@pytest.mark.parametrize(
    ("test", "step", "start", "expected"),
    [
        (lambda i: i < 7, lambda i: i + 1, 0, 7),
        (lambda i: i < 7, lambda i: i + 2, 0, 4),
        (lambda i: i <= 7, lambda i: i + 1, 0, 8),
        (lambda i: i <= 7, lambda i: i + 3, 1, 3),
        (lambda i: i > 0, lambda i: i - 1, 5, 5),
        (lambda i: i >= 0, lambda i: i - 2, 5, 3),
        (lambda i: lax.gt(7, i), lambda i: 1 + i, 0, 7),
        (lambda i: i < 7, lambda i: i + 1, 9, 0),
        (lambda i: i < 7, lambda i: i - 1, 0, None),  # not before the counter wraps around
        (lambda i: i < 7, lambda i: i * 2, 1, None),
        (lambda i: (i < 7) & (i < 5), lambda i: i + 1, 0, None),
        (lambda i: i != 7, lambda i: i + 1, 0, None),
    ],
)
def test_a_while_that_counts(test: Any, step: Any, start: int, expected: int | None) -> None:
    assert trips(counting(test, step, start), X) == [expected]


def test_a_fori_loop_of_traced_bounds_that_are_constants() -> None:
    def model(x: Any) -> Any:
        bound = jnp.int32(3) * 2
        return lax.fori_loop(jnp.int32(1), bound, lambda i, x: jnp.sin(x) * i, x)

    assert trips(model, X) == [5]


def test_a_bound_that_is_data_is_not_known() -> None:
    assert trips(lambda x, n: lax.fori_loop(0, n, lambda i, x: jnp.sin(x), x), X, INDEX) == [None]


def test_a_start_that_is_data_is_not_known() -> None:
    def body(c: Any) -> Any:
        return c[0] + 1, jnp.sin(c[1])

    assert trips(lambda x, n: lax.while_loop(lambda c: c[0] < 7, body, (n, x)), X, INDEX) == [None]
    assert trips(jax.jit(lambda x: lax.while_loop(lambda c: c[0] < 7, body, (0, x))), X) == [7]


def test_a_bound_goes_through_calls_and_branches() -> None:
    def inner(x: Any, n: Any) -> Any:
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]

    def model(x: Any, flag: Any) -> Any:
        n = jax.jit(lambda n: jnp.maximum(n, 2) // 2)(9)
        return lax.cond(flag, lambda x, n: jax.jit(inner)(x, n), lambda x, n: x, x, n)

    assert trips(model, X, jax.ShapeDtypeStruct((), "bool")) == [4]


def test_causal_blocks_are_those_up_to_the_diagonal() -> None:
    """Block i looks at blocks 0 to i: 1 + 2 + 3 + 4 of them."""

    def attention(x: Any) -> Any:
        def row(c: Any) -> Any:
            i, x = c
            inner = lax.while_loop(lambda c: c[0] < i + 1, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))
            return i + 1, inner[1]

        return lax.while_loop(lambda c: c[0] < 4, row, (0, x))[1]

    def layers(x: Any) -> Any:
        return lax.scan(lambda x, _: (attention(x), None), x, None, length=3)[0]

    assert trips(attention, X) == [4, 10]
    assert trips(layers, X) == [3, 12, 30]


def test_a_bound_that_the_outer_body_computes() -> None:
    def model(x: Any) -> Any:
        def row(c: Any) -> Any:
            i, x = c
            last = jnp.minimum((i + 1) * 6 // 4, 4)  # 1, 3, 4, 4
            return i + 1, lax.while_loop(lambda c: c[0] < last, lambda c: (c[0] + 1, c[1]), (0, x))[1]

        return lax.while_loop(lambda c: c[0] < 4, row, (0, x))[1]

    assert trips(model, X) == [4, 12]


def test_a_scan_counts_for_the_loops_inside() -> None:
    def model(x: Any) -> Any:
        def row(i: Any, x: Any) -> Any:
            return lax.fori_loop(0, i, lambda _, x: jnp.sin(x), x)

        return lax.fori_loop(0, 5, row, x)  # of constant bounds: a scan

    assert trips(model, X) == [5, 0 + 1 + 2 + 3 + 4]


def test_a_loop_in_a_loop_of_unknown_trips_is_counted_for_one_trip() -> None:
    def model(x: Any, n: Any) -> Any:
        inner = counting(lambda i: i < 7, lambda i: i + 1)
        return lax.fori_loop(0, n, lambda i, x: inner(x)[1], x)

    found = walked(model, X, INDEX)
    assert [(loop.trips, loop.trips_known) for loop in found.loops] == [(1, False), (7, True)]


def test_the_work_inside_is_counted_with_the_trips() -> None:
    w = jax.ShapeDtypeStruct((16, 16), "float32")
    found = walked(
        lambda x, w: lax.while_loop(lambda c: c[0] < 7, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1], X, w
    )
    (dot,) = [e for e in found.equations if e.primitive == "dot_general"]
    assert dot.trips == 7


def test_what_differs_is_followed_for_so_many_iterations_only() -> None:
    few, many = (Trips.of(count, 1) for count in (3, MOST_ITERATIONS + 1))
    assert few.counted(np.array(2), 5).tolist() == [2, 7, 12]  # type: ignore[union-attr]
    assert many.counted(np.array(2), 5) is None
    assert many.spread(np.array(2)) == 2
    assert many.of_step(10) == 10 * (MOST_ITERATIONS + 1)
    ragged = Trips(np.array([2, 0, 1]))
    assert ragged.counted(np.array(0), 1).tolist() == [0, 1, 0]  # type: ignore[union-attr]
    assert ragged.spread(np.array([5, 6, 7])).tolist() == [5, 5, 7]  # type: ignore[union-attr]
    assert ragged.of_step(6) == 6
