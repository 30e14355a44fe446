"""A small train step with choices, for the tests of choices: two scanned layers, one step of descent."""

from typing import Any

import jax
import jax.numpy as jnp

BATCH, WIDTH, INNER = 4096, 64, 256


def forward(params: Any, x: Any, remat: str) -> Any:
    def layer(x: Any, weights: Any) -> Any:
        hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, weights["up"]))
        return x + jnp.tanh(jnp.einsum("bf,fe->be", hidden, weights["down"])), None

    kept = layer if remat == "none" else jax.checkpoint(layer)
    return jax.lax.scan(kept, x, params)[0]


def loss(params: Any, x: Any, remat: str) -> Any:
    return jnp.mean(forward(params, x, remat) ** 2)


def step(params: Any, x: Any, *, remat: str = "none", parts: int = 1) -> Any:
    """The loss and the new parameters; the batch goes through in equal parts."""
    if x.shape[0] % parts:
        raise ValueError(f"{x.shape[0]} rows do not split into {parts}")
    rows = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, -1), 0, 1)

    def add(sums: Any, part: Any) -> Any:
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params, part, remat)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    value, slopes = jax.lax.scan(add, zeros, rows)[0]
    return value / parts, jax.tree.map(lambda one, slope: one - 0.1 * slope / parts, params, slopes)


def abstract() -> tuple[Any, Any]:
    params = {"up": (2, WIDTH, INNER), "down": (2, INNER, WIDTH)}
    types = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in params.items()}
    return types, jax.ShapeDtypeStruct((BATCH, WIDTH), "float32")


def inputs() -> tuple[Any, Any]:
    return abstract()


def arrays() -> tuple[Any, Any]:
    types = jax.tree.leaves(abstract())
    keys = jax.random.split(jax.random.key(0), len(types))
    made = [jax.random.normal(key, one.shape) / 8 for key, one in zip(keys, types, strict=True)]
    params, x = jax.tree.unflatten(jax.tree.structure(abstract()), made)
    return params, x
