"""The train step of the benchmarks: it learns, and its abstract arguments are what it takes and gives."""

import jax
import jax.numpy as jnp

from bench.train_step import adam_step, sgd_step, train_inputs
from examples import llama


def test_train_steps_learn() -> None:
    params = llama.init_params(llama.TINY)
    tokens = jax.random.randint(jax.random.key(0), (4, 16), 0, llama.TINY.vocab)
    state = jax.tree.map(lambda one: jnp.zeros(one.shape, "float32"), (params, params))
    losses = []
    for _ in range(3):
        loss, params, state = adam_step(params, state, tokens, tokens, config=llama.TINY)
        losses.append(float(loss))
    assert losses[0] > losses[1] > losses[2]
    value, new = sgd_step(params, tokens, tokens, config=llama.TINY)
    assert float(value) < losses[2]
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params)


def test_inputs_of_a_train_step_are_what_it_takes() -> None:
    inputs = train_inputs(llama.TINY, 4, 16, adam=True)
    loss, params, state = jax.eval_shape(lambda *args: adam_step(*args, config=llama.TINY), *inputs)
    assert loss.shape == ()
    assert (params, state) == inputs[:2]
