"""The best assignment of a network: reduce, take apart, solve each part exactly or as well as time allows."""

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

import networkx as nx
import numpy as np

from autoshard.search.branch import BranchAndBound, Effort
from autoshard.search.network import Network
from autoshard.search.reduction import Reduced, reduce
from autoshard.search.solution import Solution

_METHODS = ("elimination", "bound only", "branch and bound")  # a later one overrules in the whole's name


def solve(
    network: Network,
    *,
    gap: float = 0.0,
    time_limit_seconds: float | None = None,
    effort: Effort | None = None,
) -> Solution:
    """Minimise a network.

    Args:
        network: the costs.
        gap: relative distance to the optimum that is good enough; 0.0 asks for the optimum.
        time_limit_seconds: stop after about this long with the best found and its proven bound. One
            elimination is not interrupted. None: no limit.
        effort: limits of a single elimination; the default suits a few gigabytes of memory.

    Returns:
        The solution. `method` is "elimination" when every part was solved exactly by elimination, "branch and
        bound" when some part had to be searched, "bound only" when time or gap ended the work before either.
        Deterministic as long as the time limit does not strike.

    Raises:
        NoSolutionError: every assignment costs +inf.
        TimeLimitError: the time limit passed before a feasible assignment was found.
        ValueError: gap or time limit is negative.
    """
    if gap < 0 or (time_limit_seconds is not None and time_limit_seconds < 0):
        raise ValueError(f"gap and time limit must not be negative, got {gap} and {time_limit_seconds}")
    deadline = np.inf if time_limit_seconds is None else monotonic() + time_limit_seconds
    reduced = reduce(network)
    parts = connected_parts(reduced.network)
    apart = [reduced.network.subnetwork(part) for part in parts]
    found = [_solve_part(each, gap, deadline, effort or Effort()) for each in apart]
    whole = _whole(network, reduced, parts, found)
    if (
        whole.gap > gap and monotonic() < deadline
    ):  # parts of opposite sign: the sum is small, their gaps are not
        found = [_solved_out(*pair, deadline, effort or Effort()) for pair in zip(apart, found, strict=True)]
        whole = _whole(network, reduced, parts, found)
    return whole


def connected_parts(network: Network) -> list[list[int]]:
    """The variables by connected component, each ascending, in order of their first variable."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(network.n_variables))
    graph.add_edges_from(network.pairwise)
    return sorted(sorted(part) for part in nx.connected_components(graph))


def _solve_part(network: Network, gap: float, deadline: float, effort: Effort) -> Solution:
    if network.n_variables == 1:
        best = int(np.argmin(network.unary[0]))
        value = float(network.unary[0][best])
        return Solution((best,), value, value, "elimination")
    return BranchAndBound(network, gap=gap, deadline=deadline, effort=effort).run()


def _solved_out(network: Network, known: Solution, deadline: float, effort: Effort) -> Solution:
    """A part's optimum, or what is better of what is known and what is found in time."""
    if known.gap == 0:
        return known
    again = _solve_part(network, 0.0, deadline, effort)
    best = min(again, known, key=lambda solution: solution.value)
    return replace(best, bound=max(again.bound, known.bound))


def _whole(
    network: Network, reduced: Reduced, parts: Sequence[Sequence[int]], found: Sequence[Solution]
) -> Solution:
    """The parts put together; when all are exact so is the whole, whatever the order of summation."""
    labels = [0] * network.n_variables
    for part, solution in zip(parts, found, strict=True):
        for i, label in zip(part, solution.labels, strict=True):
            labels[i] = label
    original = reduced.original(labels)
    value, bound = network.value(original), sum(solution.bound for solution in found)
    exact = all(solution.gap == 0 for solution in found) or value - bound <= 1e-9 * abs(value)
    method = max((solution.method for solution in found), key=_METHODS.index, default=_METHODS[0])
    return Solution(original, value, value if exact else min(bound, value), method)
