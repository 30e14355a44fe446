"""The highest point below a set of planes: the linear program of the cutting-plane method.

Maximise t subject to t <= cost_k + prices . excess_k for all k and 0 <= prices <= box. With one price the
planes are lines and the highest point of their lower envelope lies at an end of the box or where a rising
line meets a falling one; with more, HiGHS solves the program. Costs and excesses should be of the order of
one.
"""

import numpy as np
import scipy

from autoshard.search.network import FloatArray

FIRST_BOX = 1e2
_LARGEST_BOX = 1e8
_CONVERGED = 1e-7


def highest_point(costs: FloatArray, excess: FloatArray, box: float) -> tuple[float, FloatArray, float]:
    """The highest point in a box that is widened for as long as it is what stops the point.

    Args:
        costs: heights of the planes at price zero [K].
        excess: their slopes [K, R].
        box: largest price allowed at first.

    Returns:
        Height, prices [R], and the box.
    """
    top, prices = _in_box(costs, excess, box)
    while (prices > 0.99 * box).any() and box < _LARGEST_BOX:
        box *= 10
        wider = _in_box(costs, excess, box)
        if wider[0] <= top + _CONVERGED:
            break
        top, prices = wider
    return top, prices, box


def _in_box(costs: FloatArray, excess: FloatArray, box: float) -> tuple[float, FloatArray]:
    return _one_price(costs, excess[:, 0], box) if excess.shape[1] == 1 else _program(costs, excess, box)


def _one_price(costs: FloatArray, slopes: FloatArray, box: float) -> tuple[float, FloatArray]:
    rising, falling = slopes > 0, slopes <= 0
    rise = slopes[rising][:, None] - slopes[falling]
    meets = (costs[falling] - costs[rising][:, None]) / rise
    prices = np.unique(np.clip(np.concatenate([[0.0, box], meets.ravel()]), 0.0, box))
    heights = (costs + prices[:, None] * slopes).min(axis=1)
    best = int(np.argmax(heights))
    return float(heights[best]), prices[[best]]


def _program(costs: FloatArray, excess: FloatArray, box: float) -> tuple[float, FloatArray]:
    n = excess.shape[1]
    result = scipy.optimize.linprog(
        c=[0.0] * n + [-1.0],
        A_ub=np.hstack([-excess, np.ones((len(costs), 1))]),
        b_ub=costs,
        bounds=[(0.0, box)] * n + [(None, None)],
    )
    if result.x is None:
        raise ArithmeticError(f"the linear program for the prices failed: {result.message}")
    return float(result.x[-1]), np.maximum(result.x[:-1], 0.0)
