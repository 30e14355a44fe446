"""Einsum times by hand, with the scaling book's worked examples."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.roofline import einsum_seconds, matmul_seconds, padded_flops, stream_seconds

IDEAL_V5E = dataclasses.replace(chip("v5e"), hbm_streaming_fraction=1.0, mxu_fraction=1.0)
SIZES = st.integers(1, 2000)


def test_a_matmul_on_v4_by_hand() -> None:
    compute, hbm = einsum_seconds(275e12, 1200e9, "bfloat16", chip("v4"))
    assert compute == pytest.approx(1 / 0.91)
    assert hbm == pytest.approx(1 / 0.763)


def test_int8_is_twice_as_fast_where_the_chip_has_it() -> None:
    half, _ = einsum_seconds(1e12, 0.0, "int8", chip("v6e"))
    full, _ = einsum_seconds(1e12, 0.0, "bfloat16", chip("v6e"))
    assert full == pytest.approx(2 * half)


def test_scaling_book_matmul_of_llama_70b_on_32_v5e() -> None:
    # jax-ml/scaling-book, applied inference: D=8192, F=28672, B=64 bf16 on 4x8: 18 us to load, 4 to compute.
    compute, hbm = einsum_seconds(2 * 64 * 8192 * 28672 / 32, 2 * 8192 * 28672 / 32, "bfloat16", IDEAL_V5E)
    assert hbm == pytest.approx(18e-6, rel=0.02)
    assert compute == pytest.approx(4.77e-6, rel=0.01)


def test_scaling_book_v4_loads_200e9_bf16_parameters_in_10_ms() -> None:
    # jax-ml/scaling-book tpus.md, question 1: 32 chips.
    ideal = dataclasses.replace(chip("v4"), hbm_streaming_fraction=1.0)
    assert stream_seconds(400e9 / 32, ideal) == pytest.approx(10e-3, rel=0.05)


def test_times_are_vectorised() -> None:
    compute, hbm = einsum_seconds(np.array([1e12, 2e12]), np.array([0.0, 1e9]), "bfloat16", chip("v5e"))
    assert compute[1] == pytest.approx(2 * compute[0])
    assert hbm[0] == 0.0
    assert hbm[1] == stream_seconds(1e9, chip("v5e"))


def test_padding_by_hand() -> None:
    # v4: m=3 to 8, k=100 to 128, n=130 to 256.
    assert padded_flops(1, 3, 100, 130, chip("v4")) == 2 * 8 * 128 * 256
    # The other way round the left operand stays in the unit: m to 256, n to 8.
    assert padded_flops(1, 130, 100, 3, chip("v4")) == 2 * 8 * 128 * 256
    # v6e has tiles of 256.
    assert padded_flops(5, 8, 256, 257, chip("v6e")) == 5 * 2 * 8 * 256 * 512


def test_nothing_is_padded_on_aligned_shapes_or_hosts() -> None:
    assert padded_flops(2, 64, 256, 512, chip("v6e")) == 2 * 2 * 64 * 256 * 512
    assert padded_flops(1, 3, 5, 7, chip("cpu")) == 2 * 3 * 5 * 7


def test_padding_is_vectorised() -> None:
    flops = padded_flops(1, np.array([1, 8, 9]), 128, 128, chip("v4"))
    assert flops.tolist() == [2.0 * 8 * 128 * 128, 2.0 * 8 * 128 * 128, 2.0 * 16 * 128 * 128]


@given(SIZES, SIZES, SIZES, st.sampled_from(sorted(CHIPS)))
def test_padding_never_gains_and_is_symmetric(m: int, k: int, n: int, name: str) -> None:
    flops = padded_flops(1, m, k, n, chip(name))
    assert flops >= 2 * m * k * n
    assert flops == padded_flops(1, n, k, m, chip(name))


@pytest.mark.parametrize(("m", "k", "n"), [(1, 4096, 16384), (4096, 16384, 1), (1, 16384, 4096)])
def test_a_single_row_is_multiplied_outside_of_the_matrix_unit(m: int, k: int, n: int) -> None:
    seconds = matmul_seconds(3, m, k, n, "bfloat16", chip("v5e"))
    assert seconds == pytest.approx(3 * 4096 * 16384 / 105e9)
    assert seconds > 2 * matmul_seconds(3, m + 1, k + 1, n + 1, "bfloat16", chip("v5e"))


def test_two_rows_are_a_matmul() -> None:
    seconds = matmul_seconds(1, 2, 4096, 16384, "bfloat16", chip("v5e"))
    flops = padded_flops(1, 2, 4096, 16384, chip("v5e"))
    assert seconds == pytest.approx(einsum_seconds(float(flops), 0.0, "bfloat16", chip("v5e"))[0])


def test_a_chip_without_the_habit_multiplies_single_rows_as_others() -> None:
    seconds = matmul_seconds(1, 1, 4096, 128, "bfloat16", chip("h100"))
    assert seconds == pytest.approx(
        float(padded_flops(1, 1, 4096, 128, chip("h100")))
        / (chip("h100").peak("bfloat16") * chip("h100").mxu_fraction)
    )
