from dataclasses import replace

import pytest

from autoshard.errors import InfeasibleError, OptionError
from autoshard.frontier import Row, Wish, best_in_budgets, pick, with_dominated


def row(slice_name: str, n_chips: int, milliseconds: float, gib: float, tokens: int | None = None) -> Row:
    return Row(
        slice=slice_name,
        n_chips=n_chips,
        mesh="x=2",
        step_seconds=milliseconds * 1e-3,
        lower_bound_seconds=milliseconds * 1e-3,
        hbm_bytes_per_chip=gib * 2**30,
        hbm_budget_bytes=gib * 2**30,
        tokens=tokens,
    )


ROWS = [
    row("v5e:2x4", 8, 10.0, 6.0),  # 0.08 chip-seconds
    row("v5e:2x4", 8, 12.0, 4.0),  # 0.096
    row("v5e:4x4", 16, 7.0, 3.0),  # 0.112
    row("v5e:4x4", 16, 9.0, 2.0),  # 0.144
    row("v6e:2x2", 4, 12.0, 9.0),  # 0.048
]


def test_cost_is_chips_times_time() -> None:
    plain, of_tokens = row("v5e:2x4", 8, 10.0, 6.0), row("v5e:2x4", 8, 10.0, 6.0, tokens=32)
    assert plain.chip_seconds == pytest.approx(0.08)
    assert plain.chip_seconds_per_token is None
    assert of_tokens.chip_seconds_per_token == pytest.approx(0.0025)


def test_between_slices_time_and_cost_dominate_and_memory_does_not() -> None:
    # Row 2 (12 ms, 0.096) is beaten by the v6e (12 ms, 0.048) though it needs less memory per chip.
    assert [each.dominated_by for each in with_dominated(ROWS)] == [None, 4, None, None, None]


def test_within_a_slice_less_memory_is_worth_time() -> None:
    lean = [row("v5e:2x4", 8, 10.0, 6.0), row("v5e:2x4", 8, 11.0, 5.0)]
    assert [each.dominated_by for each in with_dominated(lean)] == [None, None]
    worse = [*lean, row("v5e:2x4", 8, 11.5, 5.0)]
    assert [each.dominated_by for each in with_dominated(worse)] == [None, None, 1]


def test_a_lean_plan_that_is_faster_takes_over_the_larger_budget_and_its_bound() -> None:
    slow, lean, leanest = (
        row("v5e:2x4", 8, 10.0, 6.0),
        row("v5e:2x4", 8, 9.0, 5.0),
        row("v5e:2x4", 8, 12.0, 4.0),
    )
    bounded = [
        replace(each, lower_bound_seconds=8e-3 + n * 5e-4) for n, each in enumerate((slow, lean, leanest))
    ]
    first, second = best_in_budgets(bounded)
    assert (first.step_seconds, first.hbm_budget_bytes) == (lean.step_seconds, 6 * 2**30)
    assert first.lower_bound_seconds == 8e-3
    assert first.gap == pytest.approx(1 / 9)
    assert second == bounded[2]


def test_equals_do_not_dominate_each_other() -> None:
    twins = [row("v5e:2x4", 8, 10.0, 6.0), row("v5e:2x4", 8, 10.0, 6.0)]
    assert [each.dominated_by for each in with_dominated(twins)] == [None, None]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), 2),
        (Wish("throughput"), 4),
        (Wish(cost_limit=0.1), 0),
        (Wish(cost_limit=0.05), 4),
        (Wish("throughput", latency_limit_seconds=0.0105), 0),
        (Wish("throughput", latency_limit_seconds=0.008), 2),
    ],
)
def test_the_pick(wish: Wish, expected: int) -> None:
    assert pick(ROWS, wish) == expected


def test_a_limit_that_nothing_keeps_names_the_least() -> None:
    with pytest.raises(InfeasibleError, match=r"the cost limit of 0\.01 .* the least is 0\.048 .* v6e:2x2"):
        pick(ROWS, Wish(cost_limit=0.01))
    with pytest.raises(InfeasibleError, match=r"the latency limit of 0\.001 s .* 0\.007 s, on v5e:4x4"):
        pick(ROWS, Wish("throughput", latency_limit_seconds=0.001))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency_limit_seconds": 1.0}, "goes with the objective `throughput`"),
        ({"objective": "throughput", "cost_limit": 1.0}, "goes with the objective `latency`"),
        ({"objective": "speed"}, "expected one of latency, throughput"),
        ({"cost_limit": 0.0}, "expected a number above 0"),
    ],
)
def test_limits_belong_to_objectives(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Wish(**options)  # type: ignore[arg-type]
