import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.errors import PlanError
from autoshard.number_lists import parse_list, to_list

SORTED_AS_TEXT = sorted(range(30), key=str)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([7], "7"),
        ([3, 4], "3,4"),
        ([3, 4, 5], "3..5"),
        (range(80), "0..79"),
        (range(4, 400, 5), "4..399..5"),
        ([9, 6, 3], "9..3..-3"),
        ([5, 5, 5], "5 times 3"),
        ([0, 0, 1, 1, 2, 2], "0..2 each 2"),
        ([1, 2, 1, 2, 1, 2], "1,2 times 3"),
        ([0, 0, 4, 4, 0, 0, 4, 4], "0,4 each 2 times 2"),
        (SORTED_AS_TEXT, "0,1,10..19,2,20..29,3..9"),
        ([0, 2, 5, 9, 11, 14, 18, 20, 23, 27], "(0,2,5)..18..9,27"),
        ([2, 3, 4, 12, 13, 14, 22, 23, 24], "(2..4)..22..10"),
        ([8, 9, 7, 8, 6, 7], "(8,9)..6..-1"),
        ([0, 1, 10, 0, 3, 4, 5], "0,1,10,0,3..5"),
    ],
)
def test_lists_are_written_short(values: list[int], text: str) -> None:
    found = to_list(list(values))
    assert str(found) == text
    assert found.values() == list(values)
    assert parse_list(text) == found
    assert parse_list(text).count == len(values)


def test_padded_numbers_keep_their_width() -> None:
    found = to_list([8, 9, 10, 12], width=2)
    assert str(found) == "08..10,12"
    assert found.numerals() == ["08", "09", "10", "12"]
    assert parse_list("08..10,12") == found
    assert parse_list("(000,005)..100..50").numerals() == ["000", "005", "050", "055", "100", "105"]


def test_a_step_is_no_padded_number() -> None:
    assert parse_list("01..21..10").numerals() == ["01", "11", "21"]
    assert parse_list("5..105..100").width == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no list of integers"),
        ("1,", "no list of integers"),
        ("1..", "no list of integers"),
        ("-1", "no list of integers"),
        ("a", "no list of integers"),
        ("1 each 0", "no list of integers"),
        ("1 times 2 each 2", "no list of integers"),
        ("((1),2)..3", "no list of integers"),
        ("1..5..0", "no list of integers"),
        ("٣", "no list of integers"),
        ("1" * 19, "no list of integers"),
        ("0..10..3", "does not come from 0 to 10 in whole steps of 3"),
        ("5..1", "does not come from 5 to 1 in whole steps of 1"),
        ("(1,2)..5..3", "does not come from 1 to 5 in whole steps of 3"),
        ("(5,1)..1..-2", r"`\(5,1\)..1..-2` .* counts below 0"),
        ("01..100", "pads numbers of unequal width"),
        ("08,9", "pads numbers of unequal width"),
        ("0..999999999999999999", "lists 1000000000000000000 numbers: expected at most 16777216"),
        ("0..999999999999999999 each 99999999 times 99999999", "expected at most 16777216"),
    ],
)
def test_other_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_list(text)


SMALL = st.lists(st.integers(0, 6), min_size=1, max_size=40)
LOOPS = st.builds(
    lambda block, shift, copies, each, times: (
        [value + shift * copy for copy in range(copies) for value in block for _ in range(each)] * times
    ),
    st.lists(st.integers(0, 30), min_size=1, max_size=5),
    st.integers(0, 40),
    *(st.integers(1, 5) for _ in range(3)),
)


@given(
    SMALL | LOOPS | st.builds(list.__add__, LOOPS, LOOPS) | st.lists(st.integers(0, 10**18 - 1), min_size=1)
)
def test_every_list_is_read_back(values: list[int]) -> None:
    found = to_list(values)
    assert found.values() == values
    assert found.count == len(values)
    assert parse_list(str(found)) == found


@given(st.lists(st.integers(0, 999), min_size=1))
def test_every_padded_list_is_read_back(values: list[int]) -> None:
    assert parse_list(str(to_list([0, *values], width=3))).numerals() == [f"{v:03d}" for v in [0, *values]]
