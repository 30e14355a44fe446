"""Micro-benchmark rows: bytes and times as the sources define them, predictions of single ops."""

import math
from dataclasses import replace

import pytest

from autoshard.cost.chips import chip
from bench.fidelity_microbench import by_family, families_table, held_out_table, left_out_table, log_error
from bench.microbench_rows import Bench, read_benches

GATHER = Bench("g", "v5p:2x2x1", "all-gather", ("x", "y"), 1.0, 1, "bfloat16", (0, 0, 0), 120e6, 1e-3, "")
MATMUL = Bench("m", "tpu7x:1x1x1", "matmul", (), 0.5, 1, "bfloat16", (1024, 1024, 1024), 0.0, 1e-5, "")
COPY = Bench("c", "v6e:1x1", "copy", (), 1.0, 1, "bfloat16", (0, 0, 0), 1e9, 1e-3, "")


def test_every_row_is_either_compared_or_left_out_with_a_reason() -> None:
    used, left_out = read_benches()
    names = [bench.name for bench in used] + [name for name, _, _ in left_out]
    assert sorted(names) == [f"mb-{number:03d}" for number in range(1, 91)]
    assert all(reason for _, _, reason in left_out)
    assert all(bench.seconds > 0 for bench in used)


def test_times_follow_from_the_rates_and_bytes_of_the_sources() -> None:
    by_name = {bench.name: bench for bench in read_benches()[0]}
    # 6 x 65536 float32 over 71.7703e9 byte/s; two cores with a group of 4 devices each: 8 x 256 KiB a chip
    assert by_name["mb-022"].seconds == pytest.approx(6 * 262144 / 71.7703e9, rel=1e-4)
    assert by_name["mb-022"].nbytes == 2 * 4 * 262144
    # 2 (n-1)/n of 606 MB over 235.76e9 byte/s, n = 256
    assert by_name["mb-036"].seconds == pytest.approx(2 * 255 / 256 * 606.077e6 / 235.76e9, rel=1e-4)
    # half of the array on each of two slices
    assert by_name["mb-037"].nbytes == pytest.approx(606.077e6 / 2, rel=1e-4)


def test_a_collective_is_predicted_by_its_law_and_so_often() -> None:
    own = chip("v5p").with_values(
        "assumed",
        "test",
        collective_base_seconds=1e-5,
        hop_seconds=0.0,
        link_bytes_per_second=50e9,
    )
    assert GATHER.predict(own) >= 1e-5 + 90e6 / 100e9  # 3/4 of 120e6 byte over a line of each dim
    five = replace(GATHER, count=5)
    assert five.predict(own) - GATHER.predict(own) == pytest.approx(4e-5)


def test_half_a_chip_takes_twice_as_long_and_a_copy_reads_and_writes() -> None:
    own = chip("tpu7x").with_values("assumed", "test", kernel_seconds=0.0)
    assert MATMUL.predict(own) == pytest.approx(2 * replace(MATMUL, chip_share=1.0).predict(own))
    assert MATMUL.roofline(own)[0] == pytest.approx(
        2 * 1024**3 / (own.peak("bfloat16") * own.mxu_fraction) * 2
    )
    v6e = chip("v6e").with_values("assumed", "test", hbm_streaming_fraction=1.0, hbm_bytes_per_second=1e12)
    assert COPY.roofline(v6e)[0] == 0.0
    assert COPY.roofline(v6e)[1] == pytest.approx(2e-3)


def test_errors_are_of_logarithms() -> None:
    twice = replace(GATHER, seconds=GATHER.predict() / 2)
    half = replace(GATHER, seconds=GATHER.predict() * 2)
    assert log_error(twice) == pytest.approx(math.log(2))
    assert log_error(half) == pytest.approx(-math.log(2))
    table = families_table([twice, half])
    assert "all-gather v5p  2     0.693" in table


def test_families_are_ops_on_chips() -> None:
    across = replace(GATHER, slice_name="2*v6e:16x16", op="all-reduce", axes=("dcn",))
    assert list(by_family([MATMUL, GATHER, across])) == [
        "all-gather v5p",
        "all-reduce over DCN v6e",
        "matmul tpu7x",
    ]
    assert left_out_table([("mb-1", "matmul", "a reason")]).endswith("a reason")


def test_constants_fitted_on_half_of_the_rows_are_tried_on_the_rest() -> None:
    sizes = (1e6, 2e6, 4e6, 8e6, 16e6, 32e6)
    benches = [replace(GATHER, nbytes=size, seconds=3e-5 + size / 2e11) for size in sizes]
    _, line = held_out_table([*benches, MATMUL]).splitlines()
    assert line.split()[:4] == ["v5p", "6", "0.000", "0.000"]
    assert len(held_out_table(benches[:5]).splitlines()) == 1
