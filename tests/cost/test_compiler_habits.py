"""The compiler's habits: the shards for which programs were compiled and read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.collectives import Kind
from autoshard.cost.compiler_habits import (
    all_reduced_scatters,
    lane_waste,
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
    found = [n for n in (*ALL_REDUCED, *SCATTERED) if scatter_becomes_all_reduce(n, 1.0, 2, chip(name))]
    assert found == [*ALL_REDUCED]


def test_float32_is_scattered_wherever_another_dim_fills_lanes() -> None:
    assert not any(scatter_becomes_all_reduce(n, 1.0, 4, chip("v5e")) for n in (*ALL_REDUCED, *SCATTERED))


MOVED_ROWS = {288: {128, 256, 512}, 96: {128, 256}, 160: {128, 192}, 64: {128, 192}, 320: {128}, 144: {192}}
"""Shards, and the sizes of the other dim that was made the minor one; of 8, 64, 128, 192, 256, 512."""


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_shard_that_is_no_whole_tile_wants_a_better_minor_dim(itemsize: int) -> None:
    for shard, rows in MOVED_ROWS.items():
        for others in (8, 64, 128, 192, 256, 512):
            waste = float(lane_waste(others))
            reduced = scatter_becomes_all_reduce(shard, waste, itemsize, chip("v4"))
            if others in rows:
                assert not reduced, (shard, others)
            elif others in (8, 64):
                assert reduced, (shard, others)


def test_lanes_come_in_128() -> None:
    assert lane_waste(np.array([64, 128, 192, 288])).tolist() == [2.0, 1.0, 256 / 192, 384 / 288]


def test_the_feed_forward_of_palm_540b_over_64_chips_is_all_reduced() -> None:
    assert 73728 // 64 == 1152
    assert scatter_becomes_all_reduce(73728 // 64, 1.0, 2, chip("v4"))
    assert not scatter_becomes_all_reduce(73728 // 16, 1.0, 2, chip("v4"))


def test_only_tpu_compilers_have_the_habits() -> None:
    others = [one for one in CHIPS.values() if one.kind != "tpu"]
    assert len(others) == 5
    assert not any(scatter_becomes_all_reduce(128, 1.0, 2, one) for one in others)


def layouts(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return np.array(rows, dtype=np.int8)


def test_reshards_by_the_shard_that_a_scatter_leaves() -> None:
    # F = 73728 = 64 * 1152: an odd shard over all 64 chips, an even one over 16 or 4.
    have = layouts((OPEN, MINOR, MINOR), (NONE, MINOR, MINOR), (OPEN, ROWS, MINOR))
    want = layouts((MINOR, MINOR, MINOR), (ROWS, MINOR, MINOR))
    found = all_reduced_scatters(have, want, (512, 73728), 2, CUBE)
    assert found.tolist() == [
        [True, False],  # scattered over x to 1152; over rows
        [False, False],  # nothing is scattered
        [False, False],  # over x and z to 4608
    ]
    assert not all_reduced_scatters(have, want, (512, 73728), 4, CUBE).any()


def test_axes_that_leave_the_minor_dim_later_split_it_still() -> None:
    # 1024 over y and z are 64, no whole tile; over y alone 256; over x and y 64.
    have = layouts((OPEN, MINOR, MINOR), (OPEN, ROWS, ROWS))
    want = layouts((MINOR, NONE, NONE), (MINOR, ROWS, NONE))
    assert not all_reduced_scatters(have, want, (512, 1024), 2, CUBE).any()
    assert all_reduced_scatters(have, want, (512, 8192), 2, CUBE).tolist() == [[True, True], [False, False]]


def test_scatters_beside_idle_axes_are_all_reduced() -> None:
    have = layouts((OPEN, NONE, ROWS), (OPEN, MINOR, ROWS))
    want = layouts((MINOR, NONE, ROWS), (MINOR, MINOR, ROWS), (NONE, MINOR, ROWS))
    found = all_reduced_scatters(have, want, (512, 2**20), 2, CUBE)
    assert found.tolist() == [
        [True, True, False],
        [False, False, False],
    ]  # y is idle, or splits the minor dim


def test_scatters_onto_two_dims_are_all_reduced() -> None:
    have, want = (
        layouts((OPEN, OPEN, ROWS)),
        layouts((MINOR, ROWS, ROWS), (MINOR, MINOR, ROWS), (ROWS, ROWS, ROWS)),
    )
    assert all_reduced_scatters(have, want, (4096, 2**20), 2, CUBE).tolist() == [[True, False, False]]


def test_few_sequences_leave_a_decode_step_no_minor_dim_to_scatter_by() -> None:
    # 18432 over 64 chips are 288 a chip, which wants 384 lanes; 64 sequences want 128, 512 none beside.
    have, want = layouts((OPEN, OPEN, 2)), layouts((2, 2, 2))
    assert all_reduced_scatters(have, want, (64, 1, 18432), 2, CUBE).all()
    assert not all_reduced_scatters(have, want, (512, 1, 18432), 2, CUBE).any()


SQUARE = native_mesh(parse_slice("v5e:2x2"))
ROWS_TRIED: dict[
    tuple[tuple[int, ...], int], bool
] = {  # (dims before the minor one, the scattered one): whether four chips of v4 scatter it
    **{((b,), 0): b >= 44 for b in (4, 8, 16, 32, 36, 40, 44, 48, 64, 96, 256)},
    **{((b, 1), 0): b >= 44 for b in (4, 8, 16, 32, 48, 64, 96, 256)},
    **{((b, 2), 0): b == 64 for b in (4, 16, 32, 48, 64)},
    **{((b, 4), 0): False for b in (8, 12, 16, 32)},
    **{((4, length), 0): True for length in (6, 8, 16, 2048)},
    ((8, 24), 0): True,
    **{((b, 64), 1): True for b in (2, 4)},
    **{((b, 32), 1): False for b in (2, 4, 16, 64)},
    **{((b, length), 1): False for b, length in ((2, 48), (4, 48), (4, 80), (8, 96), (64, 16), (4, 16))},
    **{((1, length), 1): True for length in (96, 256)},
    **{((b, 4, h), 1): True for b, h in ((8, 8), (4, 8), (4, 16))},
}


@pytest.mark.parametrize(("dims", "dim"), ROWS_TRIED)
def test_rows_are_scattered_in_whole_tiles(dims: tuple[int, ...], dim: int) -> None:
    have, want = np.array([[OPEN, OPEN]], dtype=np.int8), np.array([[dim, dim]], dtype=np.int8)
    found = all_reduced_scatters(have, want, (*dims, 4096), 2, SQUARE)
    assert found.tolist() == [[not ROWS_TRIED[dims, dim]]]


def test_float32_has_tiles_of_half_the_rows() -> None:
    have, want = np.array([[OPEN, OPEN]], dtype=np.int8), np.array([[1, 1]], dtype=np.int8)
    assert all_reduced_scatters(have, want, (4, 32, 4096), 2, SQUARE).all()
    assert not all_reduced_scatters(have, want, (4, 32, 4096), 4, SQUARE).any()


MESH = native_mesh(parse_slice("v5e:2x4"))
OPEN_LAYOUTS = enumerate_layouts((8, 2048), MESH, unreduced=True)
CLOSED = enumerate_layouts((8, 2048), MESH)


@given(st.sampled_from(range(len(OPEN_LAYOUTS))), st.sampled_from(range(len(CLOSED))))
def test_only_what_scatters_becomes_an_all_reduce(i: int, j: int) -> None:
    (found,) = all_reduced_scatters(OPEN_LAYOUTS[[i]], CLOSED[[j]], (8, 2048), 2, MESH)[0]
    kinds = [c.kind for c in reshard_collectives(OPEN_LAYOUTS[i], CLOSED[j], 8 * 2048 * 2, MESH)]
    assert not found or Kind.REDUCE_SCATTER in kinds


WHOLE = {  # topologies: whether a scatter over all their chips stays one
    **dict.fromkeys(("v4:2x2x1", "v5p:2x2x1", "v5e:2x2", "v5e:2x4", "v6e:2x4", "v5e:4x8", "v6e:4x8"), True),
    **dict.fromkeys(("v4:2x2x2", "v4:2x2x4", "v4:4x4x4", "v4:8x8x8", "v5p:2x2x2", "v5p:4x4x8"), False),
    **dict.fromkeys(("v5e:4x4", "v6e:4x4", "v5e:8x8", "v5e:8x16", "v6e:16x16"), False),
}


@pytest.mark.parametrize("name", WHOLE)
def test_scatters_over_all_chips_are_all_reduced_on_all_but_small_slices(name: str) -> None:
    mesh = native_mesh(parse_slice(name))
    every = len(mesh.axes)
    have, want = np.full((1, every), OPEN, np.int8), np.full((1, every), MINOR, np.int8)
    assert all_reduced_scatters(have, want, (1024, 2**20), 2, mesh).tolist() == [[not WHOLE[name]]]


def test_scatters_over_all_but_one_axis_stay() -> None:
    have, want = layouts((OPEN, OPEN, MINOR), (OPEN, OPEN, ROWS)), layouts((MINOR, MINOR, MINOR))
    assert not all_reduced_scatters(have, want, (1024, 2**20), 2, CUBE)[0, 0]
