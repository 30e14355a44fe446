"""PaLM (8B, 62B, 540B) inference in plain JAX: prefill, and a decode step with a donated key-value cache.

One block is the paper's: multiquery attention and a SwiGLU feed-forward side by side on one norm,
`x + attention(norm(x)) @ wo + swiglu(norm(x)) @ w_down`, scanned over stacked layers.
Shapes after Pope et al. 2022, arXiv:2211.05102, appendix D.1 (540B), and the code released with it (8B, 62B);
letters: b batch, l length, t context, e d_model, f d_ff, h heads, d d_head, v vocab.

Nothing here says how to shard anything. `autoshard tune examples/palm.py:decode_540b --slice v4:4x4x4` does.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

import autoshard

Params = dict[str, Any]
Cache = dict[str, Any]
Step = Callable[..., tuple[Array, Cache]]
Inputs = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Config:
    """Shapes and number formats of one PaLM.

    `weight_dtype="int8"` stores the layers' matrices as int8 with one scale per output channel; the embedding
    and the norms stay in `dtype`, the format of the activations.
    """

    layers: int
    d_model: int
    d_ff: int
    heads: int
    d_head: int = 256
    vocab: int = 256_128
    dtype: str = "bfloat16"
    weight_dtype: str = "bfloat16"
    rope_base: float = 10_000.0
    query_chunk: int = 128


PALM_8B = Config(layers=32, d_model=4096, d_ff=16_384, heads=16)
PALM_62B = Config(layers=64, d_model=8192, d_ff=32_768, heads=32)
PALM_540B = Config(
    layers=118, d_model=18_432, d_ff=73_728, heads=64
)  # trained with 48, padded to 64 (section 4)
PALM_540B_INT8 = Config(layers=118, d_model=18_432, d_ff=73_728, heads=64, weight_dtype="int8")
TINY = Config(layers=2, d_model=64, d_ff=256, heads=8, d_head=16, vocab=256, query_chunk=8)


def matrix_shapes(config: Config) -> dict[str, tuple[int, int, int]]:
    """The layers' matrices [layers, in, out]; heads and d_head are one dim, which compiles best on TPU."""
    layers, e, f, d = config.layers, config.d_model, config.d_ff, config.d_head
    hd = config.heads * d
    return {
        "wq": (layers, e, hd),
        "wk": (layers, e, d),
        "wv": (layers, e, d),
        "wo": (layers, hd, e),
        "w_gate": (layers, e, f),
        "w_up": (layers, e, f),
        "w_down": (layers, f, e),
    }


def abstract_params(config: Config) -> Params:
    """The parameters as `ShapeDtypeStruct`s: instant, whatever the size."""
    layers: Params = {"norm": ShapeDtypeStruct((config.layers, config.d_model), config.dtype)}
    for name, shape in matrix_shapes(config).items():
        if config.weight_dtype == "int8":
            scale = ShapeDtypeStruct((shape[0], shape[2]), config.dtype)
            layers[name] = {"int8": ShapeDtypeStruct(shape, "int8"), "scale": scale}
        else:
            layers[name] = ShapeDtypeStruct(shape, config.weight_dtype)
    embed = ShapeDtypeStruct((config.vocab, config.d_model), config.dtype)
    final_norm = ShapeDtypeStruct((config.d_model,), config.dtype)
    return {"embed": embed, "final_norm": final_norm, "layers": layers}


def init_params(config: Config, seed: int = 0) -> Params:
    """Random parameters, for models small enough to run anywhere."""
    key, *keys = jax.random.split(jax.random.key(seed), 8)
    layers: Params = {"norm": jnp.ones((config.layers, config.d_model), config.dtype)}
    for (name, shape), matrix_key in zip(matrix_shapes(config).items(), keys, strict=True):
        matrix = jax.random.normal(matrix_key, shape) * shape[1] ** -0.5
        layers[name] = (
            quantize(matrix, config) if config.weight_dtype == "int8" else matrix.astype(config.weight_dtype)
        )
    embed = jax.random.normal(key, (config.vocab, config.d_model), config.dtype)
    return {"embed": embed, "final_norm": jnp.ones((config.d_model,), config.dtype), "layers": layers}


def quantize(matrix: Array, config: Config) -> Params:
    """Int8 with one scale per layer and output channel: `int8 * scale` is the matrix [layers, in, out]."""
    scale = (jnp.max(jnp.abs(matrix), axis=1) / 127).astype(config.dtype)
    steps = jnp.round(matrix / scale[:, None, :].astype(matrix.dtype))
    return {"int8": jnp.clip(steps, -127, 127).astype(jnp.int8), "scale": scale}


def abstract_cache(config: Config, batch: int, context: int) -> Cache:
    """The key-value cache as `ShapeDtypeStruct`s: keys and values, each [layers, batch, context, d_head]."""
    one = ShapeDtypeStruct((config.layers, batch, context, config.d_head), config.dtype)
    return {"keys": one, "values": one}


def matmul(equation: str, x: Array, weight: Array | Params) -> Array:
    """An einsum with a weight; an int8 one is converted on the way in, its scale applied on the way out."""
    if isinstance(weight, dict):
        scaled: Array = jnp.einsum(equation, x, weight["int8"].astype(x.dtype)) * weight["scale"]
        return scaled
    return jnp.einsum(equation, x, weight)


def rms_norm(x: Array, scale: Array) -> Array:
    """`x / rms(x) * scale` over the last dim, in float32."""
    wide = x.astype(jnp.float32)
    rms = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)
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
    """Multiquery attention: q [b, l, h, d] over keys and values [b, t, d], softmax in float32.

    `mask` [l, t] is added to the scores: 0 where a query may look, hugely negative where not.
    """
    scores = jnp.einsum("blhd,btd->blht", q, keys, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5 + mask[:, None, :]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.einsum("blht,btd->blhd", weights.astype(values.dtype), values)


def attention_step(q: Array, cached: Cache, new: Cache, position: Array) -> Array:
    """Attention of one new token per sequence: over what is cached before `position`, and over itself.

    The cache is only read here, [b, t, d], and the new key and value [b, 1, d] stand beside it: so a layer
    need not write its cache before it reads it, and the step writes all layers at once at its end.
    """
    scale = q.shape[-1] ** -0.5
    before = jnp.where(jnp.arange(cached["keys"].shape[1]) < position, 0.0, -1e30)
    past = jnp.einsum("blhd,btd->blht", q, cached["keys"], preferred_element_type=jnp.float32)
    own = jnp.einsum("blhd,bsd->blhs", q, new["keys"], preferred_element_type=jnp.float32) * scale
    past = past * scale + before
    top = jnp.maximum(jnp.max(past, axis=-1, keepdims=True), own)
    past, own = jnp.exp(past - top), jnp.exp(own - top)
    total = jnp.sum(past, axis=-1, keepdims=True) + own
    attended = jnp.einsum("blht,btd->blhd", (past / total).astype(q.dtype), cached["values"])
    joined: Array = attended + (own / total).astype(q.dtype) * new["values"][:, :, None, :]
    return joined


def causal_mask(queries: Array, context: int) -> Array:
    """[l, t]: 0 up to each query's own position, -1e30 after it."""
    return jnp.where(jnp.arange(context) <= queries[:, None], 0.0, -1e30)


def chunked_attention(q: Array, keys: Array, values: Array, config: Config) -> Array:
    """Causal attention of a whole prompt, some `query_chunk` queries at a time, so that long prompts fit.

    Chunk i holds the queries i, i + n, i + 2n, ...: so every chunk keeps the sharding of the length.
    """
    batch, length, h, d = q.shape
    n = max(1, length // config.query_chunk)
    if length % n:
        raise ValueError(f"{length} tokens do not split into {n} equal chunks: pad them to a multiple of {n}")
    chunks = jnp.transpose(q.reshape(batch, length // n, n, h, d), (2, 0, 1, 3, 4))

    def attend(chunk: tuple[Array, Array]) -> Array:
        index, queries = chunk
        return attention(queries, keys, values, causal_mask(jnp.arange(length // n) * n + index, length))

    attended = lax.map(attend, (jnp.arange(n), chunks))
    return jnp.transpose(attended, (1, 2, 0, 3, 4)).reshape(batch, length, h, d)


def project(x: Array, weights: Params, cos: Array, sin: Array, config: Config) -> tuple[Array, Array, Array]:
    """Gives queries [b, l, h, d] and new keys and values [b, l, d], with positions rotated in."""
    batch, length, _ = x.shape
    q = matmul("ble,eq->blq", x, weights["wq"]).reshape(batch, length, config.heads, config.d_head)
    k = matmul("ble,ed->bld", x, weights["wk"])
    v = matmul("ble,ed->bld", x, weights["wv"])
    return rotate(q, cos[:, None, :], sin[:, None, :]), rotate(k, cos, sin), v


def output(x: Array, normed: Array, attended: Array, weights: Params) -> Array:
    """The end of the parallel block: both branches meet before they join the residual stream."""
    batch, length, h, d = attended.shape
    with jax.named_scope("ffn"):
        gate = matmul("ble,ef->blf", normed, weights["w_gate"])
        up = matmul("ble,ef->blf", normed, weights["w_up"])
        fed = matmul("blf,fe->ble", gate * lax.logistic(gate) * up, weights["w_down"])
    with jax.named_scope("attention_output"):
        return x + (fed + matmul("blq,qe->ble", attended.reshape(batch, length, h * d), weights["wo"]))


def embed(params: Params, tokens: Array) -> Array:
    """Tokens [b, l] to activations [b, l, e]."""
    return jnp.take(params["embed"], tokens, axis=0, mode="clip")


def unembed(params: Params, x: Array) -> Array:
    """The last position's logits [b, v] in float32, by the tied embedding, scaled by d_model ** -0.5."""
    last = rms_norm(lax.index_in_dim(x, x.shape[1] - 1, axis=1, keepdims=False), params["final_norm"])
    logits = jnp.einsum("be,ve->bv", last, params["embed"], preferred_element_type=jnp.float32)
    return logits * (1 / math.sqrt(x.shape[-1]))


def prefill(params: Params, tokens: Array, *, config: Config) -> tuple[Array, Cache]:
    """Reads prompts `tokens` [b, l]; gives the last position's logits [b, v] and a cache of context l."""
    cos, sin = rope_angles(jnp.arange(tokens.shape[1]), config)

    def layer(x: Array, weights: Params) -> tuple[Array, Cache]:
        normed = rms_norm(x, weights["norm"])
        with jax.named_scope("attention"):
            q, k, v = project(normed, weights, cos, sin, config)
            attended = chunked_attention(q, k, v, config)
        return output(x, normed, attended, weights), {"keys": k, "values": v}

    x, cache = lax.scan(layer, embed(params, tokens), params["layers"])
    return unembed(params, x), cache


def grow(cache: Cache, context: int) -> Cache:
    """A prefilled cache with room up to `context`, for decode steps to follow."""
    room = context - cache["keys"].shape[2]
    return {name: jnp.pad(one, ((0, 0), (0, 0), (0, room), (0, 0))) for name, one in cache.items()}


def decode(
    params: Params, cache: Cache, tokens: Array, position: Array, *, config: Config
) -> tuple[Array, Cache]:
    """Decodes one token more of every sequence; `tokens` [b] stand at `position`, a scalar int32 for all.

    Gives the logits [b, v] and the cache with the new keys and values in it. The layers only read the cache;
    what they add is written at the end with one `dynamic_update_slice`: a donated cache is updated in place.
    """
    cos, sin = rope_angles(position[None], config)

    def layer(x: Array, inputs: tuple[Params, Cache]) -> tuple[Array, Cache]:
        weights, cached = inputs
        normed = rms_norm(x, weights["norm"])
        with jax.named_scope("attention"):
            q, k, v = project(normed, weights, cos, sin, config)
            new = {"keys": k, "values": v}
            attended = attention_step(q, cached, new, position)
        return output(x, normed, attended, weights), new

    x, new = lax.scan(layer, embed(params, tokens[:, None]), (params["layers"], cache))
    return unembed(params, x), write(cache, new, position)


def write(cache: Cache, new: Cache, position: Array) -> Cache:
    """Puts the new keys and values of all layers [layers, b, 1, d] into the cache at `position`."""
    start = (0, 0, position, 0)
    update = functools.partial(lax.dynamic_update_slice, start_indices=start, allow_negative_indices=False)
    return {name: update(one, new[name]) for name, one in cache.items()}


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


# `autoshard tune examples/palm.py:NAME --slice CHIP:TOPOLOGY` plans these; untuned they are plain `jax.jit`.


@autoshard.jit(
    plan="plans/palm_tiny_decode.cpu-8.json",
    inputs=lambda: decode_inputs(TINY, batch=8, context=32),
    donate_argnames=("cache",),
)
def decode_tiny(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """8 sequences of context 32: small enough for eight CPU devices."""
    return decode(params, cache, tokens, position, config=TINY)


@autoshard.jit(
    plan="plans/palm_8b_decode.v5e-2x4.json",
    inputs=lambda: decode_inputs(PALM_8B, batch=512, context=2048),
    donate_argnames=("cache",),
)
def decode_8b(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """512 sequences of context 2048."""
    return decode(params, cache, tokens, position, config=PALM_8B)


@autoshard.jit(
    plan="plans/palm_62b_decode.v4-2x2x2.json",
    inputs=lambda: decode_inputs(PALM_62B, batch=512, context=2048),
    donate_argnames=("cache",),
)
def decode_62b(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """512 sequences of context 2048: table 3 of the paper, high throughput."""
    return decode(params, cache, tokens, position, config=PALM_62B)


@autoshard.jit(
    plan="plans/palm_540b_decode.v4-4x4x4.json",
    inputs=lambda: decode_inputs(PALM_540B, batch=512, context=2048),
    donate_argnames=("cache",),
)
def decode_540b(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """512 sequences of context 2048: table 2 of the paper, high throughput."""
    return decode(params, cache, tokens, position, config=PALM_540B)


@autoshard.jit(
    plan="plans/palm_540b_int8_decode.v4-4x4x4.json",
    inputs=lambda: decode_inputs(PALM_540B_INT8, batch=64, context=2048),
    donate_argnames=("cache",),
)
def decode_540b_int8(params: Params, cache: Cache, tokens: Array, position: Array) -> tuple[Array, Cache]:
    """64 sequences of context 2048, int8 weights: table 2 of the paper, low latency."""
    return decode(params, cache, tokens, position, config=PALM_540B_INT8)


@autoshard.jit(
    plan="plans/palm_tiny_prefill.cpu-8.json",
    inputs=lambda: prefill_inputs(TINY, batch=8, context=32),
)
def prefill_tiny(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """8 prompts of 32 tokens: small enough for eight CPU devices."""
    return prefill(params, tokens, config=TINY)


@autoshard.jit(
    plan="plans/palm_8b_prefill.v5e-2x4.json",
    inputs=lambda: prefill_inputs(PALM_8B, batch=64, context=2048),
)
def prefill_8b(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """64 prompts of 2048 tokens."""
    return prefill(params, tokens, config=PALM_8B)


@autoshard.jit(
    plan="plans/palm_62b_prefill.v4-2x4x4.json",
    inputs=lambda: prefill_inputs(PALM_62B, batch=512, context=2048),
)
def prefill_62b(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """512 prompts of 2048 tokens: table 3 of the paper, high throughput."""
    return prefill(params, tokens, config=PALM_62B)


@autoshard.jit(
    plan="plans/palm_540b_prefill.v4-4x4x4.json",
    inputs=lambda: prefill_inputs(PALM_540B, batch=512, context=2048),
)
def prefill_540b(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """512 prompts of 2048 tokens: table 2 of the paper, high throughput."""
    return prefill(params, tokens, config=PALM_540B)


@autoshard.jit(
    plan="plans/palm_540b_prefill_single.v4-4x4x4.json",
    inputs=lambda: prefill_inputs(PALM_540B, batch=1, context=2048),
)
def prefill_540b_single(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """One prompt of 2048 tokens."""
    return prefill(params, tokens, config=PALM_540B)


@autoshard.jit(
    plan="plans/palm_540b_int8_prefill_single.v4-4x4x4.json",
    inputs=lambda: prefill_inputs(PALM_540B_INT8, batch=1, context=2048),
)
def prefill_540b_int8_single(params: Params, tokens: Array) -> tuple[Array, Cache]:
    """One prompt of 2048 tokens, int8 weights: table 2 of the paper, low latency."""
    return prefill(params, tokens, config=PALM_540B_INT8)
