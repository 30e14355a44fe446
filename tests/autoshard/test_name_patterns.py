from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.errors import PlanError
from autoshard.name_patterns import count_names, escape_name, expand_name, fold_names, numbers_of


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["params/wi"], "params/wi"),
        ([f"params/layers/{i}/attn/q/kernel" for i in range(80)], "params/layers/{0..79}/attn/q/kernel"),
        ([f"layers/{i}/dot#{4 + 5 * i}" for i in range(80)], "layers/{0..79}/dot#{4..399..5}"),
        ([f"mul#{i}" for i in range(57, 5978, 74)], "mul#{57..5977..74}"),
        ([f"layers/{i}/w1" for i in (0, 1, 10, 11, 12, 2)], "layers/{0,1,10..12,2}/w1"),
        ([f"l/{i}/ln{j}" for i in range(5) for j in (1, 2)], "l/{0..4 each 2}/ln{1,2 times 5}"),
        ([f"layer_{i:02d}" for i in range(12)], "layer_{00..11}"),
        (["block/007/w", "block/008/w"], "block/{007,008}/w"),
        (["dot", "dot#2", "dot#3", "dot#4"], "dot{#1..4}"),
        (["l/0/dot", "l/0/dot#2", "l/1/dot", "l/1/dot#2"], "l/{0,1 each 2}/dot{#1,2 times 2}"),
        (["a{0}", "a{1}", "a{2}"], "a{{{0..2}}}"),
        ([""], ""),
    ],
)
def test_names_fold_into_one_pattern(names: list[str], pattern: str) -> None:
    assert fold_names(names) == (pattern,)
    assert expand_name(pattern) == tuple(names)
    assert count_names(pattern) == len(names)


def test_names_of_other_texts_are_other_patterns_in_order_of_first_names() -> None:
    names = ["l/1/up", "l/1/down", "embed", "l/2/up", "l/2/down", "l/3/up"]
    assert fold_names(names) == ("l/{1..3}/up", "l/{1,2}/down", "embed")


def test_padded_numbers_of_unequal_width_are_text() -> None:
    assert fold_names(["w1", "w01", "w2", "w002"]) == ("w{1,2}", "w01", "w002")


def test_long_runs_of_digits_are_text() -> None:
    digest = "9" * 19
    assert fold_names([f"{digest}/1", f"{digest}/2"]) == (f"{digest}/{{1,2}}",)


def test_no_names_have_no_pattern() -> None:
    assert fold_names([]) == ()


def test_a_name_alone_has_its_braces_doubled() -> None:
    assert escape_name("f{x}") == "f{{x}}"
    assert expand_name("f{{x}}") == ("f{x}",)


def test_names_of_one_pattern_have_as_many_numbers() -> None:
    assert numbers_of("layers/3/w01#7") == ("3", "01", "7")
    assert numbers_of("layers/3/w01") == ("3", "01", "1")
    assert numbers_of("embed") == ("1",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a{", "unmatched `{` at character 2"),
        ("a}b", "unmatched `}` at character 2"),
        ("{0..2}}", "unmatched `}` at character 7"),
        ("a{}", "`` is no list of integers"),
        ("a{x}", "`x` is no list of integers"),
        ("a{0..5..2}", "in whole steps of 2"),
        ("a{0,1}b{0..2}", r"its holes list \[2, 3\] numbers; expected as many in each"),
        ("a{#01..03}", "`{#01..03}` counts, expected no padded numbers"),
        ("a{0..999999999}", "expected at most"),
    ],
)
def test_malformed_patterns_are_named(pattern: str, message: str) -> None:
    for read in (expand_name, count_names):
        with pytest.raises(PlanError, match=message) as caught:
            read(pattern)
        assert f"`{pattern}`" in str(caught.value)


PIECES = st.sampled_from(
    ["0", "1", "2", "9", "10", "00", "01", "#", "#1", "#2", "{", "}", "a", "/", "..", ","]
)
TRICKY = st.lists(PIECES, max_size=6).map("".join)


@given(st.lists(TRICKY | st.text(max_size=8), unique=True))
def test_expanding_undoes_folding(names: list[str]) -> None:
    patterns = fold_names(names)
    expanded = [expand_name(pattern) for pattern in patterns]
    found = list(chain.from_iterable(expanded))
    assert sorted(found) == sorted(names)
    assert len(patterns) != 1 or found == names
    place = {name: index for index, name in enumerate(names)}
    for each in expanded:
        assert list(each) == sorted(each, key=place.__getitem__)
    assert [place[each[0]] for each in expanded] == sorted(place[each[0]] for each in expanded)
    assert [count_names(pattern) for pattern in patterns] == [len(each) for each in expanded]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, unique=True))
def test_names_that_differ_in_plain_numbers_are_one_pattern(pairs: list[tuple[int, int]]) -> None:
    names = [f"layers/{i}/dot_{j}/x" for i, j in pairs]
    (pattern,) = fold_names(names)
    assert expand_name(pattern) == tuple(names)


@given(st.text())
def test_every_name_has_a_pattern(name: str) -> None:
    assert fold_names([name]) == (escape_name(name),)
    assert expand_name(escape_name(name)) == (name,)
