"""Llama 3 (8B, 70B) inference in plain JAX: prefill, and a decode step with a donated key-value cache.

A block is serial: grouped-query attention after one norm, then a SwiGLU feed-forward after another.
`Config.scan_layers` picks the form of the program: one scan over stacked layers, or the layers written out.
Shapes: Grattafiori et al. 2024, "The Llama 3 Herd of Models", arXiv:2407.21783, table 3; letters: b batch,
l length, t context, e d_model, f d_ff, k key-value heads, g query heads to each of them, d d_head, v vocab.

Nothing here says how to shard anything. `autoshard tune examples/llama.py:decode_8b --slice v5e:2x4` does.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

import autoshard

Params = dict[str, Any]
Layer = dict[str, Array]
Cache = Any  # {"keys": array, "values": array} with stacked layers, or one such dict for every layer
Step = Callable[..., tuple[Array, Cache]]
Inputs = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Config:
    """Shapes and number format of one Llama, and whether its layers are scanned or written out."""

    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv_heads: int = 8
    d_head: int = 128
    vocab: int = 128_256
    dtype: str = "bfloat16"
    rope_base: float = 500_000.0
    query_chunk: int = 128
    scan_layers: bool = True


LLAMA3_8B = Config(layers=32, d_model=4096, d_ff=14_336, heads=32)
LLAMA3_8B_UNROLLED = Config(layers=32, d_model=4096, d_ff=14_336, heads=32, scan_layers=False)
LLAMA3_70B = Config(layers=80, d_model=8192, d_ff=28_672, heads=64)
TINY = Config(layers=2, d_model=64, d_ff=256, heads=16, d_head=16, vocab=256, query_chunk=8)


def layer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """One layer's weights; matrices are [in, out], heads and d_head one dim, which compiles best on TPU."""
    e, f = config.d_model, config.d_ff
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    return {
        "attention_norm": (e,),
        "wq": (e, q),
        "wk": (e, kv),
        "wv": (e, kv),
        "wo": (q, e),
        "ffn_norm": (e,),
        "w_gate": (e, f),
        "w_up": (e, f),
        "w_down": (f, e),
    }


def abstract_params(config: Config) -> Params:
    """The parameters as `ShapeDtypeStruct`s: instant, whatever the size."""
    of = functools.partial(ShapeDtypeStruct, dtype=config.dtype)
    stack = (config.layers,) if config.scan_layers else ()
    layer = {name: of((*stack, *shape)) for name, shape in layer_shapes(config).items()}
    return {
        "embed": of((config.vocab, config.d_model)),
        "final_norm": of((config.d_model,)),
        "layers": layer if config.scan_layers else [layer] * config.layers,
        "unembed": of((config.vocab, config.d_model)),
    }


def init_params(config: Config, seed: int = 0) -> Params:
    """Random parameters, for models small enough to run anywhere; scanned or not, a seed gives the same."""
    first, last, *keys = jax.random.split(jax.random.key(seed), 2 + config.layers)
    layers = [init_layer(config, key) for key in keys]
    table = (config.vocab, config.d_model)
    return {
        "embed": jax.random.normal(first, table, config.dtype),
        "final_norm": jnp.ones((config.d_model,), config.dtype),
        "layers": jax.tree.map(lambda *each: jnp.stack(each), *layers) if config.scan_layers else layers,
        "unembed": (jax.random.normal(last, table) * config.d_model**-0.5).astype(config.dtype),
    }


def init_layer(config: Config, key: Array) -> Layer:
    """One layer's random weights: ones for the norms, variance 1 / in for the matrices."""
    shapes = layer_shapes(config)
    return {
        name: jnp.ones(shape, config.dtype)
        if len(shape) == 1
        else (jax.random.normal(one, shape) * shape[0] ** -0.5).astype(config.dtype)
        for (name, shape), one in zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True)
    }


def abstract_cache(config: Config, batch: int, context: int) -> Cache:
    """The key-value cache as `ShapeDtypeStruct`s: keys and values [layers, b, k, t, d], or layer by layer."""
    stack = (config.layers,) if config.scan_layers else ()
    one = ShapeDtypeStruct((*stack, batch, config.kv_heads, context, config.d_head), config.dtype)
    layer = {"keys": one, "values": one}
    return layer if config.scan_layers else [layer] * config.layers


def rms_norm(x: Array, scale: Array) -> Array:
    """`x / rms(x) * scale` over the last dim, in float32."""
    wide = x.astype(jnp.float32)
    rms = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-5)
    return (wide * rms).astype(x.dtype) * scale


def rope_angles(positions: Array, config: Config) -> tuple[Array, Array]:
    """Cosines and sines [l, d_head / 2] of rotary position embedding."""
    rates = config.rope_base ** (jnp.arange(0, config.d_head, 2, dtype=jnp.float32) / -config.d_head)
    angles = positions.astype(jnp.float32)[:, None] * rates
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates the two halves of the last dim against each other; `cos` and `sin` broadcast to a half."""
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def attention(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Grouped-query attention: q [b, l, k, g, d] over keys and values [b, k, t, d], softmax in float32.

    `mask` [l, t] is added to the scores: 0 where a query may look, hugely negative where not.
    """
    scores = jnp.einsum("blkgd,bktd->bklgt", q, keys, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5 + mask[:, None, :]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.swapaxes(jnp.einsum("bklgt,bktd->bklgd", weights.astype(values.dtype), values), 1, 2)


def attention_step(q: Array, cached: Layer, new: Layer, position: Array) -> Array:
    """Attention of one new token per sequence: over what is cached before `position`, and over itself.

    The cache is only read here, [b, k, t, d], and the new key and value [b, k, 1, d] stand beside it: so a
    layer need not write its cache before it reads it, and the step writes at its end.
    """
    scale = q.shape[-1] ** -0.5
    before = jnp.where(jnp.arange(cached["keys"].shape[2]) < position, 0.0, -1e30)
    past = jnp.einsum("blkgd,bktd->bklgt", q, cached["keys"], preferred_element_type=jnp.float32)
    own = jnp.einsum("blkgd,bksd->bklgs", q, new["keys"], preferred_element_type=jnp.float32) * scale
    past = past * scale + before
    top = jnp.maximum(jnp.max(past, axis=-1, keepdims=True), own)
    past, own = jnp.exp(past - top), jnp.exp(own - top)
    total = jnp.sum(past, axis=-1, keepdims=True) + own
    attended = jnp.einsum("bklgt,bktd->bklgd", (past / total).astype(q.dtype), cached["values"])
    attended = attended + (own / total).astype(q.dtype) * new["values"][:, :, :, None, :]
    return jnp.swapaxes(attended, 1, 2)


def causal_mask(queries: Array, context: int) -> Array:
    """[l, t]: 0 up to each query's own position, -1e30 after it."""
    return jnp.where(jnp.arange(context) <= queries[:, None], 0.0, -1e30)


def chunked_attention(q: Array, keys: Array, values: Array, config: Config) -> Array:
    """Causal attention of a whole prompt, some `query_chunk` queries at a time, so that long prompts fit.

    Chunk i holds the queries i, i + n, i + 2n, ...: so every chunk keeps the sharding of the length.
    """
    batch, length, *heads = q.shape
    n = max(1, length // config.query_chunk)
    if length % n:
        raise ValueError(f"{length} tokens do not split into {n} equal chunks: pad them to a multiple of {n}")
    chunks = jnp.transpose(q.reshape(batch, length // n, n, *heads), (2, 0, 1, 3, 4, 5))

    def attend(chunk: tuple[Array, Array]) -> Array:
        index, queries = chunk
        return attention(queries, keys, values, causal_mask(jnp.arange(length // n) * n + index, length))

    attended = lax.map(attend, (jnp.arange(n), chunks))
    return jnp.transpose(attended, (1, 2, 0, 3, 4, 5)).reshape(q.shape)


def project(x: Array, weights: Layer, cos: Array, sin: Array, config: Config) -> tuple[Array, Array, Array]:
    """Gives queries [b, l, k, g, d] and new keys and values [b, k, l, d], with positions rotated in."""
    batch, length, _ = x.shape
    kv_heads, d = config.kv_heads, config.d_head
    q = jnp.einsum("ble,eq->blq", x, weights["wq"]).reshape(
        batch, length, kv_heads, config.heads // kv_heads, d
    )
    k = jnp.einsum("ble,ek->blk", x, weights["wk"]).reshape(batch, length, kv_heads, d)
    v = jnp.einsum("ble,ek->blk", x, weights["wv"]).reshape(batch, length, kv_heads, d)
    q = rotate(q, cos[:, None, None, :], sin[:, None, None, :])
    k = rotate(k, cos[:, None, :], sin[:, None, :])
    return q, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)


def join(x: Array, attended: Array, weights: Layer) -> Array:
    """The rest of a block: the attention's output, then the feed-forward, each added to the residual."""
    batch, length, _ = x.shape
    with jax.named_scope("attention_output"):
        x = x + jnp.einsum("blq,qe->ble", attended.reshape(batch, length, -1), weights["wo"])
    with jax.named_scope("ffn"):
        normed = rms_norm(x, weights["ffn_norm"])
        gate = jnp.einsum("ble,ef->blf", normed, weights["w_gate"])
        up = jnp.einsum("ble,ef->blf", normed, weights["w_up"])
        return x + jnp.einsum("blf,fe->ble", gate * lax.logistic(gate) * up, weights["w_down"])


def embed(params: Params, tokens: Array) -> Array:
    """Tokens [b, l] to activations [b, l, e]."""
    return jnp.take(params["embed"], tokens, axis=0, mode="clip")


def unembed(params: Params, x: Array) -> Array:
    """The last position's logits [b, v] in float32."""
    last = rms_norm(lax.index_in_dim(x, x.shape[1] - 1, axis=1, keepdims=False), params["final_norm"])
    return jnp.einsum("be,ve->bv", last, params["unembed"], preferred_element_type=jnp.float32)


def prefill(params: Params, tokens: Array, *, config: Config) -> tuple[Array, Cache]:
    """Reads prompts `tokens` [b, l]; gives the last position's logits [b, v] and a cache of context l."""
    cos, sin = rope_angles(jnp.arange(tokens.shape[1]), config)

    def block(x: Array, weights: Layer) -> tuple[Array, Layer]:
        with jax.named_scope("attention"):
            q, k, v = project(rms_norm(x, weights["attention_norm"]), weights, cos, sin, config)
            attended = chunked_attention(q, k, v, config)
        return join(x, attended, weights), {"keys": k, "values": v}

    x = embed(params, tokens)
    if config.scan_layers:
        x, cache = lax.scan(block, x, params["layers"])
        return unembed(params, x), cache
    caches = []
    for weights in params["layers"]:
        x, layer_cache = block(x, weights)
        caches.append(layer_cache)
    return unembed(params, x), caches


def grow(cache: Cache, context: int) -> Cache:
    """A prefilled cache with room up to `context`, for decode steps to follow."""

    def pad(one: Array) -> Array:
        room = [(0, 0), (0, 0), (0, context - one.shape[-2]), (0, 0)]
        return jnp.pad(one, [(0, 0)] * (one.ndim - 4) + room)

    return jax.tree.map(pad, cache)


def decode(
    params: Params, cache: Cache, tokens: Array, position: Array, *, config: Config
) -> tuple[Array, Cache]:
    """Decodes one token more of every sequence; `tokens` [b] stand at `position`, a scalar int32 for all.

    Gives the logits [b, v] and the cache with the new keys and values in it. The layers only read the cache;
    what they add is written at the end with `dynamic_update_slice`: a donated cache is updated in place.
    """
    cos, sin = rope_angles(position[None], config)

    def block(x: Array, inputs: tuple[Layer, Layer]) -> tuple[Array, Layer]:
        weights, cached = inputs
        with jax.named_scope("attention"):
            q, k, v = project(rms_norm(x, weights["attention_norm"]), weights, cos, sin, config)
            new = {"keys": k, "values": v}
            attended = attention_step(q, cached, new, position)
        return join(x, attended, weights), new

    x = embed(params, tokens[:, None])
    new: Cache = []
    if config.scan_layers:
        x, new = lax.scan(block, x, (params["layers"], cache))
    else:
        for inputs in zip(params["layers"], cache, strict=True):
            x, layer_new = block(x, inputs)
            new.append(layer_new)
    return unembed(params, x), jax.tree.map(functools.partial(write, position=position), cache, new)


def write(cache: Array, new: Array, position: Array) -> Array:
    """Puts new keys or values [..., b, k, 1, d] into a cache at `position`."""
    start: tuple[Any, ...] = (*(0,) * (cache.ndim - 2), position, 0)
    return lax.dynamic_update_slice(cache, new, start, allow_negative_indices=False)


def decode_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `decode`: params, cache, tokens, position."""
    tokens, position = ShapeDtypeStruct((batch,), "int32"), ShapeDtypeStruct((), "int32")
    return abstract_params(config), abstract_cache(config, batch, context), tokens, position


def prefill_inputs(config: Config, batch: int, context: int) -> tuple[Any, ...]:
    """The abstract arguments of `prefill`: params, tokens."""
    return abstract_params(config), ShapeDtypeStruct((batch, context), "int32")


def decode_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A decode step of any size: the undecorated function, and a function that gives its inputs."""
    return functools.partial(decode, config=config), functools.partial(decode_inputs, config, batch, context)


def prefill_target(config: Config, batch: int, context: int) -> tuple[Step, Inputs]:
    """A prefill of any size: the undecorated function, and a function that gives its inputs."""
    return functools.partial(prefill, config=config), functools.partial(
        prefill_inputs, config, batch, context
    )


# `autoshard tune examples/llama.py:NAME --slice CHIP:TOPOLOGY` plans these; untuned they are plain `jax.jit`.


@autoshard.jit(
    plan="plans/llama_tiny_decode.cpu-8.json",
    inputs=lambda: decode_inputs(TINY, batch=8, context=32),
    donate_argnames=("cache",),
)
def decode_tiny(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """8 sequences of context 32: small enough for eight CPU devices."""
    return decode(params, cache, tokens, position, config=TINY)


@autoshard.jit(
    plan="plans/llama3_8b_decode.v5e-2x4.json",
    inputs=lambda: decode_inputs(LLAMA3_8B, batch=32, context=4096),
    donate_argnames=("cache",),
)
def decode_8b(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """32 sequences of context 4096: 3.9 of 15.75 GiB a chip on v5e:2x4, half of it cache."""
    return decode(params, cache, tokens, position, config=LLAMA3_8B)


@autoshard.jit(
    plan="plans/llama3_8b_unrolled_decode.v5e-2x4.json",
    inputs=lambda: decode_inputs(LLAMA3_8B_UNROLLED, batch=32, context=4096),
    donate_argnames=("cache",),
)
def decode_8b_unrolled(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """The same step as `decode_8b` with its 32 layers written out."""
    return decode(params, cache, tokens, position, config=LLAMA3_8B_UNROLLED)


@autoshard.jit(
    plan="plans/llama3_70b_decode.v5e-4x4.json",
    inputs=lambda: decode_inputs(LLAMA3_70B, batch=32, context=4096),
    donate_argnames=("cache",),
)
def decode_70b(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """32 sequences of context 4096: 10.7 of 15.75 GiB a chip on v5e:4x4."""
    return decode(params, cache, tokens, position, config=LLAMA3_70B)


@autoshard.jit(
    plan="plans/llama_tiny_prefill.cpu-8.json",
    inputs=lambda: prefill_inputs(TINY, batch=8, context=32),
)
def prefill_tiny(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """8 prompts of 32 tokens: small enough for eight CPU devices."""
    return prefill(params, tokens, config=TINY)


@autoshard.jit(
    plan="plans/llama3_8b_prefill.v5e-2x4.json",
    inputs=lambda: prefill_inputs(LLAMA3_8B, batch=8, context=4096),
)
def prefill_8b(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """8 prompts of 4096 tokens."""
    return prefill(params, tokens, config=LLAMA3_8B)


@autoshard.jit(
    plan="plans/llama3_70b_prefill.v5e-4x4.json",
    inputs=lambda: prefill_inputs(LLAMA3_70B, batch=8, context=4096),
)
def prefill_70b(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """8 prompts of 4096 tokens."""
    return prefill(params, tokens, config=LLAMA3_70B)
