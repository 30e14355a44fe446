"""Where a tensor lives, and what that costs, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.roofline import stream_seconds
from autoshard.cost.traffic import copy_seconds, traffic_seconds

MIB = 2**20
NAMES = st.sampled_from(sorted(CHIPS))
SIZES = st.floats(0, 1e12)


def test_v5e_keeps_32_mib_on_chip() -> None:
    # 128 MiB of VMEM, of which one tensor may take a quarter; 22 times the 0.75 * 819e9 byte/s of HBM.
    seconds = traffic_seconds(np.array([32.0 * MIB, 32.0 * MIB + 1]), chip("v5e"))
    assert seconds[0] == pytest.approx(32 * MIB / (22 * 0.75 * 819e9))
    assert seconds[1] == pytest.approx(32 * MIB / (0.75 * 819e9))


def test_a_copy_reads_and_writes_what_does_not_stay_on_chip() -> None:
    seconds = copy_seconds(np.array([0.0, 32.0 * MIB, 64.0 * MIB]), chip("v5e"))
    assert seconds[:2].tolist() == [0.0, 0.0]
    assert seconds[2] == pytest.approx(2 * 64 * MIB / (0.75 * 819e9))


def test_any_shape_goes() -> None:
    assert traffic_seconds(np.ones((2, 3)), chip("v4")).shape == (2, 3)
    assert copy_seconds(np.ones((2, 3)), chip("v4")).shape == (2, 3)


@given(SIZES, SIZES, NAMES)
def test_more_bytes_never_take_less_time(few: float, more: float, name: str) -> None:
    sizes = np.sort(np.array([few, more]))
    for law in (traffic_seconds, copy_seconds):
        seconds = law(sizes, chip(name))
        assert 0 <= seconds[0] <= seconds[1]


@given(SIZES, NAMES)
def test_nothing_is_slower_than_hbm(nbytes: float, name: str) -> None:
    hbm = stream_seconds(np.array([nbytes]), chip(name))
    assert (traffic_seconds(np.array([nbytes]), chip(name)) <= hbm).all()
    assert (copy_seconds(np.array([nbytes]), chip(name)) <= 2 * hbm).all()
