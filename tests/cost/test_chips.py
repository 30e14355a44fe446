"""Chips: every number has a source; known values; fallbacks of dtypes; calibrated copies."""

import dataclasses

import pytest

from autoshard.cost.chips import CHIPS, Chip, chip
from autoshard.cost.errors import AutoshardError, UnknownChipError

NUMBERS = [f.name for f in dataclasses.fields(Chip) if f.type is float]


@pytest.mark.parametrize("name", CHIPS)
def test_every_number_has_unit_and_source_and_equals_its_field(name: str) -> None:
    one = chip(name)
    for number in NUMBERS:
        quantity = one.source(number)
        assert quantity.value == getattr(one, number)
        assert quantity.unit and quantity.source
    for dtype, value in one.peak_flops_per_second.items():
        assert one.source(f"peak_flops_per_second.{dtype}").value == value


@pytest.mark.parametrize("name", CHIPS)
def test_numbers_are_physical(name: str) -> None:
    one = chip(name)
    assert 0 < one.hbm_usable_bytes <= one.hbm_bytes
    assert one.on_chip_bytes < one.hbm_bytes
    for share in (one.hbm_streaming_fraction, one.mxu_fraction, one.exposed_ici_fraction):
        assert 0 < share <= 1
    assert one.dcn_bytes_per_second < one.link_bytes_per_second < one.hbm_bytes_per_second
    assert one.peak("int8") >= one.peak("bfloat16") >= one.peak("float32")


def test_v4_is_the_paper_s_chip() -> None:
    v4 = chip("v4")
    assert v4.peak("bfloat16") == 275e12
    assert v4.hbm_bytes == 32 * 2**30
    assert v4.hbm_bytes_per_second == 1200e9
    assert 6 * v4.link_bytes_per_second == 270e9
    # 872 bytes per cycle at 1050 MHz is what the compiler charges a weight-streaming matmul.
    assert v4.hbm_bytes_per_second * v4.hbm_streaming_fraction == pytest.approx(872 * 1.05e9, rel=1e-3)


def test_usable_hbm_is_the_compiler_s_limit() -> None:
    limits = {
        "v2": 2 * 7.48,
        "v3": 2 * 15.48,
        "v4": 30.75,
        "v5e": 15.75,
        "v5p": 95.73,
        "v6e": 31.24,
        "tpu7x": 2 * 94.74,
    }
    for name, gib in limits.items():
        assert chip(name).hbm_usable_bytes == pytest.approx(gib * 2**30)
        assert chip(name).source("hbm_usable_bytes").provenance == "compiler"


def test_v5e_streams_weights_at_the_compiler_s_rate() -> None:
    v5e = chip("v5e")
    assert v5e.hbm_bytes_per_second * v5e.hbm_streaming_fraction == pytest.approx(613e9, rel=5e-3)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bfloat16", 459e12),
        ("float16", 459e12),
        ("int8", 918e12),
        ("uint4", 918e12),
        ("float8_e4m3fn", 459e12),
        ("float32", 459e12),
        ("int32", 459e12),
    ],
)
def test_dtypes_without_an_entry_take_another_s_peak(dtype: str, expected: float) -> None:
    assert chip("v5p").peak(dtype) == expected


def test_int8_falls_back_to_bfloat16() -> None:
    assert chip("tpu7x").peak("int8") == chip("tpu7x").peak("bfloat16") == 2307e12


def test_chips_of_two_devices() -> None:
    several = {name: one.devices_per_chip for name, one in CHIPS.items() if one.devices_per_chip != 1}
    assert several == {"v2": 2, "v3": 2, "tpu7x": 2}


def test_two_cores_of_v2_and_v3_are_added_up() -> None:
    # Read from compiled programs, per core: 247 byte/cycle at 700 MHz, 417 at 940 MHz.
    for name, per_core in (("v2", 247 * 0.7e9), ("v3", 417 * 0.94e9)):
        one = chip(name)
        assert one.hbm_bytes_per_second * one.hbm_streaming_fraction == pytest.approx(2 * per_core, rel=0.01)


def test_a_host_s_network_is_the_share_of_its_chips() -> None:
    # The scaling book: typically 25e9 byte/s per host; v5e: 2 x 100 Gbit/s; H100 and B200: 400e9 per node.
    hosts = {name: one.chips_per_host * one.dcn_bytes_per_second for name, one in CHIPS.items()}
    assert {name: hosts[name] for name in ("v4", "v5e", "v5p")} == {"v4": 25e9, "v5e": 25e9, "v5p": 25e9}
    assert {name: hosts[name] for name in ("a100", "h100", "h200", "b200")} == {
        "a100": 200e9,
        "h100": 400e9,
        "h200": 400e9,
        "b200": 400e9,
    }


def test_h200_is_h100_with_more_and_faster_memory() -> None:
    h100, h200 = chip("h100"), chip("h200")
    changed = {n for n in NUMBERS if getattr(h100, n) != getattr(h200, n)}
    assert changed == {"hbm_bytes", "hbm_usable_bytes", "hbm_bytes_per_second", "on_chip_bandwidth_ratio"}
    # Bandwidth of the L2 cache, which is the same.
    for one in (h100, h200):
        assert one.on_chip_bandwidth_ratio * one.hbm_bytes_per_second == pytest.approx(5.5e12, rel=0.03)


def test_unknown_chip_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(
        UnknownChipError, match=r"unknown chip 'v5x'.*v4, v5e, v5p, v6e.*did you mean 'v5"
    ) as info:
        chip("v5x")
    assert isinstance(info.value, AutoshardError)
    with pytest.raises(UnknownChipError, match="did you mean 'h100'"):
        chip("H100")


def test_source_of_an_unknown_number_lists_the_known() -> None:
    with pytest.raises(AutoshardError, match=r"has no number 'speed'; it has .*clock_hz"):
        chip("v4").source("speed")


def test_calibrated_copy_changes_value_and_source_and_leaves_the_table() -> None:
    v4 = chip("v4")
    mine = v4.with_values("measured", "my slice", hop_seconds=1e-6, peak_bfloat16=200e12)
    assert (mine.hop_seconds, mine.peak("bfloat16")) == (1e-6, 200e12)
    assert mine.source("hop_seconds").provenance == "measured"
    assert mine.source("peak_flops_per_second.bfloat16").source == "my slice"
    assert mine.peak("int8") == v4.peak("int8")
    assert mine != v4 and chip("v4").hop_seconds == 2.5e-6
    with pytest.raises(AutoshardError, match="no number 'warp'"):
        v4.with_values("measured", "my slice", warp=9.0)


def test_chips_are_hashable() -> None:
    assert len({*CHIPS.values()}) == len(CHIPS)
