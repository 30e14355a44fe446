"""ViT-H/14 by Equimo: an Equinox module for one image, which its users put under `vmap`."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equimo.models.vit import VisionTransformer, vit_huge_patch14_224

from tests.models.case import Case, Program

REDUCED = {"img_size": 56, "dim": 64, "num_heads": [8], "depths": [2], "num_classes": 40}


def forward(static: VisionTransformer, arrays: VisionTransformer, images: jax.Array) -> Any:
    """The logits of every image; a model is `arrays` combined with what is `static`."""
    model = eqx.combine(arrays, static)
    return jax.vmap(partial(model, inference=True))(images)


def build(overrides: dict[str, Any], dtype: Any, key: jax.Array) -> VisionTransformer:
    """The model, with all parameters of one dtype."""
    model = vit_huge_patch14_224(key=key, **overrides)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model)


def arguments(overrides: dict[str, Any], batch: int, dtype: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    """Arguments of `forward`, but for what is static."""
    model = build(overrides, dtype, key)
    size = model.patch_embed.img_size
    return eqx.filter(model, eqx.is_array), jax.random.normal(key, (batch, 3, *size), dtype)


def program(overrides: dict[str, Any], batch: int, dtype: Any) -> Program:
    """Logits of `batch` images."""
    model = eqx.filter_eval_shape(build, overrides, dtype, jax.random.key(0))
    static = eqx.filter(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True)
    arguments_of = partial(arguments, overrides, batch, dtype)
    return Program(
        fn=partial(forward, static),
        args=jax.eval_shape(arguments_of, jax.random.key(0)),
        values=lambda seed: (arguments_of(jax.random.key(seed)), {}),
    )


def cases() -> tuple[Case, ...]:
    """Forward of ViT-H/14 at 224 pixels."""
    return (
        Case(
            name="equimo.vit_h14.forward",
            phase="forward",
            source="https://arxiv.org/abs/2010.11929, table 1, with patches of 14 pixels",
            full=partial(program, {}, 256, jnp.bfloat16),
            reduced=partial(program, REDUCED, 8, jnp.float32),
        ),
    )
