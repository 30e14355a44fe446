"""Google's Tunix 0.1.7: flax nnx, unrolled layers, a cache that is a dict of dicts.

The functions are what Tunix' own sampler and trainer jit: parameters arrive as an `nnx.State`, the graph
definition is closed over. Gemma 4 and Qwen3 train float32 parameters, their configurations' default, and
compute in bfloat16; Llama 3 has one format for both, that of its checkpoint, bfloat16.

What Tunix traces depends on the host: without a mesh, or on CPU, `shard` does nothing and Qwen3's experts are
a Python loop instead of a Pallas kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, ShapeDtypeStruct
from tunix.generate import sampler
from tunix.models.gemma4.model import Gemma4
from tunix.models.gemma4.model import ModelConfig as Gemma4Config
from tunix.models.llama3.model import Llama3, RematConfig
from tunix.models.llama3.model import ModelConfig as Llama3Config
from tunix.models.qwen3.model import ModelConfig as Qwen3Config
from tunix.models.qwen3.model import Qwen3
from tunix.sft import peft_trainer, utils

from tests.models.case import Case, Program


@dataclass(frozen=True, slots=True)
class Size:
    """What a program is built for, beside the model's configuration.

    Attributes:
        batch: Sequences.
        length: Tokens of a sequence, and of the cache.
        parameters: Format of the parameters, of models that tell it from `compute`.
        compute: Format of activations and cache.
    """

    batch: int
    length: int
    parameters: Any
    compute: Any


SIZES = {
    "forward": Size(8, 2048, jnp.bfloat16, jnp.bfloat16),
    "decode": Size(64, 2048, jnp.bfloat16, jnp.bfloat16),
    "train": Size(64, 2048, jnp.float32, jnp.bfloat16),
}
REDUCED = Size(8, 32, jnp.float32, jnp.float32)
INTEGER_BOUND = 10  # below it lie valid tokens, positions and cache indices of every reduced model


@dataclass(frozen=True, slots=True)
class Model:
    """A published model.

    Attributes:
        name: Its name in the zoo.
        source: Where the configuration was published.
        network: The library's class.
        config: The published configuration, which the library has under this name.
        small: What the reduced cases change of it.
    """

    name: str
    source: str
    network: type[nnx.Module]
    config: Any
    small: dict[str, int]

    @property
    def reduced(self) -> Any:
        """The configuration of the reduced cases."""
        return dataclasses.replace(self.config, **self.small)

    def split(self, config: Any, size: Size) -> tuple[nnx.GraphDef[Any], nnx.State]:
        """The graph definition, and the shapes of the parameters."""
        dtype = size.compute
        if hasattr(config, "param_dtype"):
            dtype = size.parameters
            config = dataclasses.replace(config, dtype=size.compute, param_dtype=dtype)
        graphdef, params = nnx.split(nnx.eval_shape(lambda: self.network(config, rngs=nnx.Rngs(0))))
        return graphdef, jax.tree.map(lambda leaf: ShapeDtypeStruct(leaf.shape, dtype), params)


SMALL = {"num_layers": 2, "embed_dim": 128, "hidden_dim": 256, "num_heads": 8, "head_dim": 16}
LLAMA3_8B = Model(
    "llama3_8b",
    "https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json; Llama 3.1 has the same shapes",
    Llama3,
    Llama3Config.llama3p1_8b(),
    {**SMALL, "vocab_size": 256, "num_kv_heads": 4},
)
LLAMA3_70B_REMAT = Model(
    "llama3_70b",
    "https://huggingface.co/meta-llama/Meta-Llama-3-70B/blob/main/config.json",
    Llama3,
    dataclasses.replace(Llama3Config.llama3_70b(), remat_config=RematConfig.DECODER),
    {**SMALL, "vocab_size": 256, "num_kv_heads": 2},
)
LLAMA31_405B = Model(
    "llama31_405b",
    "https://huggingface.co/meta-llama/Llama-3.1-405B/blob/main/config.json",
    Llama3,
    Llama3Config.llama3p1_405b(),
    {**SMALL, "vocab_size": 256, "num_kv_heads": 1},
)
GEMMA4_26B_A4B = Model(
    "gemma4_26b_a4b",
    "https://huggingface.co/google/gemma-4-26B-A4B-it/blob/main/config.json",
    Gemma4,
    Gemma4Config.gemma4_26b_a4b(),
    {
        **SMALL,
        "num_layers": 6,  # one period: five local layers, one global
        "num_embed": 256,
        "num_kv_heads": 4,
        "num_global_kv_heads": 2,
        "global_key_size": 32,
        "sliding_window_size": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "expert_dim": 64,
        "moe_dense_hidden_dim": 256,
    },
)
QWEN3_30B_A3B = Model(
    "qwen3_30b_a3b",
    "https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json",
    Qwen3,
    Qwen3Config.qwen3_30b_a3b(),
    {**SMALL, "vocab_size": 256, "num_kv_heads": 2, "num_experts": 8, "num_experts_per_tok": 2},
)


def batch_of(size: Size) -> peft_trainer.TrainingInput:
    """Tokens, and which of them are no padding."""
    shape = (size.batch, size.length)
    return peft_trainer.TrainingInput(ShapeDtypeStruct(shape, jnp.int32), ShapeDtypeStruct(shape, jnp.bool))


def model_inputs(batch: peft_trainer.TrainingInput) -> dict[str, Array]:
    """What Tunix' examples give to `PeftTrainer.with_gen_model_input_fn`."""
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": batch.input_mask,
        "positions": utils.build_positions_from_mask(batch.input_mask),
        "attention_mask": utils.make_causal_attn_mask(batch.input_mask),
    }


def forward(model: Model, config: Any, size: Size) -> Program:
    """Logits of a batch, as the trainer's loss asks for them."""
    graphdef, params = model.split(config, size)

    def forward(params: nnx.State, batch: peft_trainer.TrainingInput) -> Any:
        inputs = model_inputs(batch)
        logits, _ = nnx.merge(graphdef, params)(
            inputs["input_tokens"], inputs["positions"], None, inputs["attention_mask"]
        )
        return logits

    return Program(forward, (params, batch_of(size)), integer_bound=INTEGER_BOUND)


def decode(model: Model, config: Any, size: Size) -> Program:
    """The model's part of one step of `Sampler`, its cache donated as there."""
    graphdef, params = model.split(config, size)

    def init_cache() -> Any:
        if hasattr(model.network, "init_cache"):
            return nnx.merge(graphdef, params).init_cache(size.batch, size.length, size.compute)
        # What the sampler does for models without that method.
        return sampler._init_cache(
            config.num_layers, size.length, size.batch, config.num_kv_heads, config.head_dim, size.compute
        )

    def sample_step(
        params: nnx.State, cache: Any, last_token: Array, positions: Array, attention_mask: Array
    ) -> Any:
        return nnx.merge(graphdef, params)(last_token, positions, cache, attention_mask)

    token = ShapeDtypeStruct((size.batch, 1), jnp.int32)
    mask = ShapeDtypeStruct((size.batch, 1, size.length), jnp.bool)
    return Program(
        sample_step,
        (params, jax.eval_shape(init_cache), token, token, mask),
        options={"donate_argnames": ("cache",)},
        integer_bound=INTEGER_BOUND,
    )


def train(model: Model, config: Any, size: Size) -> Program:
    """The step of `PeftTrainer` without LoRA: its loss and its optimizer."""
    graphdef, params = model.split(config, size)
    batch = batch_of(size)

    def optimizer_of(params: nnx.State) -> nnx.Optimizer[Any]:
        return nnx.Optimizer(nnx.merge(graphdef, params), optax.adamw(1e-4), wrt=nnx.Param)

    optimizer_graphdef, opt_state = nnx.split(nnx.eval_shape(optimizer_of, params))

    def train_step(
        params: nnx.State, opt_state: nnx.State, batch: peft_trainer.TrainingInput
    ) -> tuple[nnx.State, nnx.State, Array]:
        network = nnx.merge(graphdef, params)
        optimizer = nnx.merge(optimizer_graphdef, opt_state)
        loss, grads = nnx.value_and_grad(peft_trainer._default_loss_fn)(network, **model_inputs(batch))
        optimizer.update(network, grads)
        return nnx.state(network), nnx.state(optimizer), loss

    def values(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The optimizer makes its state: Adam's second moments may not be negative.
        weights, inputs = made_up((params, batch), seed)
        return (weights, nnx.state(optimizer_of(weights)), inputs), {}

    return Program(
        train_step,
        (params, opt_state, batch),
        options={"donate_argnames": ("params", "opt_state")},
        values=values,
        integer_bound=INTEGER_BOUND,
    )


def made_up(tree: Any, seed: int) -> Any:
    """Fill shapes with small floats, and with integers and truths that are valid everywhere."""
    random = np.random.default_rng(seed)

    def fill(leaf: ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(random.normal(scale=0.1, size=leaf.shape), leaf.dtype)
        bound = 2 if leaf.dtype == jnp.bool else INTEGER_BOUND
        return jnp.asarray(random.integers(bound, size=leaf.shape), leaf.dtype)

    return jax.tree.map(fill, tree)


def case(model: Model, phase: str, build: Callable[[Model, Any, Size], Program], suffix: str = "") -> Case:
    """One phase of one model."""
    return Case(
        name=f"tunix.{model.name}.{phase}{suffix}",
        phase=phase,
        source=model.source,
        full=partial(build, model, model.config, SIZES[phase]),
        reduced=partial(build, model, model.reduced, REDUCED),
    )


def cases() -> tuple[Case, ...]:
    """The library's part of the zoo."""
    return (
        case(LLAMA3_8B, "forward", forward),
        case(LLAMA3_8B, "decode", decode),
        case(LLAMA3_70B_REMAT, "train", train, suffix="_remat"),
        case(LLAMA31_405B, "decode", decode),
        case(GEMMA4_26B_A4B, "forward", forward),
        case(GEMMA4_26B_A4B, "decode", decode),
        case(GEMMA4_26B_A4B, "train", train),
        case(QWEN3_30B_A3B, "train", train),  # 348 thousand equations: more than a minute to trace
    )
