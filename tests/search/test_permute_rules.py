"""Reshards that have to permute data, by hand."""

import numpy as np
import pytest

from autoshard.search.permute_rules import Change, compatible, exchanged, moved_alike, permuted

X, Y, Z = 0, 1, 2
R, U = -1, -2
"""Neither splits a dim: an axis that does nothing, and one over which a sum is open."""
A, B, C = 0, 1, 2
"""Dims; the orders are those of A."""

CASES = [
    # Before and after, the layouts before and after, the axes that a permute reorders.
    ((X, Y), (Y, X), (A, A, R), (A, A, R), (X, Y)),
    ((X, Y), (Y,), (A, A, R), (R, A, R), (X, Y)),  # what stays is the minor axis
    ((X, Y, Z), (X, Z), (A, A, A), (A, R, A), (Y, Z)),  # x is where it belongs
    ((), (X, Y, Z), (B, B, R), (A, A, A), (X, Y, Z)),  # z comes first, from nowhere
    ((), (Z, X, Y), (B, B, R), (A, A, A), ()),
    ((), (Z, X, Y), (R, B, U), (A, A, A), ()),  # slices and scatters come in one step
    ((), (X, Y, Z), (B, C, B), (A, A, A), (Y, Z)),  # from two dims in turn
    ((X,), (X, Y), (A, R, R), (A, A, R), ()),
    ((X, Y), (), (A, A, R), (B, R, R), (X, Y)),  # x moves to another dim before y is gathered
    ((Y, X), (), (A, A, R), (B, R, R), ()),
    ((X, Y), (), (A, A, R), (R, R, R), ()),
    ((X, Y, Z), (), (A, A, A), (B, C, B), (Y, Z)),  # to two dims in turn
    ((X, Y), (X, Z), (A, A, B), (A, R, A), (Y, Z)),  # z would come behind y, which is gathered
    ((X, Y), (X, Z), (A, A, B), (A, B, A), ()),  # y moves away first
    ((X,), (Y,), (A, R, R), (B, A, R), (X, Y)),  # y is sliced before x moves away
    ((X,), (Y,), (A, U, R), (B, A, R), (X, Y)),  # or scattered
]


@pytest.mark.parametrize(("have", "want", "before", "after", "moved"), CASES)
def test_a_permute_reorders_the_axes_between_the_first_and_the_last_that_differ(
    have: tuple[int, ...],
    want: tuple[int, ...],
    before: tuple[int, ...],
    after: tuple[int, ...],
    moved: tuple[int, ...],
) -> None:
    change = Change(before, after)
    assert permuted(have, want, change) == moved
    assert compatible(have, want, change) == (not moved)


def test_axes_that_move_together_keep_their_order() -> None:
    assert moved_alike((X, Y), (Z, X, Y))
    assert not moved_alike((X, Y), (Z, Y, X))
    assert moved_alike((X, Y), (Y,))


def test_two_dims_that_exchange_axes() -> None:
    before = np.array([(A, B, R), (A, A, B), (A, R, B)], dtype=np.int8)
    after = np.array([(B, A, R), (B, B, A), (B, C, C)], dtype=np.int8)
    found = exchanged(before, after).tolist()
    assert found == [[True, False, False], [False, True, False], [False, True, False]]
    assert Change((A, B, R), (B, A, C)).moved == (X, Y)
