"""For each label, a proven lower bound on every assignment that uses it."""

from autoshard.search.bounds import DualAscent
from autoshard.search.elimination import Elimination
from autoshard.search.network import FloatArray, Network
from autoshard.search.order import elimination_order

_MARGINAL_OPERATIONS = 3e8
_SWEEPS = 20


def label_bounds(network: Network) -> list[FloatArray]:
    """Bounds per label [K_i]: exact min-marginals where elimination is cheap, dual ascent where it is not.

    Args:
        network: reduced (`reduction.reduce`).
    """
    order = elimination_order(network)
    if order.operations <= _MARGINAL_OPERATIONS:
        return list(Elimination(network, order).min_marginals())
    return quick_label_bounds(network, _SWEEPS)


def quick_label_bounds(network: Network, sweeps: int) -> list[FloatArray]:
    """Bounds per label [K_i] by dual ascent: a few milliseconds per sweep, exact only by luck.

    Args:
        network: reduced.
        sweeps: how often to visit all variables.
    """
    dual = DualAscent(network)
    for _ in range(sweeps):
        dual.sweep()
    return dual.label_bounds
