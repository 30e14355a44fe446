"""Megatron-Turing NLG 530B inference in plain JAX: prefill, and a decode step with a key-value cache.

The serial block: attention and a GELU feed-forward of two matrices one after the other, each on a norm of its
own, multihead attention. Shapes after Pope et al. 2022, arXiv:2211.05102, appendix D.1 (105 layers, E 20480,
F 81920, 128 heads of 160), vocabulary after the code released with it and NVIDIA's FasterTransformer guide.
What does not depend on the block is `examples/palm.py`; biases are left out, they are small. Letters as
there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from examples import palm
from examples.palm import Cache, Config, Inputs, Params, Step

MTNLG_530B = Config(layers=105, d_model=20_480, d_ff=81_920, heads=128, d_head=160, vocab=51_200)
TINY = Config(layers=2, d_model=64, d_ff=256, heads=8, d_head=16, vocab=256, dtype="float32")


def matrix_shapes(config: Config) -> dict[str, tuple[int, int, int]]:
    """The layers' matrices [layers, in, out]; heads and d_head are one dim."""
    layers, e, f, hd = config.layers, config.d_model, config.d_ff, config.heads * config.d_head
    into = {name: (layers, e, hd) for name in ("wq", "wk", "wv")}
    return {**into, "wo": (layers, hd, e), "w_up": (layers, e, f), "w_down": (layers, f, e)}


def abstract_params(config: Config) -> Params:
    """The parameters as `ShapeDtypeStruct`s."""
    norm = ShapeDtypeStruct((config.layers, config.d_model), config.dtype)
    layers = {
        name: ShapeDtypeStruct(shape, config.weight_dtype) for name, shape in matrix_shapes(config).items()
    }
    embed = ShapeDtypeStruct((config.vocab, config.d_model), config.dtype)
    final_norm = ShapeDtypeStruct((config.d_model,), config.dtype)
    return {
        "embed": embed,
        "final_norm": final_norm,
        "layers": {**layers, "attention_norm": norm, "ffn_norm": norm},
    }


def abstract_cache(config: Config, batch: int, context: int) -> Cache:
    """Keys and values, each [layers, b, t, h, d]."""
    one = ShapeDtypeStruct((config.layers, batch, context, config.heads, config.d_head), config.dtype)
    return {"keys": one, "values": one}


def attend(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Multihead attention: q [b, l, h, d] over keys and values [b, t, h, d], `mask` [l, t] added."""
    scores = jnp.einsum("blhd,bthd->blht", q, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5 + mask[:, None, :], axis=-1)
    return jnp.einsum("blht,bthd->blhd", weights.astype(values.dtype), values)


def attend_step(q: Array, cached: Cache, new: Cache, position: Array) -> Array:
    """Attention of one new token [b, 1, h, d] over the cache [b, t, h, d] and over itself."""
    scale = q.shape[-1] ** -0.5
    before = jnp.where(jnp.arange(cached["keys"].shape[1]) < position, 0.0, -1e30)
    past = jnp.einsum("blhd,bthd->blht", q, cached["keys"], preferred_element_type=jnp.float32)
    own = jnp.einsum("blhd,bshd->blhs", q, new["keys"], preferred_element_type=jnp.float32) * scale
    past = past * scale + before
    top = jnp.maximum(jnp.max(past, axis=-1, keepdims=True), own)
    past, own = jnp.exp(past - top), jnp.exp(own - top)
    total = jnp.sum(past, axis=-1, keepdims=True) + own
    attended = jnp.einsum("blht,bthd->blhd", (past / total).astype(q.dtype), cached["values"])
    joined: Array = attended + (own / total).astype(q.dtype) * new["values"]
    return joined


def project(x: Array, weight: Array, config: Config) -> Array:
    """Queries, keys or values [b, l, h, d]."""
    return jnp.einsum("ble,eq->blq", x, weight).reshape(*x.shape[:2], config.heads, config.d_head)


def feed_forward(x: Array, weights: Params) -> Array:
    """The second half of the block, GELU between its two matrices."""
    with jax.named_scope("ffn"):
        hidden = jax.nn.gelu(jnp.einsum("ble,ef->blf", x, weights["w_up"]))
        return jnp.einsum("blf,fe->ble", hidden, weights["w_down"])


def attention_output(x: Array, attended: Array, weights: Params) -> Array:
    """The end of the first half of the block."""
    merged = attended.reshape(*x.shape[:2], -1)
    return x + jnp.einsum("blq,qe->ble", merged, weights["wo"])


def prefill(params: Params, tokens: Array, *, config: Config) -> tuple[Array, Cache]:
    """Reads prompts `tokens` [b, l]; gives the last position's logits [b, v] and a cache of context l."""
    mask = palm.causal_mask(jnp.arange(tokens.shape[1]), tokens.shape[1])

    def layer(x: Array, weights: Params) -> tuple[Array, Cache]:
        normed = palm.rms_norm(x, weights["attention_norm"])
        q, k, v = (project(normed, weights[name], config) for name in ("wq", "wk", "wv"))
        x = attention_output(x, attend(q, k, v, mask), weights)
        x = x + feed_forward(palm.rms_norm(x, weights["ffn_norm"]), weights)
        return x, {"keys": k, "values": v}

    x, cache = lax.scan(layer, palm.embed(params, tokens), params["layers"])
    return palm.unembed(params, x), cache


def decode(
    params: Params, cache: Cache, tokens: Array, position: Array, *, config: Config
) -> tuple[Array, Cache]:
    """Decodes one token more of every sequence, as `palm.decode` does."""

    def layer(x: Array, inputs: tuple[Params, Cache]) -> tuple[Array, Cache]:
        weights, cached = inputs
        normed = palm.rms_norm(x, weights["attention_norm"])
        q, k, v = (project(normed, weights[name], config) for name in ("wq", "wk", "wv"))
        new = {"keys": k, "values": v}
        x = attention_output(x, attend_step(q, cached, new, position), weights)
        return x + feed_forward(palm.rms_norm(x, weights["ffn_norm"]), weights), new

    x, new = lax.scan(layer, palm.embed(params, tokens[:, None]), (params["layers"], cache))
    return palm.unembed(params, x), write(cache, new, position)


def write(cache: Cache, new: Cache, position: Array) -> Cache:
    """Puts the new keys and values of all layers [layers, b, 1, h, d] into the cache at `position`."""
    start = (0, 0, position, 0, 0)
    update = functools.partial(lax.dynamic_update_slice, start_indices=start, allow_negative_indices=False)
    return {name: update(one, new[name]) for name, one in cache.items()}


def decode_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `decode`: params, cache, tokens, position."""
    tokens, position = ShapeDtypeStruct((batch,), "int32"), ShapeDtypeStruct((), "int32")
    return abstract_params(config), abstract_cache(config, batch, context), tokens, position


def prefill_inputs(config: Config, batch: int, length: int) -> tuple[Any, ...]:
    """The abstract arguments of `prefill`: params, tokens."""
    return abstract_params(config), ShapeDtypeStruct((batch, length), "int32")


def decode_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A decode step of any size: the function, and a function that gives its inputs."""
    return functools.partial(decode, config=config), functools.partial(decode_inputs, config, batch, context)


def prefill_target(config: Config, batch: int, length: int) -> tuple[Step, Inputs]:
    """A prefill of any size: the function, and a function that gives its inputs."""
    return functools.partial(prefill, config=config), functools.partial(prefill_inputs, config, batch, length)
