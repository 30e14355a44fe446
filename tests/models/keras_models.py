"""Llama 3 8B and Mixtral 8x7B by KerasHub on its JAX backend: variables in flat lists, unrolled layers.

A mixture computes all of its experts for all tokens, and one array holds the caches of all layers. Keras
chooses its attention by the devices it finds: on CPU the one written with `einsum`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

import jax
import jax.numpy as jnp
import keras
from keras_hub.models import (
    CausalLM,
    Llama3Backbone,
    Llama3CausalLM,
    MixtralBackbone,
    MixtralCausalLM,
)

from tests.models.case import Case, Program

LLAMA3_8B_SOURCE = "https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json"
MIXTRAL_8X7B_SOURCE = "https://huggingface.co/mistralai/Mixtral-8x7B-v0.1/blob/main/config.json"
LLAMA3_8B = {
    "vocabulary_size": 128256,
    "num_layers": 32,
    "num_query_heads": 32,
    "num_key_value_heads": 8,
    "hidden_dim": 4096,
    "intermediate_dim": 14336,
    "rope_max_wavelength": 500_000,
    "layer_norm_epsilon": 1e-5,
}
MIXTRAL_8X7B = {
    **LLAMA3_8B,
    "vocabulary_size": 32000,
    "num_experts": 8,
    "top_k": 2,
    "rope_max_wavelength": 1_000_000,
    "sliding_window": None,
}
REDUCED = {
    "vocabulary_size": 256,
    "num_layers": 2,
    "num_query_heads": 8,
    "num_key_value_heads": 4,
    "hidden_dim": 64,
    "intermediate_dim": 128,
}


def forward(model: CausalLM, trainable: Any, non_trainable: Any, inputs: dict[str, Any]) -> Any:
    """The logits of every position."""
    return model.stateless_call(trainable, non_trainable, inputs)[0]


def decode(
    model: CausalLM, trainable: Any, non_trainable: Any, cache: Any, token: Any, index: Any
) -> tuple[Any, Any]:
    """One token for each sequence, at position `index`, in the scope that `generate` makes."""
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    mapping = zip(variables, [*trainable, *non_trainable], strict=True)
    with keras.StatelessScope(state_mapping=mapping):
        logits, _, cache = model.call_with_cache(token, cache, index)
    return logits, cache


def train_step(
    model: CausalLM, trainable: Any, optimizer_variables: Any, non_trainable: Any, inputs: Any, labels: Any
) -> tuple[Any, Any, Any, jax.Array]:
    """One step of AdamW, as the guide "Writing a training loop from scratch in JAX" has it."""

    def loss_of(trainable: Any) -> tuple[Any, Any]:
        logits, updated, losses = model.stateless_call(
            trainable, non_trainable, inputs, training=True, return_losses=True
        )
        return model.loss(labels, logits) + sum(losses), updated

    (loss, non_trainable), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
    trainable, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, gradients, trainable
    )
    return trainable, optimizer_variables, non_trainable, loss


def llama(config: dict[str, Any], dtype: str) -> CausalLM:
    """Llama 3."""
    return Llama3CausalLM(Llama3Backbone(**config, dtype=dtype))


def mixtral(config: dict[str, Any], dtype: str) -> CausalLM:
    """Mixtral."""
    return MixtralCausalLM(MixtralBackbone(**config, dtype=dtype))


def values_of(variables: Any) -> list[jax.Array]:
    """The arrays of Keras variables."""
    return [variable.value for variable in variables]


def inputs_of(model: CausalLM, key: jax.Array, batch: int, length: int) -> dict[str, jax.Array]:
    """Made-up tokens, none of which is padding."""
    tokens = jax.random.randint(key, (batch, length), 0, model.backbone.vocabulary_size)
    return {"token_ids": tokens, "padding_mask": jnp.ones_like(tokens)}


def forward_arguments(model: CausalLM, batch: int, length: int, key: jax.Array) -> tuple[Any, ...]:
    """Arguments of `forward`."""
    return (
        values_of(model.trainable_variables),
        values_of(model.non_trainable_variables),
        inputs_of(model, key, batch, length),
    )


def decode_arguments(model: CausalLM, batch: int, length: int, key: jax.Array) -> tuple[Any, ...]:
    """Arguments of `decode` for a cache of `length` positions, three quarters of them used."""
    trainable, non_trainable, inputs = forward_arguments(model, batch, 1, key)
    backbone = model.backbone
    heads, width = backbone.num_key_value_heads, backbone.hidden_dim // backbone.num_query_heads
    shape = (batch, backbone.num_layers, 2, length, heads, width)
    cache = jax.random.normal(key, shape, model.compute_dtype)
    return trainable, non_trainable, cache, inputs["token_ids"], jnp.array(3 * length // 4, jnp.int32)


def train_arguments(model: CausalLM, batch: int, length: int, key: jax.Array) -> tuple[Any, ...]:
    """Arguments of `train_step`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(1e-4), loss=loss)
    model.optimizer.build(model.trainable_variables)
    trainable, non_trainable, inputs = forward_arguments(model, batch, length, key)
    labels = jnp.roll(inputs["token_ids"], -1, axis=1)
    return trainable, values_of(model.optimizer.variables), non_trainable, inputs, labels


PHASES: dict[str, tuple[Any, ...]] = {
    "forward": (forward, forward_arguments, ()),
    "decode": (decode, decode_arguments, ("cache",)),
    "train": (train_step, train_arguments, ("trainable", "optimizer_variables")),
}


def program(phase: str, build: Callable[[], CausalLM], batch: int, length: int) -> Program:
    """The program of `phase` for a batch of sequences of `length`, which is that of the cache in decode.

    A model is an object with variables. The program's is built while shapes are computed: what its variables
    hold is never read, since all phases are functions of the variables' values.
    """
    fn, arguments, donated = PHASES[phase]
    models = []

    def arguments_of(key: jax.Array) -> Any:
        models.append(build())
        return arguments(models[-1], batch, length, key)

    def values(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        keras.utils.set_random_seed(seed)
        return arguments_of(jax.random.key(seed)), {}

    shapes = jax.eval_shape(arguments_of, jax.random.key(0))
    return Program(
        fn=partial(fn, models[0]), args=shapes, options={"donate_argnames": donated}, values=values
    )


def cases() -> tuple[Case, ...]:
    """Forward of Llama 3 8B; decode and train of Mixtral 8x7B."""
    return tuple(
        Case(
            name=f"keras.{name}.{phase}",
            phase=phase,
            source=source,
            full=partial(program, phase, partial(build, config, dtype), batch, 2048),
            reduced=partial(program, phase, partial(build, {**config, **REDUCED}, "float32"), 8, 32),
        )
        for name, phase, source, build, config, dtype, batch in (
            ("llama3_8b", "forward", LLAMA3_8B_SOURCE, llama, LLAMA3_8B, "bfloat16", 8),
            ("mixtral_8x7b", "decode", MIXTRAL_8X7B_SOURCE, mixtral, MIXTRAL_8X7B, "bfloat16", 64),
            ("mixtral_8x7b", "train", MIXTRAL_8X7B_SOURCE, mixtral, MIXTRAL_8X7B, "mixed_bfloat16", 64),
        )
    )
