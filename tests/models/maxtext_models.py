"""MaxText: weights stacked along axis 1 and scanned, sharding constraints of its own, state in `nnx.State`.

What is traced is MaxText's own `train_step` (its AdamW is in the state) and what its server does with the
model (`maxtext.inference.maxengine`). Meshes are abstract: their axes have real sizes, so the constraints
name the mesh axes that they name for MaxText's users (it leaves out axes of size 1), yet a program runs on
one device, or on as many as its mesh has.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("DECOUPLE_GCLOUD", "TRUE")  # before MaxText is imported: no Google Cloud libraries

import jax
import jax.numpy as jnp
import maxtext
import numpy as np
from flax import nnx
from flax.core.spmd import logical_axis_rules
from jax.sharding import AbstractMesh, AxisType
from maxtext.common.common_types import MODEL_MODE_AUTOREGRESSIVE, MODEL_MODE_TRAIN
from maxtext.common.train_state_nnx import TrainStateNNX
from maxtext.configs import pyconfig
from maxtext.optimizers import optimizers
from maxtext.trainers.pre_train import train
from maxtext.utils import max_utils, maxtext_utils, model_creation_utils

from tests.models.case import Case, Program

Settings = Mapping[str, Any]
"""Overrides of MaxText's configuration, by name."""

BASE = Path(maxtext.__file__).parent / "configs" / "base.yml"
EINSUM_EXPERTS: Settings = {"sparse_matmul": False, "megablox": False}  # no kernels inside a shard_map
SERVED: Settings = {"weight_dtype": "bfloat16"}  # trained ones are in float32, which is MaxText's default
SMALL: Settings = {
    "dtype": "float32",
    "weight_dtype": "float32",
    "base_emb_dim": 64,
    "base_num_query_heads": 8,
    "base_num_kv_heads": 2,
    "base_mlp_dim": 128,
    "base_num_decoder_layers": 2,
    "head_dim": 16,
    "vocab_size": 256,
}
SMALL_MIXTRAL: Settings = {**SMALL, "base_moe_mlp_dim": 128}
SMALL_DEEPSEEK: Settings = {
    **SMALL,
    "base_num_kv_heads": 8,
    "base_num_decoder_layers": 4,  # two dense ones, two with experts
    "first_num_dense_layers": 2,
    "base_moe_mlp_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}


class Setup:
    """A configuration with the mesh of its devices.

    Args:
        model: MaxText's name of the model.
        batch: Sequences of all devices together.
        length: Tokens of a sequence, or of the cache.
        devices: How many the mesh has.
        settings: Overrides of the configuration.
    """

    def __init__(self, model: str, batch: int, length: int, devices: int, settings: Settings) -> None:
        self.ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        self.config = pyconfig.initialize(
            ["", str(BASE)],
            model_name=model,
            per_device_batch_size=batch / devices,
            max_target_length=length,
            max_prefill_predict_length=length
            // 2,  # the cache has a part for prompts and one for what follows
            internal_compile=True,  # for devices that are not attached
            internal_compile_num_devices=devices,
            attention="dot_product",  # flash attention is a kernel, for TPU only
            enable_checkpointing=False,
            jax_cache_dir="",  # it would turn on JAX's compilation cache for the whole process
            override_model_config=True,
            log_config=False,
            **settings,
        )
        sizes = max_utils.fill_unspecified_mesh_axes(self.config.ici_parallelism.copy(), devices, "ICI")
        names = tuple(self.config.mesh_axes)
        self.mesh = AbstractMesh(tuple(sizes), names, axis_types=(AxisType.Auto,) * len(names))

    @contextmanager
    def rules(self) -> Iterator[None]:
        """What MaxText's functions are called in.

        Attention asks `mesh.devices` for the platform; an abstract mesh has none, and names one attached.
        """
        attached = property(lambda mesh: np.full(mesh.axis_sizes, jax.devices()[0]))
        rules = logical_axis_rules(self.config.logical_axis_rules)
        with mock.patch.object(AbstractMesh, "devices", attached), rules:
            yield

    def model(self, mode: str, seed: int = 0) -> nnx.Module:
        """The model with fresh parameters."""
        key = jax.random.PRNGKey(seed)
        return model_creation_utils.get_nnx_create_model_fn(self.config, self.mesh, None, mode, key)()

    def train_state(self, seed: int = 0) -> TrainStateNNX:
        """The model for training, and its optimizer."""
        model = self.model(MODEL_MODE_TRAIN, seed)
        schedule = maxtext_utils.create_learning_rate_schedule(self.config)
        transform = optimizers.get_optimizer(self.config, schedule, model)
        return TrainStateNNX(model, nnx.Optimizer(model, transform, wrt=nnx.Param))

    def abstract(self, create: Callable[..., nnx.Module], *filters: Any) -> tuple[Any, ...]:
        """Graph and states, abstract, of what `create` makes."""
        with self.rules():
            split: tuple[Any, ...] = nnx.split(nnx.eval_shape(create), *filters)
            return split

    def concrete(self, create: Callable[..., nnx.Module], seed: int, *filters: Any) -> tuple[Any, ...]:
        """The same states with values."""
        with self.rules():
            states: tuple[Any, ...] = jax.jit(lambda: nnx.split(create(seed=seed), *filters)[1:])()
            return states


def train_program(setup: Setup) -> Program:
    """One step of MaxText's trainer."""
    graph, state = setup.abstract(setup.train_state)

    def train_step(state: nnx.State, batch: dict[str, Any]) -> tuple[nnx.State, Any]:
        with setup.rules():
            new_state, metrics = train.train_step(graph, setup.config, None, None, state, batch)
            return new_state, metrics

    def values(seed: int) -> tuple[tuple[Any, ...], Settings]:
        inputs, positions, segments = batch_of(setup, seed)
        targets, *_ = batch_of(setup, seed + 1)
        batch = {"inputs": inputs, "inputs_position": positions, "inputs_segmentation": segments}
        batch |= {"targets": targets, "targets_position": positions, "targets_segmentation": segments}
        return (*setup.concrete(setup.train_state, seed), batch), {}

    batch = maxtext_utils.get_shaped_batch(setup.config)
    return Program(train_step, (state, batch), options={"donate_argnames": ("state",)}, values=values)


def forward_program(setup: Setup) -> Program:
    """Logits of whole sequences."""
    create = functools.partial(setup.model, MODEL_MODE_TRAIN)
    graph, state = setup.abstract(create)

    def forward(state: nnx.State, tokens: Any, positions: Any, segments: Any) -> Any:
        with setup.rules():
            model = nnx.merge(graph, state, copy=True)
            return model(tokens, positions, decoder_segment_ids=segments, enable_dropout=False)

    def values(seed: int) -> tuple[tuple[Any, ...], Settings]:
        return (*setup.concrete(create, seed), *batch_of(setup, seed)), {}

    return Program(forward, (state, setup.ids, setup.ids, setup.ids), values=values)


def decode_program(setup: Setup) -> Program:
    """One token for every sequence, the likeliest, as the server's greedy sampling does."""
    create = functools.partial(setup.model, MODEL_MODE_AUTOREGRESSIVE)
    filters = (nnx.Param, nnx.Cache, ...)
    graph, params, cache, rest = setup.abstract(create, *filters)

    def decode_step(params: Any, cache: Any, rest: Any, tokens: Any, positions: Any) -> tuple[Any, Any]:
        with setup.rules(), jax.sharding.use_abstract_mesh(setup.mesh):
            model = nnx.merge(graph, params, cache, rest, copy=True)
            mode = {"enable_dropout": False, "model_mode": MODEL_MODE_AUTOREGRESSIVE}
            logits = model(tokens, positions, **mode)
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), nnx.state(model, nnx.Cache)

    def values(seed: int) -> tuple[tuple[Any, ...], Settings]:
        tokens, positions, _ = batch_of(setup, seed)
        return (*setup.concrete(create, seed, *filters), tokens[:, :1], positions[:, :1]), {}

    one = jax.ShapeDtypeStruct((setup.ids.shape[0], 1), jnp.int32)
    arguments = (params, cache, rest, one, one)
    return Program(decode_step, arguments, options={"donate_argnames": ("cache",)}, values=values)


def batch_of(setup: Setup, seed: int) -> tuple[Any, Any, Any]:
    """Random tokens, their positions, and one segment for each sequence."""
    shape = setup.ids.shape
    tokens = jax.random.randint(jax.random.key(seed), shape, 0, setup.config.vocab_size, jnp.int32)
    return tokens, jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape), jnp.ones(shape, jnp.int32)


PROGRAMS = {"train": train_program, "forward": forward_program, "decode": decode_program}
BATCH = {"train": 64, "forward": 8, "decode": 64}


def case(
    name: str, model: str, source: str, settings: Settings, small: Settings, **axes: tuple[int, int]
) -> Case:
    """A case on a mesh with one device for every sequence of the batch.

    Args:
        name: Its model and phase.
        model: MaxText's name of the model.
        source: The recipe of MaxText's authors that its settings are from.
        settings: Overrides at both sizes.
        small: Overrides at the reduced size.
        **axes: Devices along a mesh axis at full and at reduced size; FSDP has the others.
    """
    phase = name.rpartition(".")[2]

    def build(size: int, batch: int, length: int, more: Settings) -> Program:
        parallel = {f"ici_{axis}_parallelism": devices[size] for axis, devices in axes.items()}
        return PROGRAMS[phase](Setup(model, batch, length, batch, {**settings, **parallel, **more}))

    return Case(
        name=f"maxtext.{name}",
        phase=phase,
        source=f"MaxText 0.2.5: maxtext/configs/models/{model}.yml; {source}",
        full=functools.partial(build, 0, BATCH[phase], 2048, {}),
        reduced=functools.partial(build, 1, 8, 32, small),
    )


def cases() -> tuple[Case, ...]:
    """Dense and expert models, in training and when served.

    Meshes are the recipes' with less FSDP. What a recipe offloads to the host is computed again here.
    """
    recipes = "benchmarks/maxtext_trillium_model_configs.py"
    scaled = f"{recipes}, llama3_1_405b_8192_fsdp_dcn"
    dropped = f"{recipes}, mixtral_8x7b_dropped"
    spread = f"{recipes}, deepseek_v3_ep16"
    guide = "tests/end_to_end/tpu/deepseek/Run_DeepSeek.md, Decoding"
    drop = {**EINSUM_EXPERTS, "capacity_factor": 1.25}
    drop_more = {**EINSUM_EXPERTS, "capacity_factor": 1.0}
    latent = {**EINSUM_EXPERTS, **SERVED, "scan_layers": False, "mla_naive_kvcache": False}
    deepseek = "deepseek3-671b"
    return (
        case("llama3_8b.forward", "llama3-8b", "configs/base.yml", SERVED, SMALL),
        case("llama31_405b.train", "llama3.1-405b", scaled, {}, SMALL, tensor=(4, 2)),
        case("mixtral_8x7b.train", "mixtral-8x7b", dropped, drop, SMALL_MIXTRAL),
        case("deepseek3_671b.train", deepseek, spread, drop_more, SMALL_DEEPSEEK, expert=(16, 4)),
        case("deepseek3_671b_mla.decode", deepseek, guide, latent, SMALL_DEEPSEEK, tensor=(64, 8)),
    )
