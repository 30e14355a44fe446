"""What only prints or inspects is dropped wherever it stands, and nothing else is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun

from autoshard.callbacks import without_debugging


def noisy(x: Any) -> Any:
    jax.debug.print("{}", x.sum(), ordered=True)

    def layer(x: Any, _: Any) -> Any:
        jax.debug.callback(lambda value: None, x)
        jax.debug.inspect_array_sharding(x, callback=lambda sharding: None)
        doubled = lax.cond(x.sum() > 0, lambda x: (jax.debug.print("{}", x), 2 * x)[1], lambda x: x, x)
        return doubled, None

    def small(x: Any) -> Any:
        jax.debug.print("again")
        return x.sum() < 100

    x = lax.scan(jax.checkpoint(layer), x, None, length=3)[0]  # 8
    x = lax.while_loop(small, lambda x: x + 1, x)  # 3 * 34
    return jax.jit(lambda x: (jax.debug.print("done"), x + 1)[1])(x)


def test_printing_is_dropped_in_every_nested_program() -> None:
    closed = jax.make_jaxpr(noisy)(jnp.ones(3))
    pruned = without_debugging(closed)
    assert closed.effects
    assert not pruned.effects
    assert not any(word in str(pruned) for word in ("debug", "inspect"))
    np.testing.assert_array_equal(jaxpr_as_fun(pruned)(jnp.ones(3))[0], np.full(3, 35.0))


def test_a_program_that_does_not_print_is_left_as_it_is() -> None:
    closed = jax.make_jaxpr(lambda x: lax.scan(lambda c, _: (c * 2, None), x, None, length=2))(1.0)
    assert without_debugging(closed) is closed
