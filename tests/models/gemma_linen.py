"""Gemma 2 27B by Google DeepMind's `gemma`: linen, the whole model inside one `jit`.

Logits are soft-capped, and layers with a sliding window alternate with global ones.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from gemma import gm
from kauldron import kd

from tests.models.case import Case, Program

# What kauldron 1.4 renamed: gemma 3.3.0 subclasses it where it loads checkpoints, and `gm` imports
# its parts when they are first used.
kd.ckpts.AbstractPartialLoader = kd.ckpts.InitTransform

REDUCED_CONFIG = dataclasses.replace(
    gm.nn.Gemma2_27B.config,
    num_embed=256,
    embed_dim=64,
    hidden_dim=128,
    num_heads=8,
    head_dim=16,
    num_kv_heads=4,
    attention_types=gm.nn.Gemma2_27B.config.attention_types[:2],
    sliding_window_size=8,
)
OPTIMIZER = optax.adamw(1e-4)


def decode(model: gm.nn.Transformer, params: Any, cache: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """One token for each sequence, as the step of `gm.text.Sampler` calls the model."""
    output = model.apply({"params": params}, cache=cache, **inputs)
    return output.logits, output.cache


def train_step(model: gm.nn.Transformer, params: Any, opt_state: Any, batch: Any) -> tuple[Any, Any, Any]:
    """One step of AdamW."""

    def loss_of(params: Any) -> Any:
        logits = model.apply({"params": params}, batch["input"]).logits.astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"]).mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def tokens_of(model: gm.nn.Transformer, key: jax.Array, batch: int, length: int) -> jax.Array:
    """Made-up tokens, none of which is padding (0)."""
    return jax.random.randint(key, (batch, length), 1, model.config.num_embed)


def decode_arguments(model: gm.nn.Transformer, batch: int, length: int, key: jax.Array) -> tuple[Any, ...]:
    """Arguments of `decode` for caches of `length` positions, three quarters of them used."""
    tokens, position = tokens_of(model, key, batch, 1), 3 * length // 4
    cache = model.config.init_cache(batch, model.dtype, cache_length=length)
    for layer in cache.values():
        for name in ("k", "v"):
            layer[name] = jax.random.normal(key, layer[name].shape, model.dtype)
        layer["end_index"] += position
        layer["positions"] += jnp.arange(length)
    inputs = {
        "tokens": tokens,
        "positions": jnp.full((batch, 1), position),
        "attention_mask": jnp.broadcast_to(jnp.arange(length) <= position, (batch, 1, length)),
    }
    return model.init(key, tokens)["params"], cache, inputs


def train_arguments(model: gm.nn.Transformer, batch: int, length: int, key: jax.Array) -> tuple[Any, ...]:
    """Arguments of `train_step`."""
    tokens = tokens_of(model, key, batch, length + 1)
    params = model.init(key, tokens[:, 1:])["params"]
    return params, OPTIMIZER.init(params), {"input": tokens[:, :-1], "target": tokens[:, 1:]}


PHASES: dict[str, tuple[Any, ...]] = {
    "decode": (decode, decode_arguments, ("cache",)),
    "train": (train_step, train_arguments, ("params", "opt_state")),
}


def program(phase: str, model: gm.nn.Transformer, batch: int, length: int) -> Program:
    """The program of `phase` for a batch of sequences of `length`, which is that of the cache in decode."""
    fn, arguments, donated = PHASES[phase]
    arguments_of = partial(arguments, model, batch, length)
    return Program(
        fn=partial(fn, model),
        args=jax.eval_shape(arguments_of, jax.random.key(0)),
        options={"donate_argnames": donated},
        values=lambda seed: (arguments_of(jax.random.key(seed)), {}),
    )


def cases() -> tuple[Case, ...]:
    """Decode and train of Gemma 2 27B, in bfloat16 as the library has it."""
    return tuple(
        Case(
            name=f"gemma.gemma2_27b.{phase}",
            phase=phase,
            source="https://arxiv.org/abs/2408.00118, table 1; gm.nn.Gemma2_27B.config",
            full=partial(program, phase, gm.nn.Gemma2_27B(), 64, 2048),
            reduced=partial(
                program, phase, gm.nn.Gemma2_27B(config=REDUCED_CONFIG, dtype=jnp.float32), 8, 32
            ),
        )
        for phase in PHASES
    )
