"""What of a resource every assignment uses at least: a network in which only the use counts."""

import numpy as np

from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.errors import BudgetError
from autoshard.search.network import Network
from autoshard.search.solution import Solution
from autoshard.search.solver import solve


def require_within(row: BudgetRow, limit: float, thrifty: Solution) -> None:
    """Raise `BudgetError` where the assignment that uses least of a resource uses more than the limit."""
    if thrifty.bound > limit and row.use(thrifty.labels) > limit:
        message = f"budget {row.name}: the least possible use is {thrifty.value:.6g}, the limit {limit:.6g}"
        raise BudgetError(
            f"{message}; raise the limit or allow labels that use less",
            row=row.name,
            minimum_use=thrifty.bound,
            limit=limit,
        )


def thriftiest(network: Network, row: BudgetRow) -> Solution:
    """The assignment of least use; its value and bound are in the row's unit."""
    return solve(priced(without_costs(network), [row], [1.0]))


def without_costs(network: Network) -> Network:
    """The network with every finite cost at zero: what is forbidden stays forbidden."""
    unary = [np.where(np.isfinite(vector), 0.0, np.inf) for vector in network.unary]
    pairwise = {
        pair: np.where(np.isfinite(matrix), 0.0, np.inf)
        for pair, matrix in network.pairwise.items()
        if not np.isfinite(matrix).all()
    }
    return Network.of(network.names, unary, pairwise)
