"""The few of many demands that fail together."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from autoshard.search.conflict import conflict


def test_a_demand_that_never_holds_is_a_conflict_by_itself() -> None:
    assert conflict(range(100), lambda chosen: 7 not in chosen) == [7]


def test_those_that_fail_together_are_found_among_many() -> None:
    assert conflict(range(1000), lambda chosen: not {3, 500, 998} <= set(chosen)) == [3, 500, 998]


def test_it_takes_a_logarithmic_number_of_tests() -> None:
    asked = []

    def holds(chosen: object) -> bool:
        asked.append(chosen)
        return not {10, 1000} <= set(chosen)  # type: ignore[call-overload]

    conflict(range(1024), holds)
    assert len(asked) <= 3 + 2 * (math.ceil(math.log2(1024)) + 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_it_fails_and_without_any_one_holds(sizes: list[int], room: int) -> None:
    demands = list(enumerate(sizes))

    def holds(chosen: object) -> bool:
        return sum(size for _, size in chosen) <= room  # type: ignore[attr-defined]

    assume(not holds(demands))
    found = conflict(demands, holds)
    assert not holds(found)
    assert found == sorted(found)
    for each in found:
        assert holds([other for other in found if other != each])
