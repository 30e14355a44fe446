"""From a graph and a mesh to a cost network whose best assignment is the best plan.

Variables:
  * one per op that touches data, its labels being the op's strategies;
  * one per *anchored* value, its labels being layouts: arguments, loop slots, results (tied values share a
    variable), and every value that several ops read, because one gathered copy serves them all.
Costs:
  * a variable's own: the op's time (`autoshard.search.costs`), times the trips of its loop;
  * between neighbours: the reshard from the layout that is there to the layout that is needed, times trips
    and times the share of ICI time that is exposed (the overlap assumption of the chip).
An anchored value that is read under two different layouts pays both reshards.  Values that depend on nothing
but small arguments and constants are free: every reader computes them in the layout it wants, so they do not
appear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import UNREDUCED, Layouts, enumerate_layouts, local_fraction
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.roofline import stream_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.cost.traffic import copy_seconds
from autoshard.search.candidates import Strategies, operand_layouts, result_layouts, strategies
from autoshard.search.costs import OpCost, materialised, op_cost
from autoshard.search.graph import Graph, Op, OpKind, consumers
from autoshard.search.network import Network
from autoshard.search.ties import TieClass, tie_classes

Floats = npt.NDArray[np.float64]

REST_PRICE = 1e-5
"""Price of a byte at rest, as a share of the time to stream it once: breaks ties, towards less memory."""


class VariableKind(StrEnum):
    """What a variable decides."""

    STRATEGY = "strategy"
    LAYOUT = "layout"


@dataclass(frozen=True, slots=True)
class Variable:
    """One decision. `subject` is an op index or a value index; `codes` [K, A] are its labels."""

    kind: VariableKind
    subject: int
    codes: npt.NDArray[np.int8]
    cost: OpCost | None


@dataclass(frozen=True, slots=True)
class Edge:
    """A value on its way from one variable to another.

    Attributes:
        value: The value that moves; for a hand-over the slot that it arrives in.
        held: The value that the source has: what is handed over, else `value` itself.
        source: Variable that has it.
        target: Variable that wants it.
        source_layouts: [K, A] layouts of the value under the labels of `source`.
        target_layouts: [J, A] layouts wanted under the labels of `target`.
        trips: Times per step that it moves.
        op: Op that wants it, -1 when the target is the layout of the value itself.
        position: Which operand of that op it is, 0 when there is no op.
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


@dataclass(frozen=True, slots=True)
class Problem:
    """A decision problem: the graph, the mesh, the variables, the edges, and their network."""

    graph: Graph
    mesh: TorusMesh
    variables: tuple[Variable, ...]
    edges: tuple[Edge, ...]
    network: Network
    op_variable: dict[int, int]
    value_variable: dict[int, int]
    classes: dict[int, TieClass]

    def rest_seconds(self, labels: Sequence[int]) -> float:
        """The part of a plan's network value that is only the tie-breaking price of memory at rest."""
        return sum(
            float(_rest_seconds(self.graph, self.mesh, variable.subject, variable.codes[[label]])[0])
            for variable, label in zip(self.variables, labels, strict=True)
            if variable.cost is None
        )

    def layouts(self, value: int) -> Layouts:
        """[K, A] layouts of an anchored value under the labels of its variable."""
        codes = self.variables[self.value_variable[value]].codes
        return self.classes[value].layouts_of(value, codes) if value in self.classes else codes


def build_problem(graph: Graph, mesh: TorusMesh) -> Problem:
    """Enumerate candidates and price them."""
    builder = _Builder(graph, mesh)
    builder.add_values()
    builder.add_ops()
    builder.add_edges()
    return builder.problem()


class _Builder:
    """Collects variables and edges; reshard matrices are cached by what they depend on."""

    def __init__(self, graph: Graph, mesh: TorusMesh) -> None:
        self.graph, self.mesh = graph, mesh
        self.classes = tie_classes(graph)
        self.readers = consumers(graph)
        self.exists = materialised(graph)
        self.variables: list[Variable] = []
        self.edges: list[Edge] = []
        self.op_variable: dict[int, int] = {}
        self.value_variable: dict[int, int] = {}
        self._domains: dict[object, Layouts] = {}
        self._strategies: dict[object, Strategies] = {}

    def add_values(self) -> None:
        slots = (op.results[0] for op in self.graph.ops if op.kind is OpKind.IDENTITY)
        anchored = {*self.graph.arguments, *self.graph.results, *self.classes, *slots}
        for value in self.graph.values:
            readers = {op for op, _ in self.readers[value.index] if not self.dull(self.graph.ops[op])}
            if value.free or not (value.index in anchored or len(readers) > 1):
                continue
            self.value_variable[value.index] = self.layout_variable(value.index)

    def layout_variable(self, value: int) -> int:
        if value in self.classes:
            tied = self.classes[value]
            for member in tied.dims:
                if member in self.value_variable:
                    return self.value_variable[member]
            value = tied.representative
        known = self.graph.values[value]
        unreduced = known.partial and value not in self.classes and value not in self.graph.results
        codes = self.domain(known.shape, unreduced)
        return self.variable(Variable(VariableKind.LAYOUT, value, codes, None))

    def domain(self, shape: tuple[int, ...], unreduced: bool) -> Layouts:
        key = (shape, unreduced)
        if key not in self._domains:
            self._domains[key] = enumerate_layouts(shape, self.mesh, unreduced=unreduced)
        return self._domains[key]

    def variable(self, variable: Variable) -> int:
        self.variables.append(variable)
        return len(self.variables) - 1

    def dull(self, op: Op) -> bool:
        """Whether an op decides nothing: all that it makes is free."""
        return all(self.graph.values[v].free for v in op.results)

    def add_ops(self) -> None:
        for op in self.graph.ops:
            if op.kind is OpKind.IDENTITY or self.dull(op):
                continue
            key = (op.factors, op.operand_dims, op.result_dims, op.linear)
            if key not in self._strategies:
                self._strategies[key] = strategies(op, self.mesh)
            codes = self._strategies[key]
            cost = op_cost(op, codes, self.graph, self.mesh, self.exists)
            self.op_variable[op.index] = self.variable(Variable(VariableKind.STRATEGY, op.index, codes, cost))

    def add_edges(self) -> None:
        for op in self.graph.ops:
            if op.kind is OpKind.IDENTITY:
                self.hand_over(op)
                continue
            if op.index not in self.op_variable:
                continue
            for position, value in enumerate(op.operands):
                self.read(op, position, value)
            for position, value in enumerate(op.results):
                if value in self.value_variable:
                    self.anchor(op, position, value)

    def read(self, op: Op, position: int, value: int) -> None:
        if self.graph.values[value].free:
            return
        me = self.op_variable[op.index]
        wanted = operand_layouts(op, self.variables[me].codes, position)
        source, have = self.where(value)
        self.edges.append(Edge(value, value, source, me, have, wanted, op.trips, op.index, position))

    def where(self, value: int) -> tuple[int, Layouts]:
        """The variable that has a value and the value's layouts under its labels."""
        if value in self.value_variable:
            return self.value_variable[value], self.anchored_layouts(value)
        op = self.graph.ops[self.graph.values[value].producer]
        variable = self.op_variable[op.index]
        return variable, result_layouts(op, self.variables[variable].codes, op.results.index(value))

    def anchored_layouts(self, value: int) -> Layouts:
        codes = self.variables[self.value_variable[value]].codes
        return self.classes[value].layouts_of(value, codes) if value in self.classes else codes

    def anchor(self, op: Op, position: int, value: int) -> None:
        me = self.op_variable[op.index]
        have = result_layouts(op, self.variables[me].codes, position)
        target, wanted = self.value_variable[value], self.anchored_layouts(value)
        self.edges.append(Edge(value, value, me, target, have, wanted, op.trips, -1, 0))

    def hand_over(self, op: Op) -> None:
        """The edge from a value to the slot that takes it; the slot may be tied to other values."""
        (value,), (slot,) = op.operands, op.results
        if self.graph.values[value].free or self.graph.values[slot].free:
            return
        source, have = self.where(value)
        target, wanted = self.value_variable[slot], self.anchored_layouts(slot)
        self.edges.append(Edge(slot, value, source, target, have, wanted, op.trips, op.index, 0))

    def problem(self) -> Problem:
        network = Network()
        for variable in self.variables:
            network.add_variable(self.unary(variable), self.label(variable))
        matrix = _cached_matrices(self.mesh)
        exposed = self.mesh.slice.chip.exposed_ici_fraction
        for edge in self.edges:
            seconds = matrix(edge.source_layouts, edge.target_layouts, self.graph.values[edge.value].nbytes)
            cost = seconds * (edge.trips * exposed) if exposed else np.where(np.isinf(seconds), np.inf, 0.0)
            if edge.source == edge.target:
                network.add_unary(edge.source, np.diagonal(cost).copy())
            else:
                network.add_pairwise(edge.source, edge.target, cost)
        return Problem(
            graph=self.graph,
            mesh=self.mesh,
            variables=tuple(self.variables),
            edges=tuple(self.edges),
            network=network,
            op_variable=self.op_variable,
            value_variable=self.value_variable,
            classes=self.classes,
        )

    def unary(self, variable: Variable) -> Floats:
        if variable.cost is None:
            return _rest_seconds(self.graph, self.mesh, variable.subject, variable.codes)
        return variable.cost.seconds * self.graph.ops[variable.subject].trips

    def label(self, variable: Variable) -> str:
        if variable.kind is VariableKind.STRATEGY:
            return self.graph.ops[variable.subject].name
        return self.graph.values[variable.subject].name or f"value {variable.subject}"


def _rest_seconds(graph: Graph, mesh: TorusMesh, value: int, layouts: Layouts) -> Floats:
    """[K] price of keeping a value in each of the layouts."""
    return REST_PRICE * stream_seconds(
        graph.values[value].nbytes * local_fraction(layouts, mesh), mesh.slice.chip
    )


def _cached_matrices(mesh: TorusMesh) -> Callable[[Layouts, Layouts, float], Floats]:
    """Times of reshards, collectives and copies, each distinct matrix computed once."""
    known: dict[tuple[bytes, bytes, float], Floats] = {}

    def matrix(source: Layouts, target: Layouts, nbytes: float) -> Floats:
        key = (source.tobytes(), target.tobytes(), nbytes)
        if key not in known:
            known[key] = reshard_seconds(source, target, nbytes, mesh) + copies(source, target, nbytes, mesh)
        return known[key]

    return matrix


def copies(source: Layouts, target: Layouts, nbytes: float, mesh: TorusMesh) -> Floats:
    """[K, J] time that reshards spend on memory: 0 where the layout stays."""
    seconds = copy_seconds(nbytes * local_fraction(target, mesh), mesh.slice.chip)
    if not seconds.any():
        return np.zeros((len(source), len(target)))
    differs = (source[:, None, :] != target[None, :, :]).any(axis=2)
    moved: Floats = differs * seconds[None, :]
    return moved


def has_unreduced(layout: npt.NDArray[np.int8]) -> bool:
    """Whether a layout leaves a sum open along some axis."""
    return bool((layout == UNREDUCED).any())
