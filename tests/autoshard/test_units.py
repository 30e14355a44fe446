import pytest

from autoshard.text_table import align
from autoshard.units import format_bytes, format_percent, format_seconds, three_digits


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0 us"),
        (4e-8, "0.04 us"),
        (1.234e-5, "12.3 us"),
        (9.994e-4, "999 us"),
        (9.996e-4, "1.00 ms"),
        (0.25, "250 ms"),
        (1.5, "1.50 s"),
        (5400.0, "5400 s"),
    ],
)
def test_seconds(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (589824, "576 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (16213498880, "15.1 GiB"),
        (3 * 2**50, "3072 TiB"),
    ],
)
def test_bytes(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


def test_percent() -> None:
    assert (format_percent(0.0109), format_percent(1.0), format_percent(None)) == ("1.1%", "100.0%", "-")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346"), (-0.5, "-0.50")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("name", "time", ""), ("a", "1 us", "x"), ("longer", "10 us", "")]
    assert align(rows, right=(1,)) == ["name     time", "a        1 us  x", "longer  10 us"]
