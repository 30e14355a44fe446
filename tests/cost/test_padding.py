"""Padding: sizes, bytes and reshards of dims that the chips do not divide, counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.collectives import Kind
from autoshard.cost.layouts import (
    PADDING_LIMIT,
    enumerate_layouts,
    local_fraction,
    padding_of_dims,
)
from autoshard.cost.padding import cuts_whole, moves_blocks, reshard_padding
from autoshard.cost.reshard import reshard_collectives, reshard_law, reshard_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

MESH = native_mesh(parse_slice("v5e:2x4"))
CUBE = native_mesh(parse_slice("v4:4x4x4"))
NONE, OPEN = -1, -2
HEADS = (8, 25)
"""Batch and heads."""
B, H = 0, 1


def layouts(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.int8)


def test_blocks_are_whole_elements() -> None:
    # 25 over 2 are blocks of 13, over 4 of 7, over 8 of 4.
    some = layouts((NONE, NONE), (H, NONE), (NONE, H), (H, H), (B, B), (OPEN, H))
    ratios = padding_of_dims(some, HEADS, MESH)
    assert ratios[:, B].tolist() == [1.0] * 6
    assert ratios[:, H].tolist() == [1.0, 26 / 25, 28 / 25, 32 / 25, 1.0, 28 / 25]
    assert local_fraction(some, MESH, HEADS) == pytest.approx([1, 13 / 25, 7 / 25, 4 / 25, 1 / 8, 7 / 25])


def test_48_heads_on_64_chips_are_one_head_a_chip() -> None:
    assert local_fraction(layouts((0, 0, 0)), CUBE, (48,)) == pytest.approx([1 / 48])
    assert local_fraction(layouts((0, 0, NONE)), CUBE, (48,)) == pytest.approx([3 / 48])


def test_padded_layouts_are_offered_below_the_limit_only() -> None:
    # 3 over 2 and over 4 are padded to 4; over 8 to 8, more than twice the elements.
    assert enumerate_layouts((3,), MESH).tolist() == [[NONE, NONE]]
    padded = enumerate_layouts((3,), MESH, padded=True)
    assert padded.tolist() == [[NONE, NONE], [NONE, 0], [0, NONE]]
    # Each of two dims is padded to 4/3; together to 16/9, still below twice.
    assert [0, 1] in enumerate_layouts((3, 3), MESH, padded=True).tolist()
    assert PADDING_LIMIT == 2.0


@given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 64, 1024]), max_size=3), st.booleans())
def test_powers_of_two_have_no_padded_layouts(shape: list[int], unreduced: bool) -> None:
    even = enumerate_layouts(tuple(shape), MESH, unreduced=unreduced)
    padded = enumerate_layouts(tuple(shape), MESH, unreduced=unreduced, padded=True)
    assert even.tolist() == padded.tolist()


def test_gathers_and_exchanges_move_padded_blocks() -> None:
    have = layouts((NONE, H), (NONE, B), (NONE, NONE))
    want = layouts((NONE, NONE), (NONE, H), (NONE, B))
    ratio = reshard_padding(have, want, HEADS, MESH)
    assert ratio is not None
    assert ratio.tolist() == [[28 / 25, 28 / 25, 28 / 25], [1.0, 28 / 25, 1.0], [1.0, 28 / 25, 1.0]]
    law, nbytes = reshard_law(have, want, MESH), 8 * 25 * 2.0 * 1000
    seconds = reshard_seconds(have, want, nbytes, MESH, HEADS)
    assert seconds == pytest.approx(law.latency_seconds + ratio * nbytes * law.seconds_per_byte)


def test_the_collective_says_the_padded_bytes() -> None:
    nbytes = 8 * 25 * 2.0
    (gather,) = reshard_collectives(layouts((NONE, H))[0], layouts((NONE, NONE))[0], nbytes, MESH, HEADS)
    assert gather.kind is Kind.ALL_GATHER
    assert gather.bytes_per_chip == pytest.approx(8 * 28 * 2.0)
    (exchange,) = reshard_collectives(layouts((H, H))[0], layouts((B, B))[0], nbytes, MESH, HEADS)
    assert exchange.kind is Kind.ALL_TO_ALL
    assert exchange.bytes_per_chip == pytest.approx(8 * 4 * 2.0)


def test_a_sum_scattered_onto_a_padded_dim_is_all_reduced_whole() -> None:
    shape = (8, 25, 64, 128)  # neither of the first two dims lies along a tile
    for itemsize in (2, 4):
        nbytes, summed = float(itemsize * np.prod(shape)), layouts((2, OPEN))[0]
        (found,) = reshard_collectives(summed, layouts((2, H))[0], nbytes, MESH, shape)
        assert found.kind is Kind.ALL_REDUCE
        assert found.bytes_per_chip == pytest.approx(nbytes / 2)
        (even,) = reshard_collectives(summed, layouts((2, B))[0], nbytes, MESH, shape)
        assert even.kind is Kind.REDUCE_SCATTER


def test_a_reshard_of_even_layouts_is_not_padded() -> None:
    even = enumerate_layouts((8, 16), MESH)
    assert reshard_padding(even, even, (8, 16), MESH) is None
    assert moves_blocks(even, even, (8, 16), MESH) is None


@pytest.mark.parametrize(
    ("have", "want", "moves"),
    [
        ((NONE, H), (NONE, H), False),  # it stays
        ((NONE, H), (NONE, NONE), False),  # gathered
        ((NONE, NONE), (H, H), False),  # sliced
        ((OPEN, NONE), (H, H), False),  # summed, then sliced
        ((H, H), (B, B), False),  # one all-to-all
        ((B, H), (B, NONE), False),  # another dim stays
        ((NONE, H), (H, H), True),  # 7 heads a chip become 4: halos
        ((H, NONE), (NONE, H), True),  # 13 heads a chip become 7
        ((H, H), (B, NONE), True),  # one axis to another dim, one gathered: 13 heads a chip on the way
        ((B, NONE), (H, H), True),  # one axis from another dim, one sliced
    ],
)
def test_blocks_of_another_length_on_the_same_dim_move(
    have: tuple[int, int], want: tuple[int, int], moves: bool
) -> None:
    found = moves_blocks(layouts(have), layouts(want), HEADS, MESH)
    assert found is None or found.shape == (1, 1)
    assert (found is not None and bool(found[0, 0])) is moves


def test_axes_from_two_other_dims_at_once_move_blocks() -> None:
    have, want = layouts((0, 2, 2), (0, 0, 0)), layouts((1, 1, 1))
    found = moves_blocks(have, want, (64, 48, 64), CUBE)
    assert found is not None
    assert found.tolist() == [[True], [False]]


def test_blocks_are_cut_out_of_what_is_whole_along_an_axis() -> None:
    have = layouts((NONE, NONE), (B, NONE), (B, B), (H, NONE))
    found = cuts_whole(have, layouts((NONE, H), (H, H), (B, NONE)), HEADS, MESH)
    assert found is not None
    # whole, or whole along y; all axes come from the batch; y is whole.
    assert found.tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, False],
        [True, True, False],
    ]
    assert cuts_whole(have, layouts((B, NONE)), HEADS, MESH) is None


SHAPE = (6, 25, 8)
CLOSED = enumerate_layouts(SHAPE, MESH, padded=True)
ANY = enumerate_layouts(SHAPE, MESH, unreduced=True, padded=True)


@given(st.sampled_from(range(len(ANY))), st.sampled_from(range(len(CLOSED))))
def test_the_collectives_of_padded_reshards_add_up(i: int, j: int) -> None:
    nbytes = 6 * 25 * 8 * 2.0
    seconds = reshard_seconds(ANY[[i]], CLOSED[[j]], nbytes, MESH, SHAPE)[0, 0]
    parts = reshard_collectives(ANY[i], CLOSED[j], nbytes, MESH, SHAPE)
    assert seconds == pytest.approx(sum(part.seconds for part in parts))


@given(st.sampled_from(range(len(CLOSED))), st.sampled_from(range(len(CLOSED))))
def test_padding_never_makes_a_reshard_of_a_closed_tensor_cheaper(i: int, j: int) -> None:
    nbytes = 6 * 25 * 8 * 2.0
    padded = reshard_seconds(CLOSED[[i]], CLOSED[[j]], nbytes, MESH, SHAPE)
    assert (padded >= reshard_seconds(CLOSED[[i]], CLOSED[[j]], nbytes, MESH) * (1 - 1e-12)).all()
