"""A small algebra of times: what ops cost, added up.

On one chip an op takes the larger of its compute and HBM time; over many ops these maxima add up, and the
maximum of the sums would be too small. So a `Cost` keeps both the parts, to show them, and the sum of the
maxima, to add. Interconnect time that compute does not hide comes on top of it.
"""

from dataclasses import dataclass
from typing import Literal

Bound = Literal["compute", "hbm", "ici"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one or many ops, in seconds. Costs add, and ``3 * cost`` is the cost three times over.

    Attributes:
        compute_seconds: Matrix unit.
        hbm_seconds: HBM traffic.
        ici_seconds: Collectives, hidden or not.
        local_seconds: Sum over ops of the larger of compute and HBM time.
        exposed_ici_seconds: The part of ici_seconds that compute does not hide.
    """

    compute_seconds: float = 0.0
    hbm_seconds: float = 0.0
    ici_seconds: float = 0.0
    local_seconds: float = 0.0
    exposed_ici_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Time that passes: the ops in turn, and the collectives that are not hidden."""
        return self.local_seconds + self.exposed_ici_seconds

    @property
    def bound_by(self) -> Bound:
        """Which part is the largest; compute before HBM before interconnect when equal."""
        parts: dict[Bound, float] = {
            "compute": self.compute_seconds,
            "hbm": self.hbm_seconds,
            "ici": self.exposed_ici_seconds,
        }
        return max(parts, key=lambda part: parts[part])

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.compute_seconds + other.compute_seconds,
            self.hbm_seconds + other.hbm_seconds,
            self.ici_seconds + other.ici_seconds,
            self.local_seconds + other.local_seconds,
            self.exposed_ici_seconds + other.exposed_ici_seconds,
        )

    def __rmul__(self, times: float) -> "Cost":
        return Cost(
            times * self.compute_seconds,
            times * self.hbm_seconds,
            times * self.ici_seconds,
            times * self.local_seconds,
            times * self.exposed_ici_seconds,
        )


def op_cost(
    compute_seconds: float, hbm_seconds: float, ici_seconds: float = 0.0, *, exposed_ici_fraction: float = 1.0
) -> Cost:
    """The cost of one op.

    Args:
        compute_seconds: Matrix unit time.
        hbm_seconds: HBM time; the two proceed at once.
        ici_seconds: Time of its collectives.
        exposed_ici_fraction: Share of that time which compute does not hide, from 0 to 1.
    """
    return Cost(
        compute_seconds,
        hbm_seconds,
        ici_seconds,
        max(compute_seconds, hbm_seconds),
        ici_seconds * exposed_ici_fraction,
    )
