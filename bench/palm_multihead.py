"""PaLM's decode step with multihead attention: every query head has a key and a value head of its own.

The variant of which Pope et al. 2022 (arXiv:2211.05102, sec. 4.2, table 1 and fig. 8) say how little context
it can hold: with d_head 128 instead of 256 its attention has as many parameters as the multiquery model.
Everything but the key-value heads is `examples/palm.py`. Letters as there, h also the key-value heads.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from bench import mtnlg
from examples import palm
from examples.palm import Cache, Config, Inputs, Params, Step

PALM_540B_MULTIHEAD = Config(layers=118, d_model=18_432, d_ff=73_728, heads=64, d_head=128)


def abstract_params(config: Config) -> Params:
    """The parameters: those of PaLM, but the key and value matrices are as wide as the queries'."""
    params = palm.abstract_params(config)
    layers = {**params["layers"], "wk": params["layers"]["wq"], "wv": params["layers"]["wq"]}
    return {**params, "layers": layers}


def abstract_cache(config: Config, batch: int, context: int) -> Cache:
    """Keys and values, each [layers, b, h, t, d]."""
    one = ShapeDtypeStruct((config.layers, batch, config.heads, context, config.d_head), config.dtype)
    return {"keys": one, "values": one}


def decode(
    params: Params, cache: Cache, tokens: Array, position: Array, *, config: Config
) -> tuple[Array, Cache]:
    """Decodes one token more of every sequence, as `palm.decode` does."""
    cos, sin = palm.rope_angles(position[None], config)

    def layer(x: Array, inputs: tuple[Params, Cache]) -> tuple[Array, Cache]:
        weights, cached = inputs
        normed = palm.rms_norm(x, weights["norm"])
        with jax.named_scope("attention"):
            q, k, v = (mtnlg.project(normed, weights[name], config) for name in ("wq", "wk", "wv"))
            q, k = (palm.rotate(one, cos[:, None, :], sin[:, None, :]) for one in (q, k))
            new = {"keys": jnp.swapaxes(k, 1, 2), "values": jnp.swapaxes(v, 1, 2)}
            attended = attention_step(q, cached, new, position)
        return palm.output(x, normed, attended, weights), new

    x, new = lax.scan(layer, palm.embed(params, tokens[:, None]), (params["layers"], cache))
    return palm.unembed(params, x), write(cache, new, position)


def attention_step(q: Array, cached: Cache, new: Cache, position: Array) -> Array:
    """Attention of one new token [b, 1, h, d] over the cache [b, h, t, d] and over itself [b, h, 1, d]."""
    scale = q.shape[-1] ** -0.5
    before = jnp.where(jnp.arange(cached["keys"].shape[2]) < position, 0.0, -1e30)
    past = jnp.einsum("blhd,bhtd->blht", q, cached["keys"], preferred_element_type=jnp.float32)
    own = jnp.einsum("blhd,bhsd->blhs", q, new["keys"], preferred_element_type=jnp.float32) * scale
    past = past * scale + before
    top = jnp.maximum(jnp.max(past, axis=-1, keepdims=True), own)
    past, own = jnp.exp(past - top), jnp.exp(own - top)
    total = jnp.sum(past, axis=-1, keepdims=True) + own
    attended = jnp.einsum("blht,bhtd->blhd", (past / total).astype(q.dtype), cached["values"])
    joined: Array = attended + (own / total).astype(q.dtype) * jnp.swapaxes(new["values"], 1, 2)
    return joined


def write(cache: Cache, new: Cache, position: Array) -> Cache:
    """Puts the new keys and values of all layers [layers, b, h, 1, d] into the cache at `position`."""
    start = (0, 0, 0, position, 0)
    update = functools.partial(lax.dynamic_update_slice, start_indices=start, allow_negative_indices=False)
    return {name: update(one, new[name]) for name, one in cache.items()}


def decode_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `decode`: params, cache, tokens, position."""
    tokens, position = ShapeDtypeStruct((batch,), "int32"), ShapeDtypeStruct((), "int32")
    return abstract_params(config), abstract_cache(config, batch, context), tokens, position


def decode_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A decode step of any size: the function, and a function that gives its inputs."""
    return functools.partial(decode, config=config), functools.partial(decode_inputs, config, batch, context)
