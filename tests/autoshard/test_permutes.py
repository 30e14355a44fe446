"""Where the rules of permutes say that there is one, and nowhere else, XLA's partitioner makes one."""

import itertools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.search.ordering import Spec
from autoshard.search.permute_rules import Change, compatible, exchanged, moved_alike
from autoshard.search.places import Axes
from autoshard.search.stages import OpenSum, stages

MESH = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), ("x", "y", "z"))
AXES = (0, 1, 2)
RANK = 3
SIZE = 16


def draw_spec(axes: Axes, random_: random.Random) -> Spec:
    """A spec of three dims that some of the axes split."""
    dims: list[Axes] = [()] * (RANK + 1)
    for axis in random_.sample(axes, len(axes)):
        number = random_.randrange(RANK + 1)
        dims[number] = (*dims[number], axis)
    return tuple(dims[:RANK])


def draw(seed: int) -> tuple[Spec, Spec, OpenSum]:
    """A reshard, every other one of an open sum."""
    random_ = random.Random(seed)
    open_axes = tuple(axis for axis in AXES if seed % 2 and random_.random() < 0.5)
    have = draw_spec(tuple(axis for axis in AXES if axis not in open_axes), random_)
    used = {*open_axes, *itertools.chain(*have)}
    return have, draw_spec(AXES, random_), OpenSum(open_axes, tuple(a for a in AXES if a not in used))


def layout(spec: Spec, open_axes: Axes = ()) -> tuple[int, ...]:
    dims = {axis: number for number, dim in enumerate(spec) for axis in dim}
    return tuple(-2 if axis in open_axes else dims.get(axis, -1) for axis in AXES)


def is_permuted(have: Spec, want: Spec, open_axes: Axes) -> bool:
    """What the rules say."""
    change = Change(layout(have, open_axes), layout(want))
    dims = range(RANK)
    return (
        not all(compatible(have[dim], want[dim], change) for dim in dims)
        or not all(moved_alike(have[a], want[b]) for a in dims for b in dims if a != b)
        or bool(exchanged(np.array([change.before], np.int8), np.array([change.after], np.int8)).any())
    )


def sharding(spec: Spec) -> NamedSharding:
    dims = (tuple(MESH.axis_names[axis] for axis in dim) or None for dim in spec)
    return NamedSharding(MESH, PartitionSpec(*dims))


def partitioned(have: Spec, want: Spec, open_sum: OpenSum) -> str:
    """HLO of an einsum whose result goes from one spec to another; of no sum at all where none is open."""

    def program(left: jax.Array, right: jax.Array) -> jax.Array:
        found = jnp.einsum("abk,kc->abc", left, right) if open_sum.axes else left
        for spec in stages(have, want, open_sum):
            found = jax.lax.with_sharding_constraint(found, sharding(spec))
        return found

    left = (have[0], have[1], open_sum.axes) if open_sum.axes else have
    arguments = (
        jax.ShapeDtypeStruct((SIZE,) * RANK, jnp.float32, sharding=sharding(left)),
        jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32, sharding=sharding((open_sum.axes, have[2]))),
    )
    return str(jax.jit(program, out_shardings=sharding(want)).lower(*arguments).compile().as_text())


@pytest.mark.parametrize("seed", range(32))
def test_xla_permutes_where_the_rules_say(seed: int) -> None:
    have, want, open_sum = draw(seed)
    found = re.search(r" collective-permute(?:-start)?\(", partitioned(have, want, open_sum))
    assert (found is not None) == is_permuted(have, want, open_sum.axes)
