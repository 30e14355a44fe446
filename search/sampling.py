"""Random plans that are possible and fit: what a check of plans is run on beside the best one.

A plan is drawn by giving random costs to what decides most of it, the strategies of the einsums and the
layouts of the arguments, and solving for the rest: the network of the problem with

    unary = uniform in [0, 1) where an einsum or an argument is decided, else 0
    pairwise = 0.05 (reshard seconds) / (the dearest reshard of that pair)

and every infinity where it was.  So einsums and arguments are laid out at random, what lies between them
follows with few reshards, and a small tensor is moved as reluctantly as a large one.  The solution need not
be the best one: a rough search will do.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from autoshard.search.branch import Effort
from autoshard.search.followers import fold_followers
from autoshard.search.memory import MemoryModel
from autoshard.search.network import FloatArray, Network
from autoshard.search.planner import Candidate
from autoshard.search.problem import Problem
from autoshard.search.solver import solve

_RESHARD_WEIGHT = 0.05
_TRIES = 8
"""Plans drawn for each that is wanted: some do not fit, some come twice."""
_GAP = 0.5
_EFFORT = Effort(rounds=2, most_nodes=1)


def random_candidates(
    problem: Problem, limit_bytes: float, count: int, seed: int = 0
) -> tuple[Candidate, ...]:
    """Draw plans that are possible and fit.

    Args:
        problem: The decision problem.
        limit_bytes: HBM per chip that a program may use.
        count: How many distinct plans are wanted.
        seed: Equal seeds draw equal plans.

    Returns:
        The plans in the order in which they were drawn; fewer than `count` where few of those drawn fit.

    Raises:
        NoSolutionError: No plan is possible, whatever memory there is.
    """
    memory, followers = MemoryModel(problem), fold_followers(problem)
    decided = {followers.leader[variable] for variable in _deciding(problem)}
    random = np.random.default_rng(seed)
    found: dict[tuple[int, ...], Candidate] = {}
    for _ in range(_TRIES * count):
        network = _randomised(followers.network, decided, random)
        labels = followers.expand(solve(network, gap=_GAP, effort=_EFFORT).labels)
        peak = memory.peak(labels)
        if peak.nbytes <= limit_bytes and labels not in found:
            seconds = problem.network.value(labels) - problem.rest_seconds(labels)
            found[labels] = Candidate(labels, seconds, peak)
        if len(found) == count:
            break
    return tuple(found.values())


def _deciding(problem: Problem) -> set[int]:
    """The variables of einsums and of arguments."""
    einsums = {problem.op_variable[op.index] for op in problem.graph.einsums}
    layouts = problem.value_variable
    return einsums | {layouts[value] for value in problem.graph.arguments if value in layouts}


def _randomised(network: Network, decided: Collection[int], random: np.random.Generator) -> Network:
    """The network with random costs; what is forbidden stays forbidden."""
    unary = [
        np.where(np.isfinite(costs), random.random(costs.size) if number in decided else 0.0, np.inf)
        for number, costs in enumerate(network.unary)
    ]
    pairwise = {pair: _weighed(costs) for pair, costs in network.pairwise.items()}
    return Network.of(network.names, unary, pairwise)


def _weighed(costs: FloatArray) -> FloatArray:
    """Costs of a pair on a scale on which the dearest that is possible costs `_RESHARD_WEIGHT`."""
    dearest = float(costs.max(where=np.isfinite(costs), initial=0.0))
    return costs * (_RESHARD_WEIGHT / dearest) if dearest > 0 else costs
