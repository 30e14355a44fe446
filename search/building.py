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

Copies (`autoshard.search.folding`) share variables and edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from autoshard.cost.layouts import Bools, Layouts, enumerate_layouts
from autoshard.cost.padding import cuts_whole, moves_blocks
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.search.candidates import Strategies, may_pad, operand_layouts, result_layouts, strategies
from autoshard.search.collector import collector_paused
from autoshard.search.costs import op_cost
from autoshard.search.folding import Folding, fold
from autoshard.search.graph import Graph, Op, OpKind
from autoshard.search.hiding import Hiding, hidden_seconds
from autoshard.search.kernels import kernels
from autoshard.search.network import Network
from autoshard.search.problem import Edge, Floats, Flow, Problem, Variable, VariableKind, copies, rest_seconds
from autoshard.search.ties import tie_classes


@collector_paused()
def build_problem(
    graph: Graph,
    mesh: TorusMesh,
    folding: Folding | None = None,
    *,
    padding: bool = False,
    stored_padded: bool = False,
) -> Problem:
    """Enumerate candidates and price them.

    Args:
        graph: The program.
        mesh: The mesh.
        folding: Its copies, `fold(graph)` unless it is given (it does not depend on the mesh).
        padding: Whether what is neither an argument nor a result may be split over chips that do not divide
            it (`autoshard.cost.padding`).
        stored_padded: Whether arguments and results may be, too, and all ops: as if the model had them in
            padded sizes, which chips divide.
    """
    folding = fold(graph) if folding is None else folding
    builder = _Builder(graph, mesh, folding, padding or stored_padded, stored_padded)
    builder.add_values()
    builder.add_ops()
    builder.add_edges()
    return builder.problem()


class _Builder:
    """Collects variables and edges; reshard matrices are cached by what they depend on."""

    def __init__(
        self, graph: Graph, mesh: TorusMesh, folding: Folding, padding: bool, stored_padded: bool
    ) -> None:
        self.graph, self.mesh, self.folding, self.padding = graph, mesh, folding, padding
        self.stored_padded = stored_padded
        self.classes = tie_classes(graph)
        self.readers = graph.consumers
        self.kernels = kernels(graph)
        self.results = frozenset(graph.results)
        self.passing = self.passing_values()
        self.variables: list[Variable] = []
        self.edges: list[Edge] = []
        self.trips: list[int] = []
        self.flows: list[Flow] = []
        self.op_variable: dict[int, int] = {}
        self.value_variable: dict[int, int] = {}
        self._numbers: dict[tuple[int, ...], int] = {}
        self._homes: dict[int, object] = {}
        self._shared: dict[object, int] = {}
        self._domains: dict[object, Layouts] = {}
        self._strategies: dict[object, Strategies] = {}
        self._layouts: dict[tuple[str, int, int], Layouts] = {}
        self._trapped: dict[object, Bools | None] = {}

    # Variables.

    def add_values(self) -> None:
        leaders = self.folding.value_leader
        anchored = {leaders[value] for value in self.anchored_values()}
        for value in self.graph.values:
            if not value.free and leaders[value.index] in anchored:
                self.value_variable[value.index] = self.layout_variable(value.index)

    def anchored_values(self) -> Iterator[int]:
        """Values that need a layout of their own: ties, arguments, slots, and what several ops read."""
        yield from (*self.graph.arguments, *self.graph.results, *self.classes)
        yield from (op.results[0] for op in self.graph.ops if op.kind is OpKind.IDENTITY)
        dull = [self.dull(op) for op in self.graph.ops]
        for value, readers in enumerate(self.readers):
            if len({op for op, _ in readers if not dull[op]}) > 1:
                yield value

    def passing_values(self) -> frozenset[int]:
        """Values that are neither an argument nor a result nor a constant, nor lie in the layout of one."""
        outside = {*self.graph.arguments, *self.graph.constants, *self.results}
        held = {id(self.classes[v]) for v in outside if v in self.classes}
        tied = {v for v, known in self.classes.items() if id(known) in held}
        return frozenset(v.index for v in self.graph.values) - outside - tied

    def layout_variable(self, value: int) -> int:
        """The variable of a value: one for all tied values, and one for all copies."""
        home = self.home(value)
        if home in self._shared:
            return self._shared[home]
        tied = self.classes.get(value)
        subject = value if tied is None else tied.representative
        known = self.graph.values[subject]
        unreduced = known.partial and tied is None and value not in self.results
        padded = self.stored_padded or (self.padding and value in self.passing)
        codes = self.domain(known.shape, unreduced, padded)
        number = self.variable(Variable(VariableKind.LAYOUT, subject, codes, None, 0))
        self._shared[home] = number
        return number

    def home(self, value: int) -> object:
        """What a value's layout belongs to: equal for tied values and for copies."""
        leaders, tied = self.folding.value_leader, self.classes.get(value)
        if tied is None:
            return leaders[value], value in self.results
        if id(tied) not in self._homes:
            members = frozenset((leaders[member], dims) for member, dims in tied.dims.items())
            self._homes[id(tied)] = members
        return self._homes[id(tied)]

    def domain(self, shape: tuple[int, ...], unreduced: bool, padded: bool) -> Layouts:
        key = (shape, unreduced, padded)
        if key not in self._domains:
            self._domains[key] = enumerate_layouts(shape, self.mesh, unreduced=unreduced, padded=padded)
        return self._domains[key]

    def variable(self, variable: Variable) -> int:
        self.variables.append(variable)
        return len(self.variables) - 1

    def dull(self, op: Op) -> bool:
        """Whether an op decides nothing: all that it makes is free."""
        return all(self.graph.values[v].free for v in op.results)

    def add_ops(self) -> None:
        trips = Counter[int]()
        for op in self.graph.ops:
            trips[self.folding.op_leader[op.index]] += op.trips
        for leader, total in trips.items():
            op = self.graph.ops[leader]
            if op.kind is not OpKind.IDENTITY and not self.dull(op):
                self.op_variable[leader] = self.strategy_variable(op, total)
        for op in self.graph.ops:
            leader = self.folding.op_leader[op.index]
            if leader in self.op_variable:
                self.op_variable[op.index] = self.op_variable[leader]

    def strategy_variable(self, op: Op, trips: int) -> int:
        padded = self.stored_padded or (self.padding and may_pad(op))
        key = (op.factors, op.operand_dims, op.result_dims, op.linear, padded)
        if key not in self._strategies:
            self._strategies[key] = strategies(op, self.mesh, padded=padded)
        codes = self._strategies[key]
        cost = op_cost(op, codes, self.graph, self.mesh, self.kernels)
        return self.variable(Variable(VariableKind.STRATEGY, op.index, codes, cost, trips))

    # Edges.

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
        wanted = self.op_layouts("operand", op.index, position)
        self.flow(op, value, value, *self.where(value), self.op_variable[op.index], wanted, position)

    def where(self, value: int) -> tuple[int, Layouts]:
        """The variable that has a value and the value's layouts under its labels."""
        if value in self.value_variable:
            return self.value_variable[value], self.anchored_layouts(value)
        op = self.graph.ops[self.graph.values[value].producer]
        return self.op_variable[op.index], self.op_layouts("result", op.index, op.results.index(value))

    def op_layouts(self, side: str, index: int, position: int) -> Layouts:
        """[K, A] layouts of an operand or a result of an op under the labels of its variable."""
        op = self.graph.ops[self.folding.op_leader[index]]
        key = (side, op.index, position)
        if key not in self._layouts:
            codes = self.variables[self.op_variable[op.index]].codes
            layouts = operand_layouts if side == "operand" else result_layouts
            self._layouts[key] = layouts(op, codes, position)
        return self._layouts[key]

    def anchored_layouts(self, value: int) -> Layouts:
        key = ("value", self.folding.value_leader[value], self.value_variable[value])
        if key not in self._layouts:
            codes = self.variables[self.value_variable[value]].codes
            tied = self.classes.get(value)
            self._layouts[key] = codes if tied is None else tied.layouts_of(value, codes)
        return self._layouts[key]

    def anchor(self, op: Op, position: int, value: int) -> None:
        have = self.op_layouts("result", op.index, position)
        target, wanted = self.value_variable[value], self.anchored_layouts(value)
        self.flow(op, value, value, self.op_variable[op.index], have, target, wanted, None)

    def hand_over(self, op: Op) -> None:
        """The edge from a value to the slot that takes it; the slot may be tied to other values."""
        (value,), (slot,) = op.operands, op.results
        if self.graph.values[value].free or self.graph.values[slot].free:
            return
        wanted = self.anchored_layouts(slot)
        self.flow(op, slot, value, *self.where(value), self.value_variable[slot], wanted, 0)

    def flow(
        self,
        op: Op,
        value: int,
        held: int,
        source: int,
        have: Layouts,
        target: int,
        wanted: Layouts,
        position: int | None,
    ) -> None:
        """Count one movement, made by `op` (read by it at `position`), on the edge that stands for it."""
        leaders = self.folding.value_leader
        reader = -1 if position is None else self.folding.op_leader[op.index]
        key = (leaders[value], leaders[held], source, target, reader, position or 0)
        number = self._numbers.setdefault(key, len(self.edges))
        if number == len(self.edges):
            self.edges.append(Edge(key[0], key[1], source, target, have, wanted, 0, reader, position or 0))
            self.trips.append(0)
        self.trips[number] += op.trips
        self.flows.append(Flow(number, value, -1 if position is None else op.index))

    # The network.

    def problem(self) -> Problem:
        self.count_homes()
        network = Network()
        for variable in self.variables:
            network.add_variable(self.unary(variable), self.label(variable))
        matrix = _cached_matrices(self.mesh)
        hiding = Hiding(self.graph, tuple(self.variables), self.op_variable)
        edges = tuple(
            replace(edge, trips=trips, beside=hiding.beside(edge))
            for edge, trips in zip(self.edges, self.trips, strict=True)
        )
        for edge in edges:
            value = self.graph.values[edge.value]
            cost = self.offered(edge, matrix(edge, value.nbytes, value.shape) * edge.trips)
            if edge.source == edge.target:
                network.add_unary(edge.source, np.diagonal(cost).copy())
            else:
                network.add_pairwise(edge.source, edge.target, cost)
        return Problem(
            graph=self.graph,
            mesh=self.mesh,
            folding=self.folding,
            variables=tuple(self.variables),
            edges=edges,
            flows=tuple(self.flows),
            network=network,
            op_variable=self.op_variable,
            value_variable=self.value_variable,
            classes=self.classes,
        )

    def offered(self, edge: Edge, cost: Floats) -> Floats:
        """The costs of an edge, infinite where the compiler would not do what padding is priced at."""
        if not self.padding or self.stored_padded:
            return cost
        value = self.graph.values[edge.value]
        loop = self.graph.ops[edge.op if edge.op >= 0 else value.producer].loop
        caught = self.trapped(edge, value.shape, in_loop=value.stored_bytes > 0 and loop >= 0)
        return cost if caught is None else np.where(caught, np.inf, cost)

    def trapped(self, edge: Edge, shape: tuple[int, ...], *, in_loop: bool) -> Bools | None:
        """[K, J] the reshards of a tensor, or of one that a loop reads from memory, that are not offered."""
        have, want = edge.source_layouts, edge.target_layouts
        key = (have.tobytes(), want.tobytes(), shape, in_loop)
        if key not in self._trapped:
            masks = [moves_blocks(have, want, shape, self.mesh)]
            masks += [cuts_whole(have, want, shape, self.mesh)] if in_loop else []
            found = [mask for mask in masks if mask is not None]
            self._trapped[key] = np.logical_or.reduce(found) if found else None
        return self._trapped[key]

    def count_homes(self) -> None:
        """How many tensors share each layout variable: tied values are one tensor, copies are several."""
        homes = {
            (number, id(self.classes[value]) if value in self.classes else value)
            for value, number in self.value_variable.items()
        }
        for number, count in Counter(number for number, _ in homes).items():
            self.variables[number] = replace(self.variables[number], trips=count)

    def unary(self, variable: Variable) -> Floats:
        if variable.cost is None:
            return rest_seconds(self.graph, self.mesh, variable.subject, variable.codes) * variable.trips
        return variable.cost.seconds * variable.trips

    def label(self, variable: Variable) -> str:
        if variable.kind is VariableKind.STRATEGY:
            return self.graph.ops[variable.subject].name
        return self.graph.values[variable.subject].name or f"value {variable.subject}"


def _cached_matrices(mesh: TorusMesh) -> Callable[[Edge, float, tuple[int, ...]], Floats]:
    """Times of reshards, exposed collectives and copies, each distinct matrix computed once."""
    moved: dict[tuple[bytes, bytes, float, tuple[int, ...]], Floats] = {}
    copied: dict[tuple[bytes, bytes, float, tuple[int, ...]], Floats] = {}
    exposed = mesh.slice.chip.exposed_ici_fraction

    def matrix(edge: Edge, nbytes: float, shape: tuple[int, ...]) -> Floats:
        have, want = edge.source_layouts, edge.target_layouts
        key = (have.tobytes(), want.tobytes(), nbytes, shape)
        if key not in moved:
            seconds = reshard_seconds(have, want, nbytes, mesh, shape)
            moved[key] = seconds * exposed if exposed else np.where(np.isinf(seconds), np.inf, 0.0)
            copied[key] = copies(have, want, nbytes, mesh, shape)
        if edge.beside is None:
            return moved[key] + copied[key]
        return moved[key] - hidden_seconds(have, want, moved[key], edge.beside, mesh) + copied[key]

    return matrix
