"""A Transformer of sizes that eight chips do not divide: 6 heads, 1001 words, 501 tokens."""

from typing import Any

import jax
import jax.numpy as jnp

LAYERS, WIDTH, HEADS, SIZE, WORDS, TOKENS = 2, 96, 6, 16, 1001, 501


def inputs() -> tuple[Any, ...]:
    def weight(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, "float32")

    layers = {name: weight(LAYERS, WIDTH, HEADS, SIZE) for name in ("wq", "wk", "wv")}
    layers |= {
        "wo": weight(LAYERS, HEADS, SIZE, WIDTH),
        "up": weight(LAYERS, WIDTH, 4 * WIDTH),
        "down": weight(LAYERS, 4 * WIDTH, WIDTH),
    }
    params = {"table": weight(WORDS, WIDTH), "layers": layers}
    return params, jax.ShapeDtypeStruct((1, TOKENS), "int32")


def forward(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """Log likelihood of each token."""

    def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        q, k, v = (jnp.einsum("bse,ehd->bshd", x, w[name]) for name in ("wq", "wk", "wv"))
        weights = jax.nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k) * SIZE**-0.5, axis=-1)
        attended = jnp.einsum("bhst,bthd->bshd", weights, v)
        x = x + jnp.einsum("bshd,hde->bse", attended, w["wo"])
        hidden = jax.nn.gelu(jnp.einsum("bse,ef->bsf", x, w["up"]))
        return x + jnp.einsum("bsf,fe->bse", hidden, w["down"]), None

    x, _ = jax.lax.scan(layer, params["table"][tokens], params["layers"])
    logits = jnp.einsum("bse,ve->bsv", x, params["table"])
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
