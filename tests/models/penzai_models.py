"""Llama 3 8B by Penzai: the same model with its layers unrolled, and stacked under `jax.lax.scan`."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from penzai import pz
from penzai.models.transformer.model_parts import TransformerLM
from penzai.models.transformer.sampling_mode import KVCachingTransformerLM
from penzai.models.transformer.variants.llamalike_common import (
    LlamalikeTransformerConfig,
    build_llamalike_transformer,
)

from tests.models.case import Case, Program

LLAMA3_8B_SOURCE = "https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json"
LLAMA3_8B = LlamalikeTransformerConfig(
    num_kv_heads=8,
    query_head_multiplier=4,
    embedding_dim=4096,
    projection_dim=128,
    mlp_hidden_dim=14336,
    num_decoder_blocks=32,
    vocab_size=128256,
    mlp_variant="swiglu",
    tie_embedder_and_logits=False,
    rope_wavelength=500_000,
    rms_norm_eps=1e-5,
    parameter_dtype=jnp.bfloat16,
    activation_dtype=jnp.bfloat16,
)
REDUCED = {
    "num_kv_heads": 4,
    "query_head_multiplier": 2,
    "embedding_dim": 64,
    "projection_dim": 16,
    "mlp_hidden_dim": 128,
    "num_decoder_blocks": 2,
    "vocab_size": 256,
    "parameter_dtype": jnp.float32,
    "activation_dtype": jnp.float32,
}
OPTIMIZER = optax.adamw(1e-4)


def forward(model: TransformerLM, tokens: pz.nx.NamedArray) -> pz.nx.NamedArray:
    """The logits of every position."""
    return model(tokens)


def decode(model: KVCachingTransformerLM, state: Any, token: pz.nx.NamedArray) -> Any:
    """One token for each sequence; `state` is the cache, with the tokens so far and their number."""
    return model.stateless_call(state, token)


def train_step(params: Any, opt_state: Any, model: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
    """One step of AdamW, as `penzai.toolshed.basic_training` makes it."""

    def loss_of(params: Any) -> Any:
        logits = pz.bind_variables(model, params)(batch["tokens"])
        losses = pz.nx.nmap(optax.softmax_cross_entropy_with_integer_labels)(
            logits.astype(jnp.float32).untag("vocabulary"), batch["labels"]
        )
        return losses.untag("batch", "seq").mean().unwrap()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def build(config: LlamalikeTransformerConfig, key: jax.Array) -> TransformerLM:
    """The model, all of whose parameters have the dtype of `config`.

    The builder leaves the last layer in float32; the loader of Hugging Face checkpoints, which is how
    one gets this model, does not.
    """
    model = build_llamalike_transformer(config, init_base_rng=key)
    for parameter in pz.unbind_params(model)[1]:
        parameter.value = parameter.value.astype(config.parameter_dtype)
    return model


def tokens_of(
    config: LlamalikeTransformerConfig, key: jax.Array, batch: int, length: int
) -> pz.nx.NamedArray:
    """Made-up tokens, none of which is padding (0)."""
    return pz.nx.wrap(jax.random.randint(key, (batch, length), 1, config.vocab_size)).tag("batch", "seq")


def forward_arguments(config: LlamalikeTransformerConfig, batch: int, length: int, key: jax.Array) -> Any:
    """Arguments of `forward`."""
    return pz.freeze_params(build(config, key)), tokens_of(config, key, batch, length)


def decode_arguments(config: LlamalikeTransformerConfig, batch: int, length: int, key: jax.Array) -> Any:
    """Arguments of `decode` after a prompt that fills half of the cache of `length` positions.

    An empty cache would not do: that of stacked layers changes the order of its axes in the first call.
    """
    model = pz.freeze_params(build(config, key))
    model = KVCachingTransformerLM.from_uncached(model, length, {"batch": batch})
    model, state = pz.unbind_state_vars(model, freeze=True)
    _, state = decode(model, state, tokens_of(config, key, batch, length // 2))
    return model, state, tokens_of(config, key, batch, 1)


def train_arguments(config: LlamalikeTransformerConfig, batch: int, length: int, key: jax.Array) -> Any:
    """Arguments of `train_step`."""
    model, params = pz.unbind_params(build(config, key), freeze=True)
    tokens = tokens_of(config, key, batch, length + 1)
    pairs = {"tokens": tokens[{"seq": pz.slice[:-1]}], "labels": tokens[{"seq": pz.slice[1:]}]}
    return params, OPTIMIZER.init(params), model, pairs


PHASES: dict[str, tuple[Any, ...]] = {
    "forward": (forward, forward_arguments, (), 8),
    "decode": (decode, decode_arguments, ("state",), 64),
    "train": (train_step, train_arguments, ("params", "opt_state"), 64),
}


def program(phase: str, config: LlamalikeTransformerConfig, batch: int, length: int) -> Program:
    """The program of `phase` for a batch of sequences of `length`, which is that of the cache in decode."""
    fn, arguments, donated, _ = PHASES[phase]
    arguments_of = partial(arguments, config, batch, length)
    return Program(
        fn=fn,
        args=jax.eval_shape(arguments_of, jax.random.key(0)),
        options={"donate_argnames": donated},
        values=lambda seed: (arguments_of(jax.random.key(seed)), {}),
    )


def cases() -> tuple[Case, ...]:
    """Forward, decode and train of Llama 3 8B, unrolled and stacked."""
    return tuple(
        Case(
            name=f"penzai.{name}.{phase}",
            phase=phase,
            source=LLAMA3_8B_SOURCE,
            full=partial(program, phase, config, PHASES[phase][-1], 2048),
            reduced=partial(program, phase, dataclasses.replace(config, **REDUCED), 8, 32),
        )
        for name, config in (
            ("llama3_8b", LLAMA3_8B),
            ("llama3_8b_stack", dataclasses.replace(LLAMA3_8B, use_layer_stack=True)),
        )
        for phase in PHASES
    )
