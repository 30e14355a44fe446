"""Arrays in tiles of 8 rows and 128 lanes, against sizes that the compiler reported."""

import numpy as np
import pytest

from autoshard.cost.tiles import rounding_waste, tile_waste


@pytest.mark.parametrize(
    ("shape", "walked", "waste"),
    [
        ((2**18, 16, 64), (), 1.0),  # the first dim is minor
        ((2**20, 5), (), 8 / 5),
        ((2**18, 3, 128), (), 1.0),  # rows are taken from the first dim
        ((105, 64, 20, 32, 160), (0,), 256 / 160),
        ((105, 64, 20, 32, 160), (), 128 / 105),
        ((4096, 3), (), 4 / 3),  # short dims have short tiles
        ((4096, 1), (), 1.0),
        ((5,), (), 1.0),
        ((80, 5), (0,), 1.0),
    ],
)
def test_an_array_takes_whole_tiles(shape: tuple[int, ...], walked: tuple[int, ...], waste: float) -> None:
    assert tile_waste(np.array([shape]), walked) == pytest.approx([waste])


def test_every_layout_has_its_own_waste() -> None:
    assert tile_waste(np.array([[64, 160], [16, 256], [3, 100]])) == pytest.approx(
        [256 / 160, 1.0, 4 / 3 * 128 / 100]
    )


def test_nothing_takes_no_tiles() -> None:
    assert np.isfinite(tile_waste(np.array([[0, 128]]))).all()
    assert rounding_waste(np.array([0, 1, 130]), 128) == pytest.approx([128.0, 128.0, 256 / 130])
