"""Hugging Face transformers 4.57 in Flax, the last release that has it: linen, nested dicts, unrolled layers.

The functions are those of a user: a call of the model, the step that `generate` takes with the library's own
cache, and the training step of `examples/flax` (`run_clm_flax.py`, `run_t5_mlm_flax.py`,
`run_image_classification.py`), whose state carries a dropout key. As there, training keeps float32 parameters
and computes in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jax import Array, ShapeDtypeStruct
from transformers import (
    FlaxGPT2LMHeadModel,
    FlaxLlamaForCausalLM,
    FlaxPreTrainedModel,
    FlaxT5ForConditionalGeneration,
    FlaxViTForImageClassification,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    T5Config,
    ViTConfig,
)
from transformers.models.t5 import modeling_flax_t5

from tests.models.case import Case, Program


def clip(array: Array, a_min: Any = None, a_max: Any = None) -> Array:
    """`jnp.clip` with the keywords that T5 calls it by; JAX 0.10.0 removed them."""
    return jnp.clip(array, a_min, a_max)


# Only the T5 module sees the old name.
modeling_flax_t5.jnp = SimpleNamespace(**{**vars(jnp), "clip": clip})


@dataclass(frozen=True, slots=True)
class Size:
    """What a program is built for, beside the model's configuration.

    Attributes:
        batch: Sequences or images.
        length: Tokens of a sequence, and of the cache.
        parameters: Format of the parameters.
        compute: The model's `dtype`.
    """

    batch: int
    length: int
    parameters: Any
    compute: Any


SIZES = {
    "forward": Size(8, 2048, jnp.bfloat16, jnp.bfloat16),
    "prefill": Size(8, 2048, jnp.bfloat16, jnp.bfloat16),
    "decode": Size(64, 2048, jnp.bfloat16, jnp.bfloat16),
    "train": Size(64, 2048, jnp.float32, jnp.bfloat16),
}
REDUCED = Size(8, 32, jnp.float32, jnp.float32)
INTEGER_BOUND = 10  # below it lie valid tokens, positions, cache indices and classes of every reduced model


def text(config: PretrainedConfig, size: Size) -> dict[str, ShapeDtypeStruct]:
    """Tokens, at most as many as the model has positions."""
    length = min(size.length, config.max_position_embeddings)
    return {name: integers(size.batch, length) for name in ("input_ids", "attention_mask", "labels")}


def text_to_text(config: PretrainedConfig, size: Size) -> dict[str, ShapeDtypeStruct]:
    """Tokens, and a quarter as many targets: about what span corruption leaves of a full input."""
    targets = integers(size.batch, size.length // 4)
    tokens = integers(size.batch, size.length)
    return {"input_ids": tokens, "attention_mask": tokens, "decoder_input_ids": targets, "labels": targets}


def images(config: PretrainedConfig, size: Size) -> dict[str, ShapeDtypeStruct]:
    """Images, channels first, and their classes."""
    shape = (size.batch, config.num_channels, config.image_size, config.image_size)
    return {"pixel_values": ShapeDtypeStruct(shape, jnp.float32), "labels": integers(size.batch)}


def integers(*shape: int) -> ShapeDtypeStruct:
    """Shape of token ids."""
    return ShapeDtypeStruct(shape, jnp.int32)


@dataclass(frozen=True, slots=True)
class Model:
    """A published model.

    Attributes:
        name: Its name in the zoo.
        source: Where the configuration was published.
        network: The library's class.
        config: The published configuration.
        small: The configuration of the reduced cases.
        batch: Shapes of a batch.
    """

    name: str
    source: str
    network: type[FlaxPreTrainedModel]
    config: PretrainedConfig
    small: PretrainedConfig
    batch: Callable[[PretrainedConfig, Size], dict[str, ShapeDtypeStruct]]

    def build(self, config: PretrainedConfig, size: Size) -> tuple[FlaxPreTrainedModel, Any]:
        """The model without weights, and the shapes of its parameters."""
        model = self.network(config, dtype=size.compute, _do_init=False)
        return model, cast(model.params_shape_tree, size.parameters)


def cast(tree: Any, dtype: Any) -> Any:
    """`model.to_bf16` for shapes."""
    return jax.tree.map(lambda leaf: ShapeDtypeStruct(leaf.shape, dtype), tree)


SMALL_LLAMA = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA3_8B = Model(
    "llama3_8b",
    "https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json",
    FlaxLlamaForCausalLM,
    LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
    ),
    LlamaConfig(num_key_value_heads=4, **SMALL_LLAMA),
    text,
)
LLAMA3_70B = Model(
    "llama3_70b",
    "https://huggingface.co/meta-llama/Meta-Llama-3-70B/blob/main/config.json",
    FlaxLlamaForCausalLM,
    LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
    ),
    LlamaConfig(num_key_value_heads=2, **SMALL_LLAMA),
    text,
)
T5_11B = Model(
    "t5_11b",
    "https://huggingface.co/google-t5/t5-11b/blob/main/config.json",
    FlaxT5ForConditionalGeneration,
    T5Config(d_model=1024, d_ff=65_536, d_kv=128, num_heads=128, num_layers=24, vocab_size=32_128),
    T5Config(d_model=64, d_ff=256, d_kv=16, num_heads=8, num_layers=2, vocab_size=256),
    text_to_text,
)
GPT2_XL = Model(
    "gpt2_xl",
    "https://huggingface.co/openai-community/gpt2-xl/blob/main/config.json",
    FlaxGPT2LMHeadModel,
    GPT2Config(vocab_size=50_257, n_positions=1024, n_embd=1600, n_layer=48, n_head=25),
    GPT2Config(vocab_size=257, n_positions=32, n_embd=80, n_layer=2, n_head=5),
    text,
)
VIT_H14 = Model(
    "vit_h14",
    "https://huggingface.co/google/vit-huge-patch14-224-in21k/blob/main/config.json; classes of ImageNet-1k",
    FlaxViTForImageClassification,
    ViTConfig(
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=16,
        intermediate_size=5120,
        image_size=224,
        patch_size=14,
        num_labels=1000,
    ),
    ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        intermediate_size=256,
        image_size=56,
        patch_size=14,
        num_labels=10,
    ),
    images,
)


def forward(model: Model, config: PretrainedConfig, size: Size) -> Program:
    """A call of the model as a user writes it."""
    network, params = model.build(config, size)
    inputs = model.batch(config, size)
    del inputs["labels"]

    def forward(params: Any, inputs: dict[str, Array]) -> Any:
        return network(**inputs, params=params).logits

    return Program(forward, (params, inputs), integer_bound=INTEGER_BOUND)


def generate(model: Model, config: PretrainedConfig, size: Size, tokens: int) -> Program:
    """One call that `generate` makes: a whole prompt, or one token, with the cache."""
    network, params = model.build(config, size)
    cache = jax.eval_shape(lambda: network.init_cache(size.batch, size.length))

    def step(
        params: Any, past_key_values: Any, input_ids: Array, attention_mask: Array, position_ids: Array
    ) -> tuple[Array, Any]:
        outputs = network(
            input_ids, attention_mask, position_ids, params=params, past_key_values=past_key_values
        )
        return outputs.logits[:, -1], outputs.past_key_values

    ids = integers(size.batch, tokens)
    mask = integers(size.batch, size.length)
    return Program(
        step,
        (params, cache, ids, mask, ids),
        options={"donate_argnames": ("past_key_values",)},
        integer_bound=INTEGER_BOUND,
    )


def prefill(model: Model, config: PretrainedConfig, size: Size) -> Program:
    """A prompt as long as the cache."""
    return generate(model, config, size, tokens=size.length)


def decode(model: Model, config: PretrainedConfig, size: Size) -> Program:
    """One token of each sequence."""
    return generate(model, config, size, tokens=1)


def decode_text_to_text(model: Model, config: PretrainedConfig, size: Size) -> Program:
    """One token of the decoder; cross-attention projects the encoder's states anew in every step."""
    network, params = model.build(config, size)
    states = ShapeDtypeStruct((size.batch, size.length, config.d_model), size.compute)
    cache = jax.eval_shape(lambda states: network.init_cache(size.batch, size.length, (states,)), states)

    def step(
        params: Any,
        past_key_values: Any,
        decoder_input_ids: Array,
        encoder_states: Array,
        masks: dict[str, Array],
    ) -> tuple[Array, Any]:
        outputs = network.decode(
            decoder_input_ids, (encoder_states,), params=params, past_key_values=past_key_values, **masks
        )
        return outputs.logits[:, -1], outputs.past_key_values

    masks = dict.fromkeys(
        ("encoder_attention_mask", "decoder_attention_mask"), integers(size.batch, size.length)
    )
    return Program(
        step,
        (params, cache, integers(size.batch, 1), states, masks),
        options={"donate_argnames": ("past_key_values",)},
        integer_bound=INTEGER_BOUND,
    )


class TrainState(train_state.TrainState):  # type: ignore[misc]  # flax is not there when types are checked
    """The state of the library's examples."""

    dropout_rng: Array


def train(model: Model, config: PretrainedConfig, size: Size) -> Program:
    """The training step of the library's examples, without `pmean`."""
    network, params = model.build(config, size)
    optimizer = optax.adamw(1e-4)
    batch = model.batch(config, size)

    def create(params: Any, dropout_rng: Array) -> Any:
        return TrainState.create(
            apply_fn=network.__call__, params=params, tx=optimizer, dropout_rng=dropout_rng
        )

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Array]:
        dropout_rng, new_dropout_rng = jax.random.split(state.dropout_rng)
        inputs = {name: array for name, array in batch.items() if name != "labels"}
        labels = batch["labels"]

        def compute_loss(params: Any) -> Any:
            logits = state.apply_fn(**inputs, params=params, dropout_rng=dropout_rng, train=True)[0]
            return cross_entropy(logits, labels, shift=model.batch is text)

        loss, grads = jax.value_and_grad(compute_loss)(state.params)
        return state.apply_gradients(grads=grads, dropout_rng=new_dropout_rng), loss

    def values(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The optimizer makes its state: Adam's second moments may not be negative.
        weights, inputs = made_up((params, batch), seed)
        return (jax.jit(create)(weights, jax.random.PRNGKey(seed)), inputs), {}

    return Program(
        train_step,
        (jax.eval_shape(create, params, jax.eval_shape(jax.random.PRNGKey, 0)), batch),
        options={"donate_argnames": ("state",)},
        values=values,
        integer_bound=INTEGER_BOUND,
    )


def cross_entropy(logits: Array, labels: Array, shift: bool) -> Any:
    """The examples' loss; a causal model predicts the next token."""
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()


def made_up(tree: Any, seed: int) -> Any:
    """Fill shapes with small floats and with integers that are valid everywhere."""
    random = np.random.default_rng(seed)

    def fill(leaf: ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(random.normal(scale=0.1, size=leaf.shape), leaf.dtype)
        return jnp.asarray(random.integers(INTEGER_BOUND, size=leaf.shape), leaf.dtype)

    return jax.tree.map(fill, tree)


def case(model: Model, phase: str, build: Callable[[Model, PretrainedConfig, Size], Program]) -> Case:
    """One phase of one model."""
    size = SIZES[phase]
    if model is VIT_H14:
        size = replace(size, batch=256)
    return Case(
        name=f"hf.{model.name}.{phase}",
        phase=phase,
        source=model.source,
        full=partial(build, model, model.config, size),
        reduced=partial(build, model, model.small, REDUCED),
    )


def cases() -> tuple[Case, ...]:
    """The library's part of the zoo."""
    return (
        case(LLAMA3_8B, "forward", forward),
        case(LLAMA3_8B, "prefill", prefill),
        case(LLAMA3_8B, "decode", decode),
        case(LLAMA3_8B, "train", train),
        case(LLAMA3_70B, "forward", forward),
        case(LLAMA3_70B, "decode", decode),
        case(LLAMA3_70B, "train", train),
        case(T5_11B, "forward", forward),
        case(T5_11B, "decode", decode_text_to_text),
        case(T5_11B, "train", train),
        case(GPT2_XL, "train", train),
        case(VIT_H14, "train", train),
    )
