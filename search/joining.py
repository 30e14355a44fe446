"""Several phases as one decision problem: prefill and decode with one layout of the weights.

Every phase keeps its own problem; their networks stand side by side, each cost times how often the phase
runs.  Two things connect them.  A tensor that phases *share* lies in one layout at rest: the variables that
hold it in each phase are one variable, whose labels are the layouts that all phases know.  A tensor that one
phase *hands over* to another is resharded from the layout in which the one leaves it to that in which the
other takes it, so a matrix of times stands between the two variables:

    value(x) = sum_p runs_p * value_p(x_p) + sum_h runs_h * reshard_h(x_from, x_to).

Nothing runs beside a hand-over, so all of it counts.  A phase has its chips for itself while it runs:
memory is a budget of each phase alone, in which what is shared lies as it is decided for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, Layouts
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.search.budget_rows import BudgetRow
from autoshard.search.followers import Followers, Labels, fold_followers, merge
from autoshard.search.graph import Value
from autoshard.search.network import Network
from autoshard.search.problem import Problem, copies

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shared:
    """A tensor that lies in one layout in several phases: its value in each of them, by phase."""

    values: dict[int, int]


@dataclass(frozen=True, slots=True)
class HandOver:
    """A tensor that one phase gives to another.

    Attributes:
        source: The phase that has it, and its value there.
        target: The phase that takes it, and its value there.
        runs: How often it is handed over, in the unit of the phases' runs.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    runs: float


@dataclass(frozen=True, slots=True)
class Joint:
    """The phases as one network.

    Attributes:
        problems: The problem of each phase.
        runs: How often each phase runs.
        handovers: What goes from phase to phase.
        network: The costs.
    """

    problems: tuple[Problem, ...]
    runs: tuple[float, ...]
    handovers: tuple[HandOver, ...]
    network: Network
    _phases: tuple[Followers, ...]
    _starts: tuple[int, ...]
    _merged: Followers

    def labels(self, labels: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The labels of each phase's variables, from those of the joint network."""
        apart = self._merged.expand(labels)
        return tuple(
            phase.expand(apart[start : start + phase.network.n_variables])
            for start, phase in zip(self._starts, self._phases, strict=True)
        )

    def row(self, phase: int, row: BudgetRow) -> BudgetRow:
        """A budget row of one phase's problem as a row of the joint network."""
        own, start = self._phases[phase].row(row), self._starts[phase]
        unary = {number + start: use for number, use in own.unary.items()}
        pairs = {(i + start, j + start): use for (i, j), use in own.pairwise.items()}
        return self._merged.row(BudgetRow(row.name, unary, pairs))

    def handover_seconds(self, labels: Sequence[Sequence[int]]) -> float:
        """Time of all hand-overs under the labels of the phases, each as often as it happens."""
        return sum(each.runs * self.one_handover_seconds(each, labels) for each in self.handovers)

    def one_handover_seconds(self, each: HandOver, labels: Sequence[Sequence[int]]) -> float:
        """Time of one hand-over, once."""
        have, want = (
            layout_of(self.problems[phase], labels[phase], value)[None]
            for phase, value in (each.source, each.target)
        )
        problem, value = self.problems[each.source[0]], each.source[1]
        return float(moving_seconds(problem.graph.values[value], have, want, problem.mesh)[0, 0])


def layout_of(problem: Problem, labels: Sequence[int], value: int) -> npt.NDArray[np.int8]:
    """[A] the layout of an argument or result under a plan."""
    layouts, label = _replicated(problem), 0
    if value in problem.value_variable:
        layouts, label = problem.layouts(value), labels[problem.value_variable[value]]
    layout: npt.NDArray[np.int8] = layouts[label]
    return layout


def join(
    problems: Sequence[Problem],
    runs: Sequence[float],
    shared: Sequence[Shared],
    handovers: Sequence[HandOver],
) -> Joint:
    """Make one network of the problems of all phases, which are on one mesh."""
    joiner = _Joiner(problems, runs)
    for handover in handovers:
        joiner.hand_over(handover)
    for each in shared:
        joiner.share(each)
    merged = merge(joiner.network, joiner.groups())
    return Joint(
        tuple(problems),
        tuple(runs),
        tuple(handovers),
        merged.network,
        tuple(joiner.phases),
        tuple(joiner.starts),
        merged,
    )


@dataclass(slots=True)
class _Group:
    """Variables that decide together: row r of `table` [R, members] has their labels in choice r."""

    members: list[int]
    table: npt.NDArray[np.intp]


class _Joiner:
    """The networks side by side, and which of their variables are one."""

    def __init__(self, problems: Sequence[Problem], runs: Sequence[float]) -> None:
        self.problems = problems
        self.phases = [fold_followers(problem) for problem in problems]
        self.starts: list[int] = []
        self.network = Network()
        self.grouped: dict[int, _Group] = {}
        for phase, count in zip(self.phases, runs, strict=True):
            self.add(phase.network, count)

    def add(self, network: Network, runs: float) -> None:
        """Put the network of a phase beside the others."""
        start = self.network.n_variables
        self.starts.append(start)
        for name, unary in zip(network.names, network.unary, strict=True):
            number = self.network.add_variable(unary * runs, name)
            self.grouped[number] = _Group([number], np.arange(unary.size)[:, None])
        for (i, j), matrix in network.pairwise.items():
            self.network.add_pairwise(i + start, j + start, matrix * runs)

    def place(self, phase: int, value: int) -> tuple[int | None, Layouts]:
        """The variable that holds a value and the layouts under its labels; None for one that stays whole."""
        problem, followers = self.problems[phase], self.phases[phase]
        if value not in problem.value_variable:
            return None, _replicated(problem)
        variable = problem.value_variable[value]
        layouts = problem.layouts(value)[followers.labels[variable]]
        return self.starts[phase] + followers.leader[variable], layouts

    def hand_over(self, each: HandOver) -> None:
        """Charge for a tensor on its way from one phase to another."""
        (source, have), (target, want) = self.place(*each.source), self.place(*each.target)
        problem = self.problems[each.source[0]]
        value = problem.graph.values[each.source[1]]
        times = moving_seconds(value, have, want, problem.mesh) * each.runs
        if source is None and target is None:
            return
        if source is not None and target is not None and source != target:
            self.network.add_pairwise(source, target, times)
        elif source is not None:
            self.network.add_unary(source, times[:, 0] if target is None else np.diagonal(times))
        elif target is not None:
            self.network.add_unary(target, times[0])

    def share(self, shared: Shared) -> None:
        """Let all phases have a tensor in one layout; whole is one that all know."""
        places = [self.place(phase, value) for phase, value in shared.values.items()]
        for (one, have), (other, want) in pairwise(places):
            if one is not None and other is not None:
                self.agree(one, have, other, want)
            elif one is not None:
                self.stay_whole(one, have)
            elif other is not None:
                self.stay_whole(other, want)

    def agree(self, one: int, have: Layouts, other: int, want: Layouts) -> None:
        """Keep the choices in which two variables have one layout."""
        left, right = self.grouped[one], self.grouped[other]
        a = have[left.table[:, left.members.index(one)]]
        b = want[right.table[:, right.members.index(other)]]
        if left is right:
            left.table = left.table[(a == b).all(axis=1)]
            return
        rows, columns = np.nonzero((a[:, None, :] == b[None, :, :]).all(axis=2))
        left.table = np.hstack([left.table[rows], right.table[columns]])
        left.members = [*left.members, *right.members]
        self.grouped |= dict.fromkeys(right.members, left)

    def stay_whole(self, number: int, layouts: Layouts) -> None:
        """Keep the choices in which a variable shards nothing."""
        group = self.grouped[number]
        kept = layouts[group.table[:, group.members.index(number)]]
        group.table = group.table[(kept == REPLICATED).all(axis=1)]

    def groups(self) -> list[tuple[list[int], list[Labels]]]:
        """The groups in the order of their first variables."""
        distinct = {id(group): group for group in self.grouped.values()}.values()
        return [(group.members, list(group.table.T)) for group in distinct]


def _replicated(problem: Problem) -> Layouts:
    return np.full((1, len(problem.mesh.axes)), REPLICATED, dtype=np.int8)


def moving_seconds(value: Value, have: Layouts, want: Layouts, mesh: TorusMesh) -> Floats:
    """[K, J] seconds of moving a value between programs, from each of K layouts to each of J."""
    moved = reshard_seconds(have, want, value.nbytes, mesh, value.shape)
    times: Floats = moved + copies(have, want, value.nbytes, mesh, value.shape)
    return times
