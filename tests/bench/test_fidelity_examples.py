"""Section 1 of the fidelity bench: every worked example through the model."""

import itertools

import pytest

from bench import book_chips, max_context
from bench.fidelity_examples import (
    EXAMPLES,
    Checked,
    check_examples,
    examples_table,
    examples_verdict,
    figure_3,
    figure_3_verdict,
    read_rows,
    table_1_verdict,
)
from bench.max_context import SLICE, VARIANTS, Row

ROWS = read_rows()


def test_examples_and_rows_are_of_the_same_ids_and_rows_of_one_id_stand_together() -> None:
    runs = [id_ for id_, _ in itertools.groupby(row["id"] for row in ROWS)]
    assert len(runs) == len(set(runs))
    assert set(runs) == set(EXAMPLES)


def test_every_row_says_where_it_is_from_and_how_close_it_must_be() -> None:
    assert all(row["source"] and row["unit"] and row["formula"] for row in ROWS)
    assert all(0 <= float(row["tolerance"]) <= 0.05 for row in ROWS)
    loose = [row for row in ROWS if float(row["tolerance"]) > 0.01]
    ids = {row["id"] for row in loose}
    # Only where a book's bandwidth or byte count is rounded: its HBM of v4 and v5e, 160 kB, 34 MB, 19 ms.
    assert ids <= {
        *("SB-2.1", "SB-3.pop", "SB-7.pop", "SB-7.pop2", "SB-8.mem", "SB-8.lat", "SB-8.4x8", "SB-8.ratio")
    }


@pytest.mark.parametrize("id_", sorted(EXAMPLES))
def test_the_model_reproduces_the_example(id_: str) -> None:
    checked = check_examples(EXAMPLES, [row for row in ROWS if row["id"] == id_])
    assert [one for one in checked if not one.reproduced] == []


def test_an_example_that_is_off_is_missed_and_said_to_be() -> None:
    row = {"id": "a", "quantity": "q", "unit": "1", "expected": "100", "tolerance": "0.01"}
    near, far = check_examples({"a": lambda: (100.9,)}, [row]), check_examples({"a": lambda: (101.1,)}, [row])
    assert examples_verdict(near).met
    assert "MISSED" not in examples_table(near)
    assert not examples_verdict(far).met
    assert "missed: a" in examples_verdict(far).figure
    assert "MISSED" in examples_table(far)


def test_an_example_with_a_number_too_many_is_an_error() -> None:
    row = {"id": "a", "quantity": "q", "unit": "1", "expected": "1", "tolerance": "0"}
    with pytest.raises(ValueError, match="zip"):
        check_examples({"a": lambda: (1.0, 2.0)}, [row])


def test_figure_3_has_four_layouts_of_14_points() -> None:
    largest, points = figure_3()
    assert points == 56
    assert 0 < largest < 0.01
    assert figure_3_verdict(largest, points).met
    assert not figure_3_verdict(0.011, points).met


@pytest.mark.parametrize(
    ("variant", "chips_that_divide", "bytes_per_token"),
    [
        ("multihead", 64, 118 * 2 * 64 * 128 * 2),  # 64 heads of 128, keys and values in bfloat16
        ("multiquery over heads", 1, 118 * 2 * 256 * 2),
        ("multiquery over batch", 64, 118 * 2 * 256 * 2),
    ],
)
def test_cache_bytes_of_the_memory_model(variant: str, chips_that_divide: int, bytes_per_token: int) -> None:
    found = max_context.cache_bytes(VARIANTS[variant], batch=128, context=512)
    assert found == pytest.approx(bytes_per_token * 128 * 512 / chips_that_divide)


def test_the_largest_context_fills_30_percent_of_32_gib() -> None:
    # 0.3 * 2^35 bytes over 118 layers * 2 * 256 * 2 bytes * 128 sequences, the cache on every chip.
    found = max_context.max_context(VARIANTS["multiquery over heads"], batch=128, guess=1000)
    assert found == pytest.approx(0.3 * 2**35 / (118 * 2 * 256 * 2 * 128), rel=1e-4)
    assert SLICE.chip.hbm_bytes == 2**35


def test_table_1_is_missed_by_its_worst_cell() -> None:
    good, bad = Row("a", 128, 1.0, 1000.0, 1014.0), Row("b", 128, 1.0, 1000.0, 984.0)
    assert table_1_verdict([good]).met
    assert not table_1_verdict([good, bad]).met
    assert table_1_verdict([good, bad]).figure.startswith("-1.60%")


def test_error_is_relative_to_the_expected_value() -> None:
    assert Checked("a", "q", "1", 200.0, 0.0, 201.0).error == pytest.approx(0.005)


def test_a_book_chip_has_full_rates_no_latency_and_the_books_numbers() -> None:
    chip = book_chips.book_chip("v5e", hop_seconds=1e-6)
    assert (chip.hbm_streaming_fraction, chip.mxu_fraction, chip.joint_dim_fraction) == (1.0, 1.0, 1.0)
    assert (chip.collective_base_seconds, chip.hop_seconds) == (0.0, 1e-6)
    assert chip.hbm_bytes_per_second == 819e9
