import numpy as np
import pytest

from autoshard.search.planes import highest_point


def test_one_price_lies_where_rising_meets_falling() -> None:
    """1 + 2p and 5 - 2p meet at p = 1, height 3; 10 + p lies above."""
    top, prices, box = highest_point(np.array([1.0, 5.0, 10.0]), np.array([[2.0], [-2.0], [1.0]]), 100.0)
    assert (top, prices.tolist(), box) == (3.0, [1.0], 100.0)


def test_all_falling_lines_leave_the_price_at_zero() -> None:
    top, prices, _ = highest_point(np.array([4.0, 5.0]), np.array([[-1.0], [-3.0]]), 100.0)
    assert (top, prices.tolist()) == (4.0, [0.0])


def test_the_box_is_widened_until_it_no_longer_matters() -> None:
    """0 + p and 5000 - p meet at 2500."""
    top, prices, box = highest_point(np.array([0.0, 5000.0]), np.array([[1.0], [-1.0]]), 100.0)
    assert (top, prices.tolist(), box) == (2500.0, [2500.0], 10000.0)
    unbounded = highest_point(np.array([0.0]), np.array([[1.0]]), 100.0)
    assert unbounded[0] == unbounded[1][0] == 1e8


def test_two_prices_by_hand() -> None:
    """t <= p + q, t <= 2 - p, t <= 4 - q: at most (6 - t) - t, so t = 2 at p = 0, q = 2."""
    excess = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    top, prices, _ = highest_point(np.array([0.0, 2.0, 4.0]), excess, 100.0)
    assert top == pytest.approx(2.0)
    assert prices.tolist() == pytest.approx([0.0, 2.0])


def test_one_price_agrees_with_the_linear_program() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, slopes = rng.random(12), rng.normal(size=(12, 1))
        one, _, _ = highest_point(costs, slopes, 100.0)
        program, _, _ = highest_point(costs, np.hstack([slopes, np.zeros((12, 1))]), 100.0)
        assert one == pytest.approx(program, abs=1e-6)
