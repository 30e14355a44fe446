"""A Llama 3 train step in plain JAX, with keyword arguments that change its program but not its meaning.

The model is `llama.py`'s with its layers scanned: next-token loss, gradient, and Adam after Kingma and Ba
2015, arXiv:1412.6980, with both moments in float32. `autoshard tune` picks what makes a step fastest in the
memory of the chips, together with the shardings:

* `remat`, what the backward pass keeps of a block: "none" all but the attention scores, which grow with the
  square of the length; "dots" the results of the matmuls with weights; "full" its input alone.
* `microbatches`, how many equal parts of the batch go through the model one after another; their gradients
  are summed in float32.

`autoshard tune examples/train.py:train_8b --slice v5p:2x2x2` does.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import llama  # type: ignore[import-not-found]
from jax import Array, ShapeDtypeStruct, lax

import autoshard

Params = dict[str, Any]
State = tuple[Any, Any]
Remat = Literal["none", "dots", "full"]

_RATE, _DECAY_FIRST, _DECAY_SECOND, _LEAST = 1e-4, 0.9, 0.95, 1e-8
CHOICES: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "remat": ("none", "dots", "full"),
    "microbatches": (1, 2, 4),
}


def forward(params: Params, tokens: Array, config: llama.Config, remat: Remat = "full") -> Array:
    """Logits [b, l, v] in float32 of every position of `tokens` [b, l]."""
    cos, sin = llama.rope_angles(jnp.arange(tokens.shape[1]), config)
    attend: Callable[..., Array] = functools.partial(llama.chunked_attention, config=config)
    if remat == "none":
        attend = jax.checkpoint(attend)

    def block(x: Array, weights: llama.Layer) -> tuple[Array, None]:
        with jax.named_scope("attention"):
            normed = llama.rms_norm(x, weights["attention_norm"])
            attended = attend(*llama.project(normed, weights, cos, sin, config))
        return llama.join(x, attended, weights), None

    x, _ = lax.scan(rematerialised(block, remat), llama.embed(params, tokens), params["layers"])
    normed = llama.rms_norm(x, params["final_norm"])
    return jnp.einsum("ble,ve->blv", normed, params["unembed"], preferred_element_type=jnp.float32)


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A block whose backward pass computes again what `remat` does not keep."""
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    kept = {"dots": policies.dots_with_no_batch_dims_saveable, "full": policies.nothing_saveable}
    return jax.checkpoint(block, policy=kept[remat])


def loss(params: Params, tokens: Array, targets: Array, config: llama.Config, remat: Remat = "full") -> Array:
    """Mean cross-entropy of `targets` [b, l], as a one-hot product so that no gather crosses the vocab."""
    logits = forward(params, tokens, config, remat)
    shifted = logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    hot = targets[..., None] == jnp.arange(logits.shape[-1])
    return jnp.mean(total - jnp.sum(jnp.where(hot, shifted, 0.0), axis=-1))


def gradient(
    params: Params, tokens: Array, targets: Array, config: llama.Config, remat: Remat, microbatches: int
) -> tuple[Array, Params]:
    """The loss and its gradient, a mean over microbatches; microbatch i has the rows i, i + n, i + 2n, ...

    So every microbatch keeps the sharding of the batch.
    """
    whole: Callable[..., tuple[Array, Params]] = jax.value_and_grad(
        functools.partial(loss, config=config, remat=remat)
    )
    if microbatches == 1:
        return whole(params, tokens, targets)
    batch, length = tokens.shape
    if batch % microbatches:
        raise ValueError(f"a batch of {batch} does not split into {microbatches} equal microbatches")

    def parts(rows: Array) -> Array:
        return jnp.swapaxes(rows.reshape(batch // microbatches, microbatches, length), 0, 1)

    def add(sums: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(
            lambda total, one: total + one.astype(total.dtype), sums, whole(params, *part)
        ), None

    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, "float32"), (jnp.zeros(()), params))
    sums, _ = lax.scan(add, zeros, (parts(tokens), parts(targets)))
    value, gradients = jax.tree.map(lambda total: total / microbatches, sums)
    return value, gradients


def train_step(
    params: Params,
    state: State,
    tokens: Array,
    targets: Array,
    *,
    config: llama.Config,
    remat: Remat = "full",
    microbatches: int = 1,
) -> tuple[Array, Params, State]:
    """One step of Adam, without the correction of its start: the loss, the parameters and the moments."""
    value, gradients = gradient(params, tokens, targets, config, remat, microbatches)
    first = jax.tree.map(functools.partial(_moment, decay=_DECAY_FIRST, power=1), state[0], gradients)
    second = jax.tree.map(functools.partial(_moment, decay=_DECAY_SECOND, power=2), state[1], gradients)
    return value, jax.tree.map(_moved, params, first, second), (first, second)


def _moment(old: Array, slope: Array, *, decay: float, power: int) -> Array:
    """The running mean of a power of the gradient, in float32."""
    mean: Array = decay * old + (1 - decay) * slope.astype(jnp.float32) ** power
    return mean


def _moved(one: Array, first: Array, second: Array) -> Array:
    """A parameter after the step."""
    step = _RATE * first / (jnp.sqrt(second) + _LEAST)
    return (one.astype(jnp.float32) - step).astype(one.dtype)


def train_inputs(config: llama.Config, batch: int, length: int) -> tuple[Any, ...]:
    """The abstract arguments of `train_step`: params, both moments, tokens, targets."""
    params = llama.abstract_params(config)
    moments = jax.tree.map(lambda one: ShapeDtypeStruct(one.shape, "float32"), params)
    tokens = ShapeDtypeStruct((batch, length), "int32")
    return params, (moments, moments), tokens, tokens


# `autoshard tune examples/train.py:NAME --slice CHIP:TOPOLOGY` plans these; untuned they are plain `jax.jit`.


@autoshard.jit(
    plan="plans/llama_tiny_train.cpu-8.json",
    inputs=lambda: train_inputs(llama.TINY, batch=16, length=32),
    choices=CHOICES,
    donate_argnames=("params", "state"),
)
def train_tiny(
    params: Params,
    state: State,
    tokens: Array,
    targets: Array,
    *,
    remat: Remat = "full",
    microbatches: int = 1,
) -> tuple[Array, Params, State]:
    """16 sequences of 32 tokens: small enough for eight CPU devices."""
    return train_step(
        params, state, tokens, targets, config=llama.TINY, remat=remat, microbatches=microbatches
    )


@autoshard.jit(
    plan="plans/llama3_8b_train.v5p-2x2x2.json",
    inputs=lambda: train_inputs(llama.LLAMA3_8B, batch=32, length=4096),
    choices=CHOICES,
    donate_argnames=("params", "state"),
)
def train_8b(
    params: Params,
    state: State,
    tokens: Array,
    targets: Array,
    *,
    remat: Remat = "full",
    microbatches: int = 1,
) -> tuple[Array, Params, State]:
    """32 sequences of 4096 tokens."""
    return train_step(
        params, state, tokens, targets, config=llama.LLAMA3_8B, remat=remat, microbatches=microbatches
    )
