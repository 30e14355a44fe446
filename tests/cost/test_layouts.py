"""Layouts: shards per dim, local share, enumeration."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.layouts import REPLICATED, UNREDUCED, enumerate_layouts, local_fraction, shard_counts
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

MESH = native_mesh(parse_slice("v4:2x4x4"))


def layouts(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.int8)


def test_shard_counts_by_hand() -> None:
    some = layouts((-1, -1, -1), (0, -1, 1), (1, 1, 1), (-2, 0, 0))
    assert shard_counts(some, 2, MESH).tolist() == [[1, 1], [2, 4], [1, 32], [16, 1]]


def test_local_fraction_ignores_unreduced_axes() -> None:
    some = layouts((-1, -1, -1), (0, -1, 1), (-2, 0, 0), (-2, -2, -2))
    assert local_fraction(some, MESH).tolist() == [1.0, 1 / 8, 1 / 16, 1.0]


def test_enumeration_by_hand_drops_uneven_layouts() -> None:
    mesh = native_mesh(parse_slice("v5e:2x4"))
    # 4 divides by 2, by 4, but not by 8; 2 divides by 2 only.
    assert enumerate_layouts((4, 2), mesh).tolist() == [[-1, -1], [-1, 0], [0, -1], [1, -1], [1, 0]]


def test_enumeration_of_a_scalar() -> None:
    assert enumerate_layouts((), MESH).tolist() == [[-1, -1, -1]]
    assert len(enumerate_layouts((), MESH, unreduced=True)) == 8


def test_enumeration_leaves_axes_of_size_one_alone() -> None:
    assert enumerate_layouts((8,), native_mesh(parse_slice("v5e:1x1")), unreduced=True).tolist() == [[-1]]


@given(st.lists(st.sampled_from([1, 2, 3, 4, 8, 32, 48]), max_size=3), st.booleans())
def test_enumeration_is_all_even_layouts(shape: list[int], unreduced: bool) -> None:
    entries = [REPLICATED, *range(len(shape)), *([UNREDUCED] if unreduced else [])]
    expected = [
        row
        for row in itertools.product(entries, repeat=3)
        if all(
            size % np.prod([n for n, entry in zip(MESH.shape, row, strict=True) if entry == dim], initial=1)
            == 0
            for dim, size in enumerate(shape)
        )
    ]
    found = enumerate_layouts(tuple(shape), MESH, unreduced=unreduced)
    assert found.dtype == np.int8
    assert [tuple(row) for row in found.tolist()] == expected
    assert found[0].tolist() == [REPLICATED] * 3
