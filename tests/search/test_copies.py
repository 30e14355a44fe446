"""What a reshard holds on each chip, by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from autoshard.cost.layouts import REPLICATED, UNREDUCED
from autoshard.search.copies import Side, copied_bytes
from tests.search.graphs import mesh_of

PLANE = mesh_of("v5e:2x4")
X, Y = PLANE.shape
ROWS, COLUMNS = 0, 1
NBYTES = 4096.0


def _layouts(*codes: tuple[int, int]) -> npt.NDArray[np.int8]:
    return np.array(codes, dtype=np.int8)


def _bytes(source: tuple[int, int], target: tuple[int, int], side: Side) -> float:
    return float(copied_bytes(NBYTES, (64, 64), _layouts(source), _layouts(target), side, PLANE)[0, 0])


def test_what_keeps_its_layout_has_no_copies() -> None:
    assert all(_bytes((ROWS, COLUMNS), (ROWS, COLUMNS), side) == 0 for side in Side)


def test_a_gather_leaves_small_and_arrives_large() -> None:
    whole, split = (REPLICATED, REPLICATED), (ROWS, REPLICATED)
    assert _bytes(split, whole, Side.LEAVING) == NBYTES / X
    assert _bytes(split, whole, Side.ARRIVING) == NBYTES
    assert _bytes(split, whole, Side.SENT) == 0


def test_an_all_to_all_sends_blocks() -> None:
    assert _bytes((ROWS, REPLICATED), (COLUMNS, REPLICATED), Side.SENT) == NBYTES / X
    # y is sliced first, and gathered last.
    assert _bytes((ROWS, REPLICATED), (COLUMNS, ROWS), Side.SENT) == NBYTES / (X * Y)
    assert _bytes((ROWS, COLUMNS), (COLUMNS, REPLICATED), Side.SENT) == NBYTES / (X * Y)


@pytest.mark.parametrize("source", [(UNREDUCED, REPLICATED), (ROWS, REPLICATED)])
def test_sums_and_exchanges_cut_nothing(source: tuple[int, int]) -> None:
    assert _bytes(source, (COLUMNS, REPLICATED), Side.CUT) == 0


def test_what_is_read_in_parts_is_cut() -> None:
    assert _bytes((REPLICATED, ROWS), (COLUMNS, ROWS), Side.CUT) == NBYTES / (X * Y)
    assert _bytes((REPLICATED, REPLICATED), (COLUMNS, REPLICATED), Side.CUT) == NBYTES / X
