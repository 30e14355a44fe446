"""The generated parts of the page of the cost model."""

import pytest

from autoshard.cost.chip_table import TABLE
from bench import cost_page
from bench.fidelity_verdicts import Verdict

PAGE = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n"


def test_a_part_is_replaced_and_nothing_else() -> None:
    found = cost_page.with_part(PAGE, "a", "new\nlines")
    assert found == "before\n<!-- a -->\nnew\nlines\n<!-- end of a -->\nafter\n"
    assert cost_page.part(found, "a") == "new\nlines"


def test_an_empty_part_can_be_filled() -> None:
    assert cost_page.part(cost_page.with_part("<!-- a -->\n<!-- end of a -->", "a", "x"), "a") == "x"


def test_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no part 'b'"):
        cost_page.with_part(PAGE, "b", "new")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.763, "0.763"),
        (1.0, "1"),
        (128.0, "128"),
        (2.5e-7, "250e-9"),
        (4.3e-6, "4.3e-6"),
        (275e12, "275e12"),
        (1.05e9, "1.05e9"),
        (34359738368.0, "34.36e9"),
    ],
)
def test_numbers_have_exponents_that_are_multiples_of_three(value: float, text: str) -> None:
    assert cost_page.engineering(value) == text


def test_the_chip_table_has_a_row_per_number_and_a_cell_per_chip() -> None:
    head, _, *rows = cost_page.chips_table().splitlines()
    assert len(rows) == len({name for row in TABLE.values() for name in row.quantities})
    assert {line.count("|") for line in (head, *rows)} == {len(TABLE) + 3}
    (hbm,) = [row for row in rows if row.startswith("| `hbm_bytes_per_second` | byte/s |")]
    assert "819e9 s" in hbm


def test_the_page_lists_the_chip_table_as_it_is() -> None:
    listed = cost_page.part(cost_page.PAGE.read_text(), cost_page.CHIPS)
    assert listed == cost_page.chips_table(), "the chip table changed: run python -m bench.cost_page"


def test_the_page_has_a_place_for_the_errors() -> None:
    cost_page.part(cost_page.PAGE.read_text(), cost_page.ERRORS)


def test_a_missed_target_is_told() -> None:
    verdicts = [("1", Verdict("tau", "0.8", "0.85", False)), ("6", Verdict("error", "3%", "5%", True))]
    assert cost_page.errors_table(verdicts).splitlines()[2:] == [
        "| 1 | tau | 0.8 | 0.85 | **missed** |",
        "| 6 | error | 3% | 5% | met |",
    ]
