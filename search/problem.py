"""The decision problem: variables, edges between them, and their cost network.

Variables:
  * one per op that touches data, its labels being the op's strategies;
  * one per *anchored* value, its labels being layouts.
Edges say which value goes from which variable to which, and in what layouts.  Copies
(`autoshard.search.folding`) share the variable of their leader, so a network has the size of one layer
however many are written out; costs count every copy.  Edges go by leaders too; `flows` are what they stand
for.

`autoshard.search.building` makes the problem of a graph and a mesh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import UNREDUCED, Layouts, local_fraction
from autoshard.cost.roofline import stream_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.cost.traffic import copy_seconds
from autoshard.search.costs import OpCost
from autoshard.search.folding import Folding
from autoshard.search.graph import Graph
from autoshard.search.network import Network
from autoshard.search.ties import TieClass

Floats = npt.NDArray[np.float64]

REST_PRICE = 1e-5
"""Price of a byte at rest, as a share of the time to stream it once: breaks ties, towards less memory."""


class VariableKind(StrEnum):
    """What a variable decides."""

    STRATEGY = "strategy"
    LAYOUT = "layout"


@dataclass(frozen=True, slots=True)
class Variable:
    """One decision.

    Attributes:
        kind: Whether it is an op's or a value's.
        subject: Index of that op or value: of the leader, where copies share the decision.
        codes: [K, A] its labels.
        cost: What one execution of an op costs under each label; None for a value.
        trips: Executions per step of the op and its copies; for a value the number of copies.
    """

    kind: VariableKind
    subject: int
    codes: npt.NDArray[np.int8]
    cost: OpCost | None
    trips: int = 1


@dataclass(frozen=True, slots=True)
class Edge:
    """A value on its way from one variable to another; values and ops are leaders.

    Attributes:
        value: The value that moves; for a hand-over the slot that it arrives in.
        held: The value that the source has: what is handed over, else `value` itself.
        source: Variable that has it.
        target: Variable that wants it.
        source_layouts: [K, A] layouts of the value under the labels of `source`.
        target_layouts: [J, A] layouts wanted under the labels of `target`.
        trips: Times per step that it moves, all copies together.
        op: Op that wants it, -1 when the target is the layout of the value itself.
        position: Which operand of that op it is, 0 when there is no op.
        beside: [J] seconds of work beside which its gather may run; None where it waits for what makes it.
    """

    value: int
    held: int
    source: int
    target: int
    source_layouts: Layouts
    target_layouts: Layouts
    trips: int
    op: int
    position: int
    beside: Floats | None = None


class Flow(NamedTuple):
    """One of the movements that an edge (a position in `Problem.edges`) stands for: its own value and op."""

    edge: int
    value: int
    op: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A decision problem.

    Attributes:
        graph: The program.
        mesh: The mesh.
        folding: Which ops and values of the graph are copies of which.
        variables: The decisions.
        edges: What moves between them.
        flows: For each movement of the graph the edge that stands for it.
        network: The costs.
        op_variable: The variable of each op that has one, copies included.
        value_variable: The variable of each anchored value, copies included.
        classes: Tied values.
        orders: By variable and part of it (a factor of an op, a canonical dim of a value) the axes there,
            major first, where the user fixed their order.
        pinned_ops: Ops, by leader, whose result the user pinned.
    """

    graph: Graph
    mesh: TorusMesh
    folding: Folding
    variables: tuple[Variable, ...]
    edges: tuple[Edge, ...]
    flows: tuple[Flow, ...]
    network: Network
    op_variable: dict[int, int]
    value_variable: dict[int, int]
    classes: dict[int, TieClass]
    orders: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    pinned_ops: frozenset[int] = frozenset()

    def rest_seconds(self, labels: Sequence[int]) -> float:
        """The part of a plan's network value that is only the tie-breaking price of memory at rest."""
        return sum(
            float(rest_seconds(self.graph, self.mesh, variable.subject, variable.codes[[label]])[0])
            * variable.trips
            for variable, label in zip(self.variables, labels, strict=True)
            if variable.cost is None
        )

    def layouts(self, value: int) -> Layouts:
        """[K, A] layouts of an anchored value under the labels of its variable."""
        codes = self.variables[self.value_variable[value]].codes
        return self.classes[value].layouts_of(value, codes) if value in self.classes else codes


def rest_seconds(graph: Graph, mesh: TorusMesh, value: int, layouts: Layouts) -> Floats:
    """[K] price of keeping a value in each of the layouts."""
    return REST_PRICE * stream_seconds(
        graph.values[value].nbytes * local_fraction(layouts, mesh, graph.values[value].shape), mesh.slice.chip
    )


def copies(
    source: Layouts, target: Layouts, nbytes: float, mesh: TorusMesh, shape: tuple[int, ...] = ()
) -> Floats:
    """[K, J] time that reshards spend on memory: 0 where the layout stays."""
    seconds = copy_seconds(nbytes * local_fraction(target, mesh, shape), mesh.slice.chip)
    if not seconds.any():
        return np.zeros((len(source), len(target)))
    differs = (source[:, None, :] != target[None, :, :]).any(axis=2)
    moved: Floats = differs * seconds[None, :]
    return moved


def has_unreduced(layout: npt.NDArray[np.int8]) -> bool:
    """Whether a layout leaves a sum open along some axis."""
    return bool((layout == UNREDUCED).any())
