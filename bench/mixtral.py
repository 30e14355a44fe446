"""Mixtral 8x7B inference in plain JAX: Llama's blocks with a mixture of experts for the feed-forward.

Every token goes to the two experts whose gates are largest, and the two gates are a softmax among them (Jiang
et al. 2024, "Mixtral of Experts", arXiv:2401.04088, eq. 2 and table 1). Two forms of the mixture:

* `dispatched`, of a prefill: groups of tokens are sorted into places for each expert by one-hot products, as
  Lepikhin et al. 2020 (GShard, arXiv:2006.16668, algorithm 1) do. An expert has `capacity_factor` times the
  places that even routing fills; tokens beyond them skip that expert. The all-to-all of expert parallelism is
  then a reshard of the dispatched tokens, and nothing here says that it should be one.
* `every`, of a decode step: each expert computes all tokens, and gates of 0 leave out what was not chosen.
  Few tokens cost no time beside the weights, which have to be read anyway; nothing is dropped.

Attention, cache and embedding are `examples/llama.py`'s. Letters as there, n groups of s tokens of a
sequence, x experts, c places of an expert in a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from examples import llama
from examples.llama import Cache, Inputs, Layer, Params, Step

Mixture = Callable[[Array, Layer, "Config"], Array]


@dataclass(frozen=True, slots=True)
class Config(llama.Config):
    """A Llama with experts.

    Attributes:
        experts: Feed-forwards of a layer, two of which a token goes to.
        group: Tokens of a sequence that are dispatched together.
        capacity_factor: Places of an expert over those that even routing fills.
    """

    experts: int = 8
    group: int = 512
    capacity_factor: float = 1.25


MIXTRAL_8X7B = Config(layers=32, d_model=4096, d_ff=14_336, heads=32, vocab=32_000, rope_base=1e6)
TINY = Config(layers=2, d_model=64, d_ff=256, heads=16, d_head=16, vocab=256, query_chunk=8, group=8)

_CHOSEN = 2


def abstract_params(config: Config) -> Params:
    """The parameters: Llama's, but a feed-forward for each expert, and the router [e, x]."""
    params = llama.abstract_params(config)
    layers = dict(params["layers"])
    for name in ("w_gate", "w_up", "w_down"):
        stack, *matrix = layers[name].shape
        layers[name] = ShapeDtypeStruct((stack, config.experts, *matrix), config.dtype)
    layers["router"] = ShapeDtypeStruct((config.layers, config.d_model, config.experts), config.dtype)
    return {**params, "layers": layers}


def gates(x: Array, router: Array) -> Array:
    """Weights [..., x] of experts for tokens [..., e] in float32: two are above 0, and they add up to 1."""
    logits = jnp.einsum("...e,ex->...x", x, router, preferred_element_type=jnp.float32)
    first = jnp.max(logits, axis=-1, keepdims=True)
    second = jnp.max(jnp.where(logits < first, logits, -jnp.inf), axis=-1, keepdims=True)
    chosen = jnp.where(logits >= second, jnp.exp(logits - first), 0.0)
    return chosen / jnp.sum(chosen, axis=-1, keepdims=True)


def every(x: Array, weights: Layer, config: Config) -> Array:
    """The mixture for tokens [b, l, e], computed by every expert."""
    share = gates(x, weights["router"])
    gate = jnp.einsum("ble,xef->blxf", x, weights["w_gate"])
    up = jnp.einsum("ble,xef->blxf", x, weights["w_up"])
    hidden = gate * lax.logistic(gate) * up * share[..., None].astype(x.dtype)
    return jnp.einsum("blxf,xfe->ble", hidden, weights["w_down"])


def dispatched(x: Array, weights: Layer, config: Config) -> Array:
    """The mixture for tokens [b, l, e], each sent to its two experts where they have places left."""
    batch, length, width = x.shape
    size = min(config.group, length)
    if length % size:
        raise ValueError(f"{length} tokens are not whole groups of {size}: pad them to a multiple of {size}")
    tokens = x.reshape(batch, length // size, size, width)
    share = gates(tokens, weights["router"])
    taken = places(share > 0, capacity(config, size))
    sent = jnp.einsum("bnse,bnsxc->xbnce", tokens, taken.astype(x.dtype))
    gate = jnp.einsum("xbnce,xef->xbncf", sent, weights["w_gate"])
    up = jnp.einsum("xbnce,xef->xbncf", sent, weights["w_up"])
    done = jnp.einsum("xbncf,xfe->xbnce", gate * lax.logistic(gate) * up, weights["w_down"])
    combined = (taken * share[..., None]).astype(x.dtype)
    return jnp.einsum("xbnce,bnsxc->bnse", done, combined).reshape(x.shape)


def capacity(config: Config, size: int) -> int:
    """Places of an expert for a group of `size` tokens."""
    return min(size, round(config.capacity_factor * _CHOSEN * size / config.experts))


def places(chosen: Array, count: int) -> Array:
    """Which place a token has with each expert: `chosen` [b, n, s, x] to ones and zeros [b, n, s, x, c]."""
    before = jnp.cumsum(chosen.astype(jnp.int32), axis=2) - 1
    here = before[..., None] == jnp.arange(count)
    return (here & chosen[..., None]).astype(jnp.float32)


def join(x: Array, attended: Array, weights: Layer, mixture: Mixture, config: Config) -> Array:
    """The rest of a block: the attention's output, then the experts, each added to the residual."""
    batch, length, _ = x.shape
    with jax.named_scope("attention_output"):
        x = x + jnp.einsum("blq,qe->ble", attended.reshape(batch, length, -1), weights["wo"])
    with jax.named_scope("experts"):
        return x + mixture(llama.rms_norm(x, weights["ffn_norm"]), weights, config)


def prefill(params: Params, tokens: Array, *, config: Config) -> tuple[Array, Cache]:
    """Reads prompts `tokens` [b, l]; gives the last position's logits [b, v] and a cache of context l."""
    cos, sin = llama.rope_angles(jnp.arange(tokens.shape[1]), config)

    def block(x: Array, weights: Layer) -> tuple[Array, Layer]:
        with jax.named_scope("attention"):
            normed = llama.rms_norm(x, weights["attention_norm"])
            q, k, v = llama.project(normed, weights, cos, sin, config)
            attended = llama.chunked_attention(q, k, v, config)
        return join(x, attended, weights, dispatched, config), {"keys": k, "values": v}

    x, cache = lax.scan(block, llama.embed(params, tokens), params["layers"])
    return llama.unembed(params, x), cache


def decode(
    params: Params, cache: Cache, tokens: Array, position: Array, *, config: Config
) -> tuple[Array, Cache]:
    """Decodes one token more of every sequence, as `llama.decode` does."""
    cos, sin = llama.rope_angles(position[None], config)

    def block(x: Array, inputs: tuple[Layer, Layer]) -> tuple[Array, Layer]:
        weights, cached = inputs
        with jax.named_scope("attention"):
            normed = llama.rms_norm(x, weights["attention_norm"])
            q, k, v = llama.project(normed, weights, cos, sin, config)
            new = {"keys": k, "values": v}
            attended = llama.attention_step(q, cached, new, position)
        return join(x, attended, weights, every, config), new

    x, new = lax.scan(block, llama.embed(params, tokens[:, None]), (params["layers"], cache))
    write = functools.partial(llama.write, position=position)
    return llama.unembed(params, x), jax.tree.map(write, cache, new)


def decode_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `decode`: params, cache, tokens, position."""
    return abstract_params(config), *llama.decode_inputs(config, batch, context)[1:]


def prefill_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `prefill`: params, tokens."""
    return abstract_params(config), *llama.prefill_inputs(config, batch, context)[1:]


def decode_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A decode step of any size: the function, and a function that gives its inputs."""
    return functools.partial(decode, config=config), functools.partial(decode_inputs, config, batch, context)


def prefill_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A prefill of any size: the function, and a function that gives its inputs."""
    return functools.partial(prefill, config=config), functools.partial(
        prefill_inputs, config, batch, context
    )
