"""A solved plan spelled out: what every op reads, makes and communicates, with times.

The labels of a candidate become ordered specs (`autoshard.search.ordering`), and every edge whose layouts differ becomes the collectives that
the compiler will have to insert, each attributed to the op that asks for it: the einsum that reads the tensor if there is one,
else the einsum that made it, else the op at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import Layouts, local_fraction
from autoshard.cost.reshard import reshard_collectives
from autoshard.search.candidates import Strategies, operand_layouts, result_layouts
from autoshard.search.graph import Op, OpKind
from autoshard.search.ordering import Axes, Orders, Spec, unreduced_axes
from autoshard.search.problem import Edge, Problem, copies, has_unreduced
from autoshard.search.stages import closing, stages


COPY = "copy"
"""Kind of a movement that stays on the chip: a slice, or what a collective delivers, through HBM."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One collective or copy that a plan needs, and the tensor it moves; seconds and bytes are of one chip and one execution."""

    kind: str
    axes: tuple[str, ...]
    bytes_per_chip: float
    seconds: float
    tensor: str


@dataclass(frozen=True, slots=True)
class OpDecision:
    """How one op runs; times are for one execution.

    Attributes:
        op: The op.
        operands: Chain of specs that brings each operand to where it is read (its last is what the op reads); empty for
            values that every reader computes for itself, and for open sums.
        result: Chain of specs that the first result passes through; empty when it stays an open sum.
        made: Spec in which the op itself leaves the first result.
        open_axes: Axes over which that first result is an open sum.
        constrained: Whether the result must be pinned for the compiler to follow the plan.
        movements: The collectives attributed to it.
        compute_seconds: Time of the matrix unit.
        hbm_seconds: Time of HBM and on-chip traffic.
        flops_per_chip: Useful operations of one chip.
    """

    op: Op
    operands: tuple[tuple[Spec, ...], ...]
    result: tuple[Spec, ...]
    made: Spec
    open_axes: Axes
    constrained: bool
    movements: tuple[Movement, ...]
    compute_seconds: float
    hbm_seconds: float
    flops_per_chip: float

    @property
    def ici_seconds(self) -> float:
        """Time of the collectives."""
        return sum(m.seconds for m in self.movements)


@dataclass(slots=True)
class Decisions:
    """A whole candidate spelled out."""

    problem: Problem
    labels: tuple[int, ...]
    orders: Orders
    ops: list[OpDecision] = field(default_factory=list)

    def spec_of_value(self, value: int) -> Spec:
        """Spec of an argument, result or loop slot; free values are replicated."""
        if value in self.problem.value_variable:
            return self.orders.spec_of_value(value)
        return ((),) * len(self.problem.graph.values[value].shape)


def spell_out(problem: Problem, labels: Sequence[int]) -> Decisions:
    """Turn the labels of a candidate into decisions per op."""
    decisions = Decisions(problem, tuple(labels), Orders(problem, labels))
    movements, moved = _movements(problem, labels)
    outgoing: dict[int, list[Edge]] = {}
    incoming: dict[int, list[Edge]] = {}
    for edge in problem.edges:
        outgoing.setdefault(edge.value, []).append(edge)
        incoming.setdefault(edge.op, []).append(edge)
    for op in problem.graph.ops:
        if op.index in problem.op_variable:
            decisions.ops.append(_op_decision(decisions, op, movements.get(op.index, []), moved, incoming, outgoing))
        elif op.kind is OpKind.IDENTITY and op.results[0] in problem.value_variable:
            decisions.ops.append(_hand_over(decisions, op, movements.get(op.index, [])))
    return decisions


def _movements(problem: Problem, labels: Sequence[int]) -> tuple[dict[int, list[Movement]], set[int]]:
    """Collectives by the op they are attributed to, and the values that are resharded."""
    graph = problem.graph
    found: dict[int, list[Movement]] = {}
    moved: set[int] = set()
    for edge in problem.edges:
        have, want = edge.source_layouts[labels[edge.source]], edge.target_layouts[labels[edge.target]]
        if not (have != want).any():
            continue
        moved.add(edge.value)
        value = graph.values[edge.value]
        owner = _owner(problem, edge)
        producer = graph.ops[value.producer].name if value.producer >= 0 else ""
        label = value.name or producer
        found.setdefault(owner, []).extend(_reshard(problem, have, want, value.nbytes, label))
    return found, moved


def _reshard(problem: Problem, have: Layouts, want: Layouts, nbytes: float, label: str) -> list[Movement]:
    """The collectives of one reshard, then the copy through HBM if the tensor is large."""
    collectives = [
        Movement(str(c.kind), tuple(c.axes), c.bytes_per_chip, c.seconds, label)
        for c in reshard_collectives(have, want, nbytes, problem.mesh)
    ]
    copied = float(copies(have[None], want[None], nbytes, problem.mesh)[0, 0])
    local = nbytes * float(local_fraction(want[None], problem.mesh)[0])
    changed = tuple(name for name, a, b in zip(problem.mesh.names, have, want, strict=True) if a != b)
    return [*collectives, Movement(COPY, changed, local, copied, label)] if copied else collectives


def _owner(problem: Problem, edge: Edge) -> int:
    graph = problem.graph
    producer = graph.values[edge.value].producer
    if edge.op >= 0 and graph.ops[edge.op].kind is OpKind.EINSUM:
        return edge.op
    if producer >= 0 and graph.ops[producer].kind is OpKind.EINSUM and graph.ops[producer].trips == edge.trips:
        return producer
    return edge.op if edge.op >= 0 else producer


def _op_decision(
    decisions: Decisions,
    op: Op,
    movements: list[Movement],
    moved: set[int],
    incoming: dict[int, list[Edge]],
    outgoing: dict[int, list[Edge]],
) -> OpDecision:
    problem, labels, orders = decisions.problem, decisions.labels, decisions.orders
    number = problem.op_variable[op.index]
    variable = problem.variables[number]
    label = labels[number]
    code = variable.codes[label : label + 1]
    made = result_layouts(op, code, 0)[0]
    assert variable.cost is not None
    return OpDecision(
        op=op,
        operands=tuple(_operand(decisions, op, code, i, incoming) for i in range(len(op.operands))),
        result=_result(decisions, op, outgoing),
        made=orders.spec_of_result(op, 0),
        open_axes=unreduced_axes(made),
        constrained=_constrained(decisions, op, moved),
        movements=tuple(movements),
        compute_seconds=float(variable.cost.compute_seconds[label]),
        hbm_seconds=float(variable.cost.hbm_seconds[label]),
        flops_per_chip=float(variable.cost.flops_per_chip[label]),
    )


def _operand(decisions: Decisions, op: Op, code: Strategies, position: int, incoming: dict[int, list[Edge]]) -> tuple[Spec, ...]:
    problem, orders = decisions.problem, decisions.orders
    value = op.operands[position]
    if problem.graph.values[value].free or has_unreduced(operand_layouts(op, code, position)[0]):
        return ()
    want = orders.spec_of_operand(op, position)
    edge = next((e for e in incoming.get(op.index, []) if e.value == value), None)
    if edge is None:
        return (want,)
    open_axes = unreduced_axes(edge.source_layouts[decisions.labels[edge.source]])
    return stages(_source_spec(decisions, edge), want, open_axes) or (want,)


def _source_spec(decisions: Decisions, edge: Edge) -> Spec:
    """The spec in which the source of an edge has the value."""
    problem, orders = decisions.problem, decisions.orders
    if edge.value in problem.value_variable and problem.value_variable[edge.value] == edge.source:
        return orders.spec_of_value(edge.value)
    producer = problem.graph.ops[problem.graph.values[edge.value].producer]
    return orders.spec_of_result(producer, producer.results.index(edge.value))


def _result(decisions: Decisions, op: Op, outgoing: dict[int, list[Edge]]) -> tuple[Spec, ...]:
    """The chain of the first result: an open sum is closed, and an einsum's result goes on to where its readers share it."""
    problem, labels, orders, value = decisions.problem, decisions.labels, decisions.orders, op.results[0]
    made = orders.spec_of_result(op, 0)
    open_axes = unreduced_axes(_made_layout(decisions, op))
    if value in problem.value_variable:
        layout = problem.layouts(value)[labels[problem.value_variable[value]]]
        if has_unreduced(layout):
            return ()
        chain = stages(made, orders.spec_of_value(value), open_axes)
        if open_axes:
            return chain if op.kind is OpKind.EINSUM else chain[:1]
        return (made, *chain) if op.kind is OpKind.EINSUM else (made,)
    if not open_axes:
        return (made,)
    for edge in outgoing.get(value, []):
        if has_unreduced(edge.target_layouts[labels[edge.target]]):
            return ()
        reader = problem.graph.ops[edge.op]
        return (closing(made, orders.spec_of_operand(reader, reader.operands.index(value))),)
    slot = _handed_over(decisions, value)
    return () if slot is None else stages(made, slot, open_axes)


def _made_layout(decisions: Decisions, op: Op) -> npt.NDArray[np.int8]:
    number = decisions.problem.op_variable[op.index]
    label = decisions.labels[number]
    return result_layouts(op, decisions.problem.variables[number].codes[label : label + 1], 0)[0]


def _handed_over(decisions: Decisions, value: int) -> Spec | None:
    """The spec of the slot that takes an open sum over."""
    graph = decisions.problem.graph
    for op in graph.ops:
        if op.kind is OpKind.IDENTITY and op.operands[0] == value and op.results[0] in decisions.problem.value_variable:
            return decisions.orders.spec_of_value(op.results[0])
    return None


def _constrained(decisions: Decisions, op: Op, moved: set[int]) -> bool:
    """Pin what several ops read and what is resharded on its way in or out."""
    problem = decisions.problem
    anchored = any(value in problem.value_variable for value in op.results)
    return anchored or any(v in moved for v in (*op.results, *op.operands))


def _hand_over(decisions: Decisions, op: Op, movements: list[Movement]) -> OpDecision:
    spec = decisions.orders.spec_of_value(op.results[0])
    return OpDecision(op, ((spec,),), (spec,), spec, (), True, tuple(movements), 0.0, 0.0, 0.0)
