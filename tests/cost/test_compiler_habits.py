"""The compiler's habits: the shards for which programs were compiled and read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.collectives import Kind
from autoshard.cost.compiler_habits import (
    all_reduced_scatters,
    scatter_becomes_all_reduce,
)
from autoshard.cost.layouts import enumerate_layouts
from autoshard.cost.reshard import reshard_collectives
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

CUBE = native_mesh(parse_slice("v4:4x4x4"))
NONE, OPEN, ROWS, MINOR = -1, -2, 0, 1
ALL_REDUCED = (128, 384, 640, 1152, 2432)
SCATTERED = (64, 72, 96, 100, 192, 256, 320, 448, 512, 576, 704, 832, 1024, 1100, 1280)


@pytest.mark.parametrize("name", ["v4", "v5e", "v5p", "v6e"])
def test_bfloat16_is_scattered_in_pairs_of_tiles(name: str) -> None:
    assert [n for n in (*ALL_REDUCED, *SCATTERED) if scatter_becomes_all_reduce(n, 2, chip(name))] == [
        *ALL_REDUCED
    ]


def test_float32_is_always_scattered() -> None:
    assert not any(scatter_becomes_all_reduce(n, 4, chip("v5e")) for n in (*ALL_REDUCED, *SCATTERED))


def test_the_feed_forward_of_palm_540b_over_64_chips_is_all_reduced() -> None:
    assert 73728 // 64 == 1152
    assert scatter_becomes_all_reduce(73728 // 64, 2, chip("v4"))
    assert not scatter_becomes_all_reduce(73728 // 16, 2, chip("v4"))


def test_only_tpu_compilers_have_the_habits() -> None:
    others = [one for one in CHIPS.values() if one.kind != "tpu"]
    assert len(others) == 5
    assert not any(scatter_becomes_all_reduce(128, 2, one) for one in others)


def layouts(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return np.array(rows, dtype=np.int8)


def test_reshards_by_the_shard_that_a_scatter_leaves() -> None:
    # F = 73728 = 64 * 1152: an odd shard over all 64 chips, an even one over 16 or 4.
    have = layouts((OPEN, MINOR, MINOR), (OPEN, NONE, NONE), (NONE, MINOR, MINOR), (OPEN, MINOR, NONE))
    want = layouts((MINOR, MINOR, MINOR), (ROWS, MINOR, MINOR))
    found = all_reduced_scatters(have, want, (512, 73728), 2, CUBE)
    assert found.tolist() == [
        [True, False],  # scattered over x to 1152; over rows
        [True, False],  # y and z are sliced first
        [False, False],  # nothing is scattered
        [True, False],
    ]
    assert not all_reduced_scatters(have, want, (512, 73728), 4, CUBE).any()


def test_axes_that_leave_the_minor_dim_later_split_it_still() -> None:
    # 1024 over y and z are 64, no whole tile; over y alone 256; over x and y 64.
    have = layouts((OPEN, MINOR, MINOR), (OPEN, NONE, NONE))
    want = layouts((MINOR, NONE, NONE), (MINOR, ROWS, NONE))
    assert not all_reduced_scatters(have, want, (512, 1024), 2, CUBE).any()
    assert all_reduced_scatters(have, want, (512, 8192), 2, CUBE).tolist() == [[True, True], [False, False]]


MESH = native_mesh(parse_slice("v5e:2x4"))
OPEN_LAYOUTS = enumerate_layouts((8, 2048), MESH, unreduced=True)
CLOSED = enumerate_layouts((8, 2048), MESH)


@given(st.sampled_from(range(len(OPEN_LAYOUTS))), st.sampled_from(range(len(CLOSED))))
def test_only_what_scatters_becomes_an_all_reduce(i: int, j: int) -> None:
    (found,) = all_reduced_scatters(OPEN_LAYOUTS[[i]], CLOSED[[j]], (8, 2048), 2, MESH)[0]
    kinds = [c.kind for c in reshard_collectives(OPEN_LAYOUTS[i], CLOSED[j], 8 * 2048 * 2, MESH)]
    assert not found or Kind.REDUCE_SCATTER in kinds
