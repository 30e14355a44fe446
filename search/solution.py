"""One assignment of labels, its value, and how far from the best it may be."""

from dataclasses import dataclass

_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Solution:
    """An assignment with a proof of its quality.

    Attributes:
        labels: one label per variable of the network.
        value: cost of the labels, the network's own `value(labels)`.
        bound: proven lower bound on the cost of every assignment in question; equal to `value` when exact.
        method: what proved the bound: "elimination", "branch and bound", "bound only", ...
        prices: where budgets bind, the price per unit of each budget row at which the bound was proven.
    """

    labels: tuple[int, ...]
    value: float
    bound: float
    method: str
    prices: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """Relative distance of the value to the bound, 0.0 when proven optimal."""
        return max(self.value - self.bound, 0.0) / max(abs(self.value), _TINY)
