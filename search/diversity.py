"""The best plans that differ in substance: in how the heavy einsums are cut, not in the names of axes.

The tiers above re-rank a few plans.  The cheapest assignments would waste their time: they differ in how a
scalar is laid out, or are one plan with equal axes renamed.  So two plans count as the same when every
heavy einsum cuts its factors alike up to a renaming of axes of equal size and bandwidth, and of each kind
only the best is kept.

On small networks these are exactly the best. On those of train steps that would take minutes: there each
heavy einsum in turn is forbidden to be cut as in the best plan, and the rest is solved again, roughly.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoshard.cost.torus import TorusMesh
from autoshard.search.branch import Effort
from autoshard.search.errors import NoSolutionError
from autoshard.search.followers import Followers
from autoshard.search.graph import OpKind
from autoshard.search.k_best import k_best
from autoshard.search.network import Network
from autoshard.search.order import elimination_order
from autoshard.search.problem import Problem, VariableKind
from autoshard.search.reduction import reduce
from autoshard.search.solver import solve

HEAVY = 6
"""Einsums that make two plans different, heaviest first."""

_EXACT_OPERATIONS = 1e10
"""Table entries up to which the best of each kind are found exactly."""
_ALTERNATIVES_GAP = 0.1
_ALTERNATIVES_EFFORT = Effort(rounds=2, most_nodes=1)

_Permutation = npt.NDArray[np.intp]


def distinct_solutions(
    problem: Problem, followers: Followers, network: Network, best: Sequence[int], count: int
) -> list[tuple[int, ...]]:
    """Return the `count` best assignments of distinct kinds, best first; fewer when there are no more.

    Args:
        problem: The decision problem.
        followers: Its folded form.
        network: The network of leaders to minimise, memory being priced in it where it binds: what is
            returned may not fit, which is for the caller to see.
        best: Labels of all variables of the best plan; tells which einsums are heavy.
        count: How many.
    """
    heavy = heavy_einsums(problem, best)[:HEAVY]
    if not heavy:
        return [tuple(best)]
    kinds = {number: kinds_of(problem, number) for number in heavy}

    def signature(labels: tuple[int, ...]) -> Hashable:
        own = {number: followers.labels[number][labels[followers.leader[number]]] for number in heavy}
        return tuple(kinds[number][label] for number, label in own.items())

    if elimination_order(reduce(network).network).operations > _EXACT_OPERATIONS:
        return _alternatives(network, followers, best, kinds, count)
    found = k_best(
        network,
        count,
        signature=signature,
        keys=sorted({followers.leader[number] for number in heavy}),
        symmetries=[s for s in _symmetries(problem, followers) if _keeps_possible(network, s)],
    )
    return [followers.expand(solution.labels) for solution in found]


def _alternatives(
    network: Network,
    followers: Followers,
    best: Sequence[int],
    kinds: Mapping[int, Sequence[Hashable]],
    count: int,
) -> list[tuple[int, ...]]:
    """For each heavy einsum the best plan, to within a gap, that cuts it in another way than `best` does."""
    found = []
    for number, own in kinds.items():
        lead, labels = followers.leader[number], followers.labels[number]
        others = np.array([own[label] != own[best[number]] for label in labels])
        try:
            found.append(
                solve(network.restricted({lead: others}), gap=_ALTERNATIVES_GAP, effort=_ALTERNATIVES_EFFORT)
            )
        except NoSolutionError:
            continue
        if len(found) == count:
            break
    ranked = sorted(found, key=lambda solution: solution.value)
    return [followers.expand(solution.labels) for solution in ranked]


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
        key = (op.factors, op.operand_dims, variable.trips)
        if op.kind is not OpKind.EINSUM or key in seen:
            continue
        seen.add(key)
        seconds[number] = float(variable.cost.seconds[labels[number]]) * variable.trips
    return sorted(seconds, key=lambda number: -seconds[number])


def kinds_of(problem: Problem, variable: int) -> list[tuple[tuple[int, ...], ...]]:
    """For each label of a variable what it is up to a renaming of equal axes."""
    codes = problem.variables[variable].codes
    groups = equal_axes(problem.mesh)
    return [tuple(tuple(sorted(int(code[axis]) for axis in axes)) for axes in groups) for code in codes]


def equal_axes(mesh: TorusMesh) -> list[list[int]]:
    """Mesh axes grouped by what collectives over them cost: size, stride, and the torus dim they lie on."""
    groups: dict[object, list[int]] = {}
    for number, axis in enumerate(mesh.axes):
        dim = axis.torus_dim
        place = (mesh.slice.topology[dim], mesh.slice.wraps[dim]) if dim >= 0 else ()
        groups.setdefault((axis.size, axis.stride, place), []).append(number)
    return list(groups.values())


def _symmetries(problem: Problem, followers: Followers) -> Iterator[list[_Permutation]]:
    """Label permutations of the leaders that rename equal axes, the identity left out."""
    groups = equal_axes(problem.mesh)
    leads = [followers.leader.index(lead) for lead in range(followers.network.n_variables)]
    for orders in itertools.product(*(itertools.permutations(axes) for axes in groups)):
        renamed = list(range(len(problem.mesh.axes)))
        for axes, order in zip(groups, orders, strict=True):
            for axis, other in zip(axes, order, strict=True):
                renamed[axis] = other
        if renamed != sorted(renamed):
            yield [_renaming(problem.variables[n].codes[followers.labels[n]], renamed) for n in leads]


def _keeps_possible(network: Network, symmetry: Sequence[_Permutation]) -> bool:
    """Whether a renaming maps possible labels to possible ones, as it does not where a pin names an axis."""
    possible = (np.isfinite(vector) for vector in network.unary)
    return all(np.array_equal(mask[g], mask) for mask, g in zip(possible, symmetry, strict=True))


def _renaming(codes: npt.NDArray[np.int8], renamed: Sequence[int]) -> _Permutation:
    index = {tuple(code): label for label, code in enumerate(codes.tolist())}
    return np.array([index[tuple(code)] for code in codes[:, list(renamed)].tolist()], dtype=np.intp)
