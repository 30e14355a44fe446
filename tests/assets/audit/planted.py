"""Small models with and without a planted fault; the lines of the faults say so."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

MESH = AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def sharded(*spec: str | None) -> NamedSharding:
    return NamedSharding(MESH, P(*spec))


def array(shape: tuple[int, ...], *spec: str | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharded(*spec))


def mlp(up: Array, down: Array, x: Array, *, faulty: bool) -> Array:
    def layer(x: Array, weights: tuple[Array, Array]) -> tuple[Array, None]:
        with jax.named_scope("ffn"):
            hidden = jnp.einsum("be,ef->bf", x, weights[0])
            if faulty:
                hidden = jax.lax.with_sharding_constraint(hidden, sharded())  # fault: gathers in the layer
            return x + jnp.einsum("bf,fe->be", jax.nn.relu(hidden), weights[1]), None

    return jax.lax.scan(layer, x, (up, down))[0]


sound = functools.partial(mlp, faulty=False)
faulty = functools.partial(mlp, faulty=True)


def mlp_inputs() -> tuple[jax.ShapeDtypeStruct, ...]:
    """Hidden dim sharded over y, batch over x."""
    up, down = array((6, 1024, 8192), None, None, "y"), array((6, 8192, 1024), None, "y", None)
    return up, down, array((512, 1024), "x", None)


def split_heads(weight: Array, x: Array) -> Array:
    with jax.named_scope("heads"):
        hidden = jnp.einsum("be,eq->bq", x, weight)
        hidden = jax.lax.with_sharding_constraint(hidden, sharded("x", "y"))
        heads = hidden.reshape(256, 6, 512)  # fault: 4 shards do not divide 6 heads
        placed: Array = jax.lax.with_sharding_constraint(heads, sharded("x", None, "y"))
        return placed * 2


def split_heads_inputs() -> tuple[jax.ShapeDtypeStruct, ...]:
    return array((512, 3072), None, "y"), array((256, 512), "x", None)
