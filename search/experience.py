"""What minimising a network under budgets teaches for other limits of the same budgets.

The optimum without budgets and the assignment of least use do not depend on limits. Nor do the cost and the
uses of an assignment once met: whatever the limits are, it is a plane above the dual (`lagrange`), and an
incumbent wherever it keeps within them.
"""

from dataclasses import dataclass, field

from autoshard.search.budget_rows import BudgetRow
from autoshard.search.least_use import thriftiest
from autoshard.search.network import Network
from autoshard.search.solution import Solution


@dataclass(slots=True)
class Experience:
    """What is known of one network; rows are known by their position, so they may be added, not changed.

    Attributes:
        free: the solution without budgets.
        thrifty: by row, the assignment that uses least of it.
        known: assignments of finite cost to begin with.
        met: those met since.
    """

    free: Solution | None = None
    thrifty: dict[int, Solution] = field(default_factory=dict)
    known: tuple[tuple[int, ...], ...] = ()
    met: dict[tuple[int, ...], None] = field(default_factory=dict)

    def thriftiest(self, network: Network, rows: list[BudgetRow], number: int) -> Solution:
        """The assignment that uses least of row `number`; solved once."""
        if number not in self.thrifty:
            self.thrifty[number] = thriftiest(network, rows[number])
        return self.thrifty[number]

    def turn(self) -> None:
        """Begin with what was met so far: the limits change."""
        self.known = tuple(self.met)
