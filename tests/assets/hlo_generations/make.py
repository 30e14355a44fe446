"""Make the stored programs anew: ``python make.py FOLDER``, with `libtpu` and no TPU.

Each is the forward pass of two scanned Transformer layers, compiled ahead of time for eight chips. Weights
lie sharded over the mesh axis x as they rest and are gathered over it in every layer; heads and the
feed-forward dim lie over the other axes, and so does the model dim between the layers: a layer begins with an
all-gather of the stream and ends with a reduce-scatter. The stream is also rolled by a shard along the batch,
which is a permute. All are compiled with the options that plans have.

The file names say chip, topology, and the version of JAX.
"""

from __future__ import annotations

import lzma
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.compiled.options import default_options
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.topology import compiler_environment, mesh_for

SLICES = ("v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4")
LAYERS, BATCH, LENGTH, MODEL, HIDDEN, HEADS, HEAD = 2, 8, 256, 1024, 4096, 16, 128
SIZES = {"b": BATCH, "l": LENGTH, "e": MODEL, "f": HIDDEN, "h": HEADS, "d": HEAD}
WEIGHTS = {"q": "ehd", "k": "ehd", "v": "ehd", "o": "hde", "up": "ef", "down": "fe"}
FOLDERS = re.compile(r'"[^"\n]*/([^/"\n]+\.py)"')


class Axes:
    """Which mesh axes a dim lies over: x at rest for e and b, the others for f, h and the split dim."""

    def __init__(self, mesh: Mesh) -> None:
        first, *others = mesh.axis_names
        self.mesh = mesh
        self.at_rest = {"e": first, "b": first, "f": tuple(others), "h": tuple(others)}

    def weight(self, dims: str, *, gathered: bool) -> list[Any]:
        return [None if gathered and dim == "e" else self.at_rest.get(dim) for dim in dims]

    def stream(self, *, whole: bool) -> list[Any]:
        over = {"b": self.at_rest["b"]} | ({} if whole else {"e": self.at_rest["f"]})
        return [over.get(dim) for dim in "ble"]

    def sharding(self, spec: list[Any]) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def constrain(self, array: jax.Array, spec: list[Any]) -> jax.Array:
        constrained: jax.Array = jax.lax.with_sharding_constraint(array, self.sharding(spec))
        return constrained


def forward(weights: dict[str, jax.Array], stream: jax.Array, axes: Axes) -> jax.Array:
    def layer(stream: jax.Array, weights: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        stream = stream + jnp.roll(stream, BATCH // 2, axis=0)
        squares = jnp.square(stream.astype(jnp.float32))
        scale = jax.lax.rsqrt(jnp.mean(squares, -1, keepdims=True) + 1e-6)
        normed = axes.constrain(stream * scale.astype(stream.dtype), axes.stream(whole=True))
        whole = {k: axes.constrain(w, axes.weight(WEIGHTS[k], gathered=True)) for k, w in weights.items()}
        with jax.named_scope("attention"):
            q, k, v = (jnp.einsum("ble,ehd->blhd", normed, whole[name]) for name in "qkv")
            logits = jnp.einsum("blhd,bshd->bhls", q, k, preferred_element_type=jnp.float32)
            mixed = jnp.einsum("bhls,bshd->blhd", jax.nn.softmax(logits).astype(stream.dtype), v)
            attended = jnp.einsum("blhd,hde->ble", mixed, whole["o"])
        with jax.named_scope("ffn"):
            hidden = jax.nn.gelu(jnp.einsum("ble,ef->blf", normed, whole["up"]))
            fed = jnp.einsum("blf,fe->ble", hidden, whole["down"])
        return axes.constrain(stream + attended + fed, axes.stream(whole=False)), None

    return jax.lax.scan(layer, stream, weights)[0]


def compiled_text(slice_name: str) -> str:
    slice_ = parse_slice(slice_name)
    axes = Axes(mesh_for(slice_, native_mesh(slice_).axes))

    def shaped(dims: str, spec: list[Any], *first: int) -> jax.ShapeDtypeStruct:
        spec = [None] * len(first) + spec
        shape = (*first, *(SIZES[dim] for dim in dims))
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=axes.sharding(spec))

    weights = {
        name: shaped(dims, axes.weight(dims, gathered=False), LAYERS) for name, dims in WEIGHTS.items()
    }
    stream = shaped("ble", axes.stream(whole=False))

    def step(weights: dict[str, jax.Array], stream: jax.Array) -> jax.Array:
        return forward(weights, stream, axes)

    jitted = jax.jit(step, out_shardings=stream.sharding)
    text = jitted.lower(weights, stream).compile(compiler_options={**default_options(slice_)}).as_text()
    return FOLDERS.sub(r'"\1"', str(text))


def main() -> None:
    os.environ.update(compiler_environment())
    folder = Path(sys.argv[1])
    for slice_name in SLICES:
        text = compiled_text(slice_name)
        name = f"{slice_name.replace(':', '-')}.jax-{jax.__version__}.hlo.xz"
        (folder / name).write_bytes(lzma.compress(text.encode(), preset=9))
        print(f"{name}: {len(text)} characters")


if __name__ == "__main__":
    main()
