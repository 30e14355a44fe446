"""A decoder's train step in plain JAX, generic enough for the published measurements of dense models.

Pre-norm blocks scanned over stacked layers: grouped-query attention with rotary positions, then a
feed-forward with a gate (SwiGLU, Shazeer 2020, arXiv:2002.05202) or without; RMSNorm; a separate or tied
unembedding; cross-entropy. Weights and AdamW's two moments (Loshchilov and Hutter 2019, arXiv:1711.05101)
are float32, all matmuls bfloat16. Each block is rematerialised as `Config.remat` says.

Scores and softmax are float32, in the scope `KERNEL`: published runs have a flash kernel in their place, and
`bench.train_rows` prices what stands in this scope as one. Of n causal blocks of queries each sees the keys
up to its own end: (n+1)/2n of all scores are computed, as by a kernel that skips the blocks which the mask
hides whole.

Letters: b batch, l length, t context, e d_model, f d_ff, k key-value heads, g query heads to each of them,
d d_head, v vocab.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax
from jax.ad_checkpoint import checkpoint_name

Params = dict[str, Any]
Moments = tuple[Params, Params]
Remat = Literal["full", "minimal", "qkv"]
Activation = Literal["swiglu", "gelu", "relu"]

_RATE, _DECAY_FIRST, _DECAY_SECOND, _LEAST, _WEIGHT_DECAY = 1e-4, 0.9, 0.95, 1e-8, 0.1
KERNEL = "attention_kernel"
_KEPT = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Config:
    """Shapes of one decoder, and what its backward pass recomputes.

    Attributes:
        layers: Blocks.
        d_model: Width of the residual.
        d_ff: Width of the feed-forward.
        heads: Query heads.
        kv_heads: Key-value heads.
        d_head: Size of a head.
        vocab: Rows of the embedding.
        activation: Of the feed-forward; "swiglu" has a gate, and stands for any gate.
        tied: Whether the embedding is the unembedding.
        remat: "full" keeps a block's input alone, "qkv" also queries, keys and values, "minimal" the results
            of all matmuls with weights.
        causal_blocks: Blocks of queries; keys after a block are left out.
    """

    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv_heads: int
    d_head: int
    vocab: int
    activation: Activation = "swiglu"
    tied: bool = False
    remat: Remat = "full"
    causal_blocks: int = 1


def layer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """One block's weights; matrices are [in, out]."""
    e, f = config.d_model, config.d_ff
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    gate = {"w_gate": (e, f)} if config.activation == "swiglu" else {}
    return {
        "attention_norm": (e,),
        "wq": (e, q),
        "wk": (e, kv),
        "wv": (e, kv),
        "wo": (q, e),
        "ffn_norm": (e,),
        **gate,
        "w_up": (e, f),
        "w_down": (f, e),
    }


def abstract_params(config: Config) -> Params:
    """The parameters as float32 `ShapeDtypeStruct`s."""
    of = functools.partial(ShapeDtypeStruct, dtype="float32")
    layers = {name: of((config.layers, *shape)) for name, shape in layer_shapes(config).items()}
    tables = ("embed",) if config.tied else ("embed", "unembed")
    return {
        **{name: of((config.vocab, config.d_model)) for name in tables},
        "final_norm": of((config.d_model,)),
        "layers": layers,
    }


def train_step(
    params: Params, moments: Moments, tokens: Array, targets: Array, *, config: Config
) -> tuple[Array, Params, Moments]:
    """One step of AdamW, without the correction of its start: the loss, the parameters and the moments."""
    value, gradients = jax.value_and_grad(loss)(params, tokens, targets, config)
    first = jax.tree.map(functools.partial(_moment, decay=_DECAY_FIRST, power=1), moments[0], gradients)
    second = jax.tree.map(functools.partial(_moment, decay=_DECAY_SECOND, power=2), moments[1], gradients)
    return value, jax.tree.map(_moved, params, first, second), (first, second)


def loss(params: Params, tokens: Array, targets: Array, config: Config) -> Array:
    """Mean cross-entropy of `targets` [b, l], as a one-hot product so that no gather crosses the vocab."""
    logits = forward(params, tokens, config)
    shifted = logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    hot = targets[..., None] == jnp.arange(logits.shape[-1])
    return jnp.mean(total - jnp.sum(jnp.where(hot, shifted, 0.0), axis=-1))


def forward(params: Params, tokens: Array, config: Config) -> Array:
    """Logits [b, l, v] in float32 of every position of `tokens` [b, l]."""
    angles = rope_angles(tokens.shape[1], config.d_head)
    block = jax.checkpoint(functools.partial(_block, angles=angles, config=config), policy=_policy(config))
    x = jnp.take(params["embed"], tokens, axis=0, mode="clip").astype(jnp.bfloat16)
    x, _ = lax.scan(block, x, params["layers"])
    table = params["embed" if config.tied else "unembed"].astype(jnp.bfloat16)
    normed = rms_norm(x, params["final_norm"])
    return jnp.einsum("ble,ve->blv", normed, table, preferred_element_type=jnp.float32)


def _policy(config: Config) -> Any:
    if config.remat == "minimal":
        return jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    if config.remat == "qkv":
        return jax.checkpoint_policies.save_only_these_names(*_KEPT)
    return jax.checkpoint_policies.nothing_saveable


def _block(
    x: Array, weights: dict[str, Array], *, angles: tuple[Array, Array], config: Config
) -> tuple[Array, None]:
    weights = {name: w.astype(jnp.bfloat16) if w.ndim == 2 else w for name, w in weights.items()}
    with jax.named_scope("attention"):
        q, k, v = _project(rms_norm(x, weights["attention_norm"]), weights, angles, config)
        attended = _causal_attention(q, k, v, config)
        x = x + jnp.einsum("blq,qe->ble", attended.reshape(*x.shape[:2], -1), weights["wo"])
    with jax.named_scope("ffn"):
        normed = rms_norm(x, weights["ffn_norm"])
        up = jnp.einsum("ble,ef->blf", normed, weights["w_up"])
        if config.activation == "swiglu":
            gate = jnp.einsum("ble,ef->blf", normed, weights["w_gate"])
            up = gate * lax.logistic(gate) * up
        else:
            up = jax.nn.gelu(up) if config.activation == "gelu" else jax.nn.relu(up)
        return x + jnp.einsum("blf,fe->ble", up, weights["w_down"]), None


def _project(
    x: Array, weights: dict[str, Array], angles: tuple[Array, Array], config: Config
) -> tuple[Array, Array, Array]:
    """Queries [b, l, k, g, d], keys and values [b, l, k, d], with positions rotated in."""
    groups = config.heads // config.kv_heads
    q = jnp.einsum("ble,eq->blq", x, weights["wq"])
    k = jnp.einsum("ble,ek->blk", x, weights["wk"])
    v = jnp.einsum("ble,ek->blk", x, weights["wv"])
    q, k, v = (checkpoint_name(one, name) for one, name in zip((q, k, v), _KEPT, strict=True))
    cos, sin = (part[:, None, None, :] for part in angles)
    split = (*x.shape[:2], config.kv_heads)
    q = _rotate(q.reshape(*split, groups, config.d_head), cos, sin)
    k = _rotate(k.reshape(*split, 1, config.d_head), cos, sin)[:, :, :, 0]
    return q, k, v.reshape(*split, config.d_head)


def _causal_attention(q: Array, k: Array, v: Array, config: Config) -> Array:
    """Attention of q [b, l, k, g, d] over k and v [b, t, k, d], block by block of the queries."""
    size = q.shape[1] // config.causal_blocks
    ends = range(size, q.shape[1] + 1, size)
    with jax.named_scope(KERNEL):
        blocks = [_attention(q[:, end - size : end], k[:, :end], v[:, :end]) for end in ends]
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


@jax.checkpoint
def _attention(q: Array, k: Array, v: Array) -> Array:
    """Attention of the last l positions of t."""
    scores = jnp.einsum("blkgd,btkd->bklgt", q, k, preferred_element_type=jnp.float32)
    places = jnp.arange(k.shape[1] - q.shape[1], k.shape[1])
    scores = jnp.where(places[:, None, None] < jnp.arange(k.shape[1]), -1e30, scores)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.swapaxes(jnp.einsum("bklgt,btkd->bklgd", weights, v), 1, 2)


def rms_norm(x: Array, scale: Array) -> Array:
    """`x / rms(x) * scale` over the last dim, in float32."""
    wide = x.astype(jnp.float32)
    rms = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-5)
    return (wide * rms * scale).astype(x.dtype)


def rope_angles(length: int, d_head: int) -> tuple[Array, Array]:
    """Cosines and sines [l, d_head / 2] of rotary position embedding, Su et al. 2021, arXiv:2104.09864."""
    rates = 10_000.0 ** (jnp.arange(0, d_head, 2, dtype=jnp.float32) / -d_head)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * rates
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def _moment(old: Array, gradient: Array, *, decay: float, power: int) -> Array:
    mean: Array = decay * old + (1 - decay) * gradient**power
    return mean


def _moved(one: Array, first: Array, second: Array) -> Array:
    return one - _RATE * (first / (jnp.sqrt(second) + _LEAST) + _WEIGHT_DECAY * one)


def train_inputs(config: Config, batch: int, length: int) -> tuple[Any, ...]:
    """The abstract arguments of a step: params, moments, tokens, targets."""
    params = abstract_params(config)
    tokens = ShapeDtypeStruct((batch, length), "int32")
    return params, (params, params), tokens, tokens
