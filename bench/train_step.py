"""A Llama train step in plain JAX: next-token loss, gradient, and Adam or plain gradient descent by hand.

The model is `examples/llama.py`'s, its layers scanned and each one rematerialised in the backward pass
(`jax.checkpoint`): what a training run that must fit does. Adam after Kingma and Ba 2015, arXiv:1412.6980,
with both moments in float32; the weights stay in the model's own number format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from examples import llama

Params = dict[str, Any]
State = tuple[Any, Any]

_RATE, _DECAY_FIRST, _DECAY_SECOND, _LEAST = 1e-4, 0.9, 0.95, 1e-8


def forward(params: Params, tokens: Array, config: llama.Config) -> Array:
    """Logits [b, l, v] in float32 of every position of `tokens` [b, l]."""
    cos, sin = llama.rope_angles(jnp.arange(tokens.shape[1]), config)

    @jax.checkpoint
    def block(x: Array, weights: llama.Layer) -> tuple[Array, None]:
        with jax.named_scope("attention"):
            normed = llama.rms_norm(x, weights["attention_norm"])
            q, k, v = llama.project(normed, weights, cos, sin, config)
            attended = llama.chunked_attention(q, k, v, config)
        return llama.join(x, attended, weights), None

    x, _ = lax.scan(block, llama.embed(params, tokens), params["layers"])
    normed = llama.rms_norm(x, params["final_norm"])
    return jnp.einsum("ble,ve->blv", normed, params["unembed"], preferred_element_type=jnp.float32)


def loss(params: Params, tokens: Array, targets: Array, config: llama.Config) -> Array:
    """Mean cross-entropy of `targets` [b, l], as a one-hot product so that no gather crosses the vocab."""
    logits = forward(params, tokens, config)
    shifted = logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    hot = targets[..., None] == jnp.arange(logits.shape[-1])
    return jnp.mean(total - jnp.sum(jnp.where(hot, shifted, 0.0), axis=-1))


def sgd_step(params: Params, tokens: Array, targets: Array, *, config: llama.Config) -> tuple[Array, Params]:
    """One step of gradient descent: the loss and the new parameters."""
    value, gradients = jax.value_and_grad(loss)(params, tokens, targets, config)
    new = jax.tree.map(lambda one, gradient: one - (_RATE * gradient).astype(one.dtype), params, gradients)
    return value, new


def adam_step(
    params: Params, state: State, tokens: Array, targets: Array, *, config: llama.Config
) -> tuple[Array, Params, State]:
    """One step of Adam, without the correction of its start: the loss, the parameters and the moments."""
    value, gradients = jax.value_and_grad(loss)(params, tokens, targets, config)
    first = jax.tree.map(functools.partial(_moment, decay=_DECAY_FIRST, power=1), state[0], gradients)
    second = jax.tree.map(functools.partial(_moment, decay=_DECAY_SECOND, power=2), state[1], gradients)
    return value, jax.tree.map(_moved, params, first, second), (first, second)


def _moment(old: Array, gradient: Array, *, decay: float, power: int) -> Array:
    """The running mean of a power of the gradient, in float32."""
    mean: Array = decay * old + (1 - decay) * gradient.astype(jnp.float32) ** power
    return mean


def _moved(one: Array, first: Array, second: Array) -> Array:
    """A parameter after the step."""
    step = _RATE * first / (jnp.sqrt(second) + _LEAST)
    return (one.astype(jnp.float32) - step).astype(one.dtype)


def train_inputs(config: llama.Config, batch: int, length: int, *, adam: bool) -> tuple[Any, ...]:
    """The abstract arguments of a step: params, the moments where it is Adam, tokens, targets."""
    params = llama.abstract_params(config)
    moments = jax.tree.map(lambda one: ShapeDtypeStruct(one.shape, "float32"), params)
    tokens = ShapeDtypeStruct((batch, length), "int32")
    return (params, (moments, moments), tokens, tokens) if adam else (params, tokens, tokens)


def train_target(
    config: llama.Config, batch: int, length: int, *, adam: bool
) -> tuple[Callable[..., Any], Callable[[], tuple[Any, ...]], tuple[str, ...]]:
    """A train step of any size: the function, what gives its inputs, and the names of donated arguments."""
    step = adam_step if adam else sgd_step
    inputs = functools.partial(train_inputs, config, batch, length, adam=adam)
    return functools.partial(step, config=config), inputs, ("params", "state") if adam else ("params",)
