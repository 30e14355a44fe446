"""Elementwise chains as followers: ops that keep one layout share one decision, which keeps the search small.

Softmax, norms, rotary embedding and activations are chains of ops on tensors of one shape.  To change the
layout in the middle of such a chain gains next to nothing over changing it before or after (it can gain
where the chain changes the element type on the way); so an op follows another when it reads, in the same
layout, a tensor that the other makes, and at most one reader outside the chain wants that tensor.  The
search is exact over the plans in which followers follow.

A follower's labels are a function of the leader's: `Followers.network` holds leaders only, and `expand`
turns its labels into those of all variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt

from autoshard.search.budget_rows import BudgetRow
from autoshard.search.candidates import result_layouts
from autoshard.search.graph import Dims, FactorKind, Op, OpKind
from autoshard.search.network import FloatArray, Network
from autoshard.search.problem import Problem

Labels = npt.NDArray[np.intp]

_OWN_DECISION = frozenset({OpKind.EINSUM, OpKind.IDENTITY, OpKind.UPDATE})


@dataclass(frozen=True, slots=True)
class Followers:
    """A problem's network with followers folded into their leaders.

    Attributes:
        network: The network of leaders.
        leader: For each variable of the problem, the variable of `network` that decides it.
        labels: For each variable of the problem, its label under each label of its leader.
    """

    network: Network
    leader: tuple[int, ...]
    labels: tuple[Labels, ...]

    def expand(self, labels: Sequence[int]) -> tuple[int, ...]:
        """Labels of all variables of the problem, from labels of the leaders."""
        return tuple(int(own[labels[lead]]) for lead, own in zip(self.leader, self.labels, strict=True))

    def row(self, row: BudgetRow) -> BudgetRow:
        """A budget row of the problem as a row of the leaders."""
        unary: dict[int, FloatArray] = {}
        pairwise: dict[tuple[int, int], FloatArray] = {}
        for number, use in row.unary.items():
            _add(unary, self.leader[number], np.asarray(use, dtype=np.float64)[self.labels[number]])
        for (i, j), matrix in row.pairwise.items():
            self._fold(i, j, np.asarray(matrix, dtype=np.float64), unary, pairwise)
        return BudgetRow(row.name, unary, pairwise)

    def _fold(
        self,
        i: int,
        j: int,
        matrix: FloatArray,
        unary: dict[int, FloatArray],
        pairwise: dict[tuple[int, int], FloatArray],
    ) -> None:
        """Add the matrix of two variables to their leaders; within one chain it becomes a unary cost."""
        folded = matrix[np.ix_(self.labels[i], self.labels[j])]
        a, b = self.leader[i], self.leader[j]
        if a == b:
            _add(unary, a, np.diagonal(folded).copy())
        else:
            key, oriented = ((a, b), folded) if a < b else ((b, a), folded.T)
            pairwise[key] = pairwise[key] + oriented if key in pairwise else oriented


def _add(unary: dict[int, FloatArray], number: int, vector: FloatArray) -> None:
    unary[number] = unary[number] + vector if number in unary else vector


def fold_followers(problem: Problem) -> Followers:
    """Fold every chain of a problem into its first variable."""
    chains = _chains(problem)
    return merge(problem.network, [(chain, _shared_labels(problem, chain)) for chain in chains])


def merge(network: Network, groups: Sequence[tuple[Sequence[int], Sequence[Labels]]]) -> Followers:
    """Let variables decide together.

    Args:
        network: The network.
        groups: All its variables, each in one group, and for each variable of a group its labels [K] under
            the K labels that the group has as a whole.
    """
    ordered = range(network.n_variables)
    leader = {number: lead for lead, (members, _) in enumerate(groups) for number in members}
    labels = {n: own for members, tables in groups for n, own in zip(members, tables, strict=True)}
    followers = Followers(Network(), tuple(leader[n] for n in ordered), tuple(labels[n] for n in ordered))
    merged = _folded_network(network, followers, [members for members, _ in groups])
    return Followers(merged, followers.leader, followers.labels)


def _folded_network(network: Network, followers: Followers, folded: Sequence[Sequence[int]]) -> Network:
    result = Network()
    unary: dict[int, FloatArray] = {}
    pairwise: dict[tuple[int, int], FloatArray] = {}
    for number, vector in enumerate(network.unary):
        _add(unary, followers.leader[number], vector[followers.labels[number]])
    for (i, j), matrix in network.pairwise.items():
        followers._fold(i, j, matrix, unary, pairwise)
    for lead, chain in enumerate(folded):
        result.add_variable(unary[lead], network.names[chain[0]])
    for (i, j), matrix in pairwise.items():
        result.add_pairwise(i, j, matrix)
    return result


def _chains(problem: Problem) -> list[tuple[int, ...]]:
    """Variables that decide together, each chain in the order of its variables."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(problem.variables)))
    readers, leaving = problem.graph.consumers, _leaving(problem)
    results = frozenset(problem.graph.results)
    for value in problem.graph.values:
        if problem.folding.value_leader[value.index] != value.index:
            continue
        maker = problem.graph.ops[value.producer] if value.producer >= 0 else None
        if (
            maker is None
            or value.partial
            or maker.index not in problem.op_variable
            or _split_dims(maker) is None
        ):
            continue
        anchored = value.index in problem.value_variable
        if anchored and (value.index in problem.classes or value.index in results):
            continue
        reads = {(op, position) for op, position in readers[value.index] if op in problem.op_variable}
        following = {op for op, position in reads if _follows(problem.graph.ops[op], position, maker)}
        others = {op for op, _ in reads} - following
        if following and len(others) <= 1 and value.index not in leaving:
            members = [problem.op_variable[op] for op in (maker.index, *sorted(following))]
            members += [problem.value_variable[value.index]] if anchored else []
            nx.add_path(graph, members)
    return sorted(tuple(sorted(part)) for part in nx.connected_components(graph))


def _leaving(problem: Problem) -> frozenset[int]:
    """The values that are handed over to a loop or to the caller."""
    return frozenset(v for op in problem.graph.ops if op.kind is OpKind.IDENTITY for v in op.operands)


def _split_dims(op: Op) -> dict[int, int] | None:
    """The result dim of each factor that may be split; None when strategy and layout do not fix each other.

    Every result must show every such factor at the same dim: then a strategy is the layout of the results,
    and both are the same vector of dims.
    """
    if op.kind in _OWN_DECISION or op.linear:
        return None
    split = {n for n, factor in enumerate(op.factors) if factor.kind is not FactorKind.REPLICATED}
    places = [_places(dims, split) for dims in op.result_dims]
    return places[0] if all(set(each) == split and each == places[0] for each in places) else None


def _places(dims: Dims, split: set[int]) -> dict[int, int]:
    return {factor: number for number, dim in enumerate(dims) for factor in dim if factor in split}


def _follows(op: Op, position: int, maker: Op) -> bool:
    """Whether an op keeps the layout of one operand, in the same loop as its maker."""
    places = _split_dims(op)
    return (
        op.loop == maker.loop
        and places is not None
        and _places(op.operand_dims[position], set(places)) == places
    )


def _shared_labels(problem: Problem, chain: Sequence[int]) -> list[Labels]:
    """For each variable of a chain its labels under the layouts that all of them have."""
    if len(chain) == 1:
        return [np.arange(len(problem.variables[chain[0]].codes))]
    tables = [_by_layout(problem, number) for number in chain]
    shared = [layout for layout in tables[0] if all(layout in table for table in tables)]
    return [np.array([table[layout] for layout in shared], dtype=np.intp) for table in tables]


def _by_layout(problem: Problem, number: int) -> dict[tuple[int, ...], int]:
    """The label of a variable for each layout of the chain's tensor."""
    variable = problem.variables[number]
    layouts = variable.codes
    if variable.cost is not None:
        layouts = result_layouts(problem.graph.ops[variable.subject], variable.codes, 0)
    return {tuple(row): label for label, row in enumerate(layouts.tolist())}
