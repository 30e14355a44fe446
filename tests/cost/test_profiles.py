"""Chip profiles: what a file may hold, what it changes, and how it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoshard.cost.chips import chip
from autoshard.cost.errors import ProfileError
from autoshard.cost.profiles import (
    MeasuredQuantity,
    Profile,
    calibrated_chip,
    format_profile,
    load_profile,
    parse_profile,
    read_profile,
    require_writable,
    save_profile,
)


def quantity(value: float, unit: str = "byte/s") -> MeasuredQuantity:
    return MeasuredQuantity(value=value, unit=unit, how="by hand")


PROFILE = Profile(
    chip="v5e",
    slice="v5e:4x4",
    device_kind="TPU v5 lite",
    quantities={
        "hbm_streaming_fraction": quantity(0.81, "1"),
        "peak_flops_per_second.int8": quantity(3.5e14, "flop/s"),
        "hop_seconds": quantity(0.0, "s"),
    },
    versions={"jax": "0.10.2"},
)


def written(**changes: Any) -> str:
    """A file with other entries than the profile's."""
    return json.dumps({**json.loads(format_profile(PROFILE)), **changes})


def with_quantity(name: str, value: float, unit: str) -> str:
    return written(quantities={name: {"value": value, "unit": unit, "how": "by hand"}})


def test_measured_numbers_stand_in_for_the_tables_and_say_where_they_are_from(tmp_path: Path) -> None:
    path = tmp_path / "chips" / "mine.json"
    save_profile(PROFILE, path)
    table, found = chip("v5e"), load_profile(path)
    assert found.hbm_streaming_fraction == 0.81
    assert found.peak("int8") == 3.5e14
    assert found.hop_seconds == 0.0
    assert found.peak("bfloat16") == table.peak("bfloat16")
    assert found.hbm_bytes == table.hbm_bytes
    source = found.source("hbm_streaming_fraction")
    assert (source.provenance, source.source) == ("measured", f"{path}: by hand")
    assert found.source("hbm_bytes") == table.source("hbm_bytes")


def test_a_profile_without_numbers_is_the_tables_chip() -> None:
    empty = parse_profile(written(quantities={}), "mine.json")
    assert calibrated_chip(empty, "mine.json") == chip("v5e")


def test_a_file_reads_back_and_is_written_the_same_way_again(tmp_path: Path) -> None:
    text = format_profile(PROFILE)
    again = parse_profile(text, "mine.json")
    assert again == PROFILE
    assert format_profile(again) == text
    assert list(json.loads(text)["quantities"]) == sorted(PROFILE.quantities)
    path = tmp_path / "mine.json"
    path.write_text("old")
    save_profile(PROFILE, path)
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]


def test_values_are_held_to_four_digits() -> None:
    profile = Profile(
        chip="cpu", slice="cpu:8", device_kind="cpu", quantities={"kernel_seconds": quantity(1.23456e-6, "s")}
    )
    assert parse_profile(format_profile(profile), "x").quantities["kernel_seconds"].value == 1.235e-6


def test_the_digest_is_of_the_numbers_alone() -> None:
    other_words = parse_profile(written(versions={"jax": "0.12"}, device_kind="TPU v5e"), "x")
    assert other_words.digest == PROFILE.digest
    assert parse_profile(with_quantity("hop_seconds", 1e-6, "s"), "x").digest != PROFILE.digest
    assert len(PROFILE.digest) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "mine.json: not a chip profile"),
        ("{", "not a chip profile"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field"),
        (written(format="plan"), "Invalid enum value 'plan' - at `$.format`"),
        (written(version=2), "Invalid enum value 2 - at `$.version`"),
        (written(date="today"), "unknown field `date`"),
        (written(chip="v5x"), "unknown chip 'v5x'"),
        (written(quantities={"hop_seconds": 1e-6}), "Expected `object`, got `float`"),
        (written(quantities={"hop_seconds": {"value": "1", "unit": "s", "how": ""}}), "Expected `float`"),
        (
            with_quantity("hbm_speed", 1e12, "byte/s"),
            "chip v5e has no number 'hbm_speed'; it has chips_",
        ),
        (with_quantity("peak_flops_per_second.int2", 1e12, "flop/s"), "has no number"),
        (with_quantity("hbm_bytes_per_second", 800, "GB/s"), "is in 'GB/s', expected 'byte/s'"),
        (with_quantity("hbm_bytes_per_second", 0, "byte/s"), "is 0, expected a number of 'byte/s' above 0"),
        (with_quantity("hbm_bytes_per_second", -1, "byte/s"), "expected a finite number above 0"),
        (with_quantity("hop_seconds", -1e-9, "s"), "expected a finite number above 0"),
        (with_quantity("mxu_fraction", 1.2, "1"), "expected a share of at most 1"),
        (with_quantity("hop_seconds", float("nan"), "s"), "not a chip profile"),
        (with_quantity("hop_seconds", float("inf"), "s"), "not a chip profile"),
    ],
)
def test_what_cannot_be_is_refused(content: str, message: str) -> None:
    with pytest.raises(ProfileError) as refused:
        parse_profile(content, "mine.json")
    assert str(refused.value).startswith("mine.json: ")
    assert message in str(refused.value)


def test_a_profile_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    broken = Profile(
        chip="cpu",
        slice="cpu:8",
        device_kind="cpu",
        quantities={"hbm_bytes_per_second": quantity(float("nan"))},
    )
    with pytest.raises(ProfileError, match="expected a finite number"):
        save_profile(broken, tmp_path / "mine.json")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.json: there is no such chip profile"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ProfileError, match="cannot be read"):
        read_profile(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match=r"mine\.json: cannot be written"):
        save_profile(PROFILE, tmp_path / "file" / "mine.json")


def test_whether_a_file_can_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "mine.json")
    require_writable(tmp_path / "file")
    for wrong in (tmp_path, tmp_path / "file" / "mine.json"):
        with pytest.raises(ProfileError, match="expected the name of a file"):
            require_writable(wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
