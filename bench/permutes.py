"""The rules of permutes against XLA's partitioner: it permutes where they say so, and nowhere else.

Run from the repository's root: ``python -m bench.permutes [--reshards N]``.

A random reshard takes a tensor of three dims, each split by random axes in a random order, to another such
spec; every other one starts as an einsum's open sum, beside axes that may be idle. Its program has the steps
that a plan would ask for (`autoshard.search.stages`), is partitioned by XLA for CPU devices, 8 or 16 of them,
and what `autoshard.search.permute_rules` says of it is compared with whether a permute is in the result.
Disagreements are printed whole.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import sys
from dataclasses import dataclass

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both must stand before JAX starts
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=16".strip()
    )

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.search.ordering import Spec
from autoshard.search.permute_rules import Change, compatible, exchanged, moved_alike
from autoshard.search.places import Axes
from autoshard.search.stages import OpenSum, stages

MESH_SIZES = ((2, 2, 2), (2, 2, 2, 2), (2, 4, 2))
RANK = 3
SIZE = 16  # of every dim: all axes of the largest mesh may split one
AXIS_NAMES = "xyzw"
_PROGRESS_EVERY = 50


@dataclass(frozen=True, slots=True)
class Reshard:
    """A tensor's specs before and after, and what of it is still open; axes are numbers."""

    have: Spec
    want: Spec
    open_sum: OpenSum

    def __str__(self) -> str:
        summed = "".join(AXIS_NAMES[axis] for axis in self.open_sum.axes)
        return f"{_text(self.have)}{f' open over {summed}' if summed else ''} -> {_text(self.want)}"


def main() -> None:
    """Draw reshards on every mesh, partition each, and print where the rules are wrong."""
    parser = argparse.ArgumentParser(description="rules of permutes against XLA's partitioner")
    parser.add_argument("--reshards", type=int, default=900, help="how many in all (default %(default)s)")
    count = parser.parse_args().reshards
    agree = 0
    for number in range(count):
        mesh = make_mesh(MESH_SIZES[number % len(MESH_SIZES)])
        reshard = draw(number, mesh.devices.ndim)
        said, found = is_permuted(reshard), has_permute(partitioned(reshard, mesh))
        agree += said == found
        if said != found:
            size = "x".join(map(str, mesh.devices.shape))
            print(f"on {size}: {reshard}: {'no ' * (not found)}permute, the rules say otherwise")
        if not (number + 1) % _PROGRESS_EVERY:
            print(f"{number + 1} of {count} reshards, {agree} as the rules say", file=sys.stderr)
    print(f"jax {jax.__version__}")
    print(f"the rules agree with XLA's partitioner on {agree} of {count} random reshards")


def make_mesh(sizes: tuple[int, ...]) -> Mesh:
    """A mesh of the first devices, as many as its sizes need."""
    devices = np.array(jax.devices()[: int(np.prod(sizes))])
    return Mesh(devices.reshape(sizes), tuple(AXIS_NAMES[: len(sizes)]))


def draw(seed: int, axes_count: int) -> Reshard:
    """The reshard of a seed; of an open sum where the seed is odd."""
    random_ = random.Random(seed)
    axes = tuple(range(axes_count))
    open_axes = tuple(axis for axis in axes if seed % 2 and random_.random() < 0.5)
    have = _draw_spec(tuple(axis for axis in axes if axis not in open_axes), random_)
    used = {*open_axes, *itertools.chain(*have)}
    idle = tuple(axis for axis in axes if axis not in used)
    return Reshard(have, _draw_spec(axes, random_), OpenSum(open_axes, idle))


def _draw_spec(axes: Axes, random_: random.Random) -> Spec:
    """A spec that some of the axes split, in any order."""
    dims: list[Axes] = [()] * (RANK + 1)
    for axis in random_.sample(axes, len(axes)):
        number = random_.randrange(RANK + 1)
        dims[number] = (*dims[number], axis)
    return tuple(dims[:RANK])


def is_permuted(reshard: Reshard) -> bool:
    """What the rules say: whether a permute is part of it."""
    have, want = reshard.have, reshard.want
    change = Change(_layout(have, reshard.open_sum.axes), _layout(want))
    dims = range(RANK)
    before, after = (np.array([layout], np.int8) for layout in (change.before, change.after))
    return (
        not all(compatible(have[dim], want[dim], change) for dim in dims)
        or not all(moved_alike(have[a], want[b]) for a in dims for b in dims if a != b)
        or bool(exchanged(before, after).any())
    )


def _layout(spec: Spec, open_axes: Axes = ()) -> tuple[int, ...]:
    """Per axis the dim that it splits; all axes of the largest mesh, those that a mesh lacks being idle."""
    dims = {axis: number for number, dim in enumerate(spec) for axis in dim}
    return tuple(-2 if axis in open_axes else dims.get(axis, -1) for axis in range(len(AXIS_NAMES)))


def partitioned(reshard: Reshard, mesh: Mesh) -> str:
    """Compiled HLO of an einsum whose result is resharded; of the reshard alone where no sum is open."""
    have, open_axes = reshard.have, reshard.open_sum.axes

    def program(left: jax.Array, right: jax.Array) -> jax.Array:
        found = jnp.einsum("abk,kc->abc", left, right) if open_axes else left
        for spec in stages(have, reshard.want, reshard.open_sum):
            found = jax.lax.with_sharding_constraint(found, _sharding(spec, mesh))
        return found

    left = (have[0], have[1], open_axes) if open_axes else have
    arguments = (
        jax.ShapeDtypeStruct((SIZE,) * RANK, jnp.float32, sharding=_sharding(left, mesh)),
        jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32, sharding=_sharding((open_axes, have[2]), mesh)),
    )
    jitted = jax.jit(program, out_shardings=_sharding(reshard.want, mesh))
    return str(jitted.lower(*arguments).compile().as_text())


def has_permute(hlo: str) -> bool:
    """Whether a compiled program permutes data between devices."""
    return re.search(r" collective-permute(?:-start)?\(", hlo) is not None


def _sharding(spec: Spec, mesh: Mesh) -> NamedSharding:
    dims = (tuple(mesh.axis_names[axis] for axis in dim) or None for dim in spec)
    return NamedSharding(mesh, PartitionSpec(*dims))


def _text(spec: Spec) -> str:
    return "[" + "; ".join(",".join(AXIS_NAMES[axis] for axis in dim) for dim in spec) + "]"


if __name__ == "__main__":
    main()
