"""The algebra of costs."""

import pytest

from autoshard.cost.breakdown import Cost, op_cost


def test_an_op_takes_the_larger_of_compute_and_hbm() -> None:
    cost = op_cost(3.0, 2.0, 4.0)
    assert cost == Cost(3.0, 2.0, 4.0, local_seconds=3.0, exposed_ici_seconds=4.0)
    assert cost.seconds == 7.0


def test_maxima_add_op_by_op() -> None:
    both = op_cost(3.0, 2.0) + op_cost(1.0, 5.0)
    assert (both.compute_seconds, both.hbm_seconds) == (4.0, 7.0)
    assert both.seconds == 8.0  # not max(4, 7)


def test_hidden_interconnect_time_is_kept_but_not_counted() -> None:
    cost = op_cost(3.0, 2.0, 4.0, exposed_ici_fraction=0.25)
    assert (cost.ici_seconds, cost.exposed_ici_seconds, cost.seconds) == (4.0, 1.0, 4.0)


def test_a_multiple_is_the_sum() -> None:
    cost = op_cost(3.0, 2.0, 4.0, exposed_ici_fraction=0.5)
    assert 3 * cost == cost + cost + cost
    assert cost + Cost() == cost
    assert 0 * cost == Cost()


@pytest.mark.parametrize(
    ("cost", "bound"),
    [
        (op_cost(3.0, 2.0, 1.0), "compute"),
        (op_cost(2.0, 3.0, 1.0), "hbm"),
        (op_cost(2.0, 3.0, 4.0), "ici"),
        (op_cost(2.0, 3.0, 4.0, exposed_ici_fraction=0.5), "hbm"),
        (op_cost(2.0, 2.0, 2.0), "compute"),
    ],
)
def test_bound_by_the_largest_exposed_part(cost: Cost, bound: str) -> None:
    assert cost.bound_by == bound
