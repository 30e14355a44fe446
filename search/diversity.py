"""Distinct runners-up: for each heavy einsum, the best plan that shards it in another way.

The tiers above re-rank a few plans, so these should differ in substance.  The k cheapest assignments do not:
they differ in how a scalar is laid out, or in the names of equal axes.  So one decision at a time is taken
away, with all its images under a renaming of equal axes, and the problem solved again: each runner-up is the
optimum under one decision being different.  When that gives too few, what was found is taken away too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autoshard.search.errors import NoSolutionError
from autoshard.search.followers import Followers
from autoshard.search.graph import OpKind
from autoshard.search.network import BoolArray, Network
from autoshard.search.problem import Problem, VariableKind
from autoshard.search.solver import solve

_DECISIONS = 6
"""Einsums whose decision is taken away, heaviest first."""
_ROUNDS = 3
"""Rounds of taking away; each round takes away all that the rounds before have found."""
_GAP = 0.03
"""Gap of each of these solves: a runner-up need not be proven best.  No time limit, so that it is the same every time."""


def distinct_solutions(
    problem: Problem, followers: Followers, network: Network, best: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    """Yield assignments that differ from `best`, and from all before, in the strategy of one heavy einsum.

    Args:
        problem: The decision problem.
        followers: Its folded form.
        network: The network of leaders to minimise, memory being priced in it where it binds: what is yielded may
            not fit, which is for the caller to see.
        best: Labels of all variables of the best plan.
    """
    known = [tuple(best)]
    for _ in range(_ROUNDS):
        before = list(known)
        for variable in heavy_einsums(problem, best)[:_DECISIONS]:
            taken = [same_orbit(problem, variable, labels[variable]) for labels in before]
            allowed = ~np.logical_or.reduce(taken)
            found = _solve(network, followers.leader[variable], allowed[followers.labels[variable]])
            if found is not None and followers.expand(found) not in known:
                known.append(followers.expand(found))
                yield known[-1]


def _solve(network: Network, variable: int, allowed: BoolArray) -> tuple[int, ...] | None:
    if not allowed.any():
        return None
    try:
        return solve(network.restricted({variable: allowed}), gap=_GAP).labels
    except NoSolutionError:
        return None  # nothing without this decision: no runner-up of this kind


def heavy_einsums(problem: Problem, labels: Sequence[int]) -> list[int]:
    """Variables of einsums, by their time in a plan, heaviest first.

    Of einsums with the same shapes only the first.
    """
    graph = problem.graph
    seconds: dict[int, float] = {}
    seen: set[object] = set()
    for number, variable in enumerate(problem.variables):
        if variable.kind is not VariableKind.STRATEGY or variable.cost is None:
            continue
        op = graph.ops[variable.subject]
        key = (op.factors, op.operand_dims, op.trips)
        if op.kind is not OpKind.EINSUM or key in seen:
            continue
        seen.add(key)
        seconds[number] = float(variable.cost.seconds[labels[number]]) * op.trips
    return sorted(seconds, key=lambda number: -seconds[number])


def same_orbit(problem: Problem, variable: int, label: int) -> BoolArray:
    """[K] mask of the labels that are `label` up to a renaming of axes of equal size and bandwidth."""
    codes = problem.variables[variable].codes
    groups: dict[object, list[int]] = {}
    wraps = problem.mesh.slice.wraps
    for number, axis in enumerate(problem.mesh.axes):
        ring = axis.torus_dim >= 0 and wraps[axis.torus_dim]
        groups.setdefault((axis.size, axis.stride, ring, axis.torus_dim < 0), []).append(number)
    mask: BoolArray = np.ones(len(codes), dtype=bool)
    for axes in groups.values():
        mask &= (np.sort(codes[:, axes], axis=1) == np.sort(codes[label, axes])).all(axis=1)
    return mask
