"""A solved plan spelled out: what every op reads, makes and communicates, with times.

The labels of a candidate become ordered specs (`autoshard.search.ordering`), and every edge whose layouts
differ becomes the movements that the compiler will have to insert (`autoshard.search.movements`). Times are
`Cost`s: they keep their parts and add up to the predicted step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from autoshard.cost.cost import Cost, op_cost
from autoshard.search.candidates import result_layouts
from autoshard.search.costs import OpCost
from autoshard.search.graph import Op, OpKind
from autoshard.search.movements import Layout, Movement, movements_on, owner_of, permutes_on
from autoshard.search.ordering import Orders, Spec, unreduced_axes
from autoshard.search.padded import Padded, factor_names, padded_dims
from autoshard.search.places import Axes
from autoshard.search.problem import Edge, Problem, has_unreduced
from autoshard.search.stages import OpenSum, closings, stages

_SHARED_KINDS = frozenset({OpKind.EINSUM, OpKind.ELEMENTWISE, OpKind.VIEW})


@dataclass(frozen=True, slots=True)
class OpDecision:
    """How one op and its copies run; costs are for one execution.

    Attributes:
        op: The op.
        copies: Indices of the ops that it stands for, itself included.
        operands: Chain of specs that brings each operand to where it is read (its last is what the op reads);
            empty for values that every reader computes for itself, and for open sums.
        result: Chain of specs that the first result passes through; empty when it stays an open sum.
        made: Spec in which the op itself leaves the first result.
        open_axes: Axes over which that first result is an open sum.
        constrained: Whether the result must be pinned for the compiler to follow the plan.
        movements: The collectives attributed to it.
        own_cost: The op without its movements.
        flops_per_chip: Useful operations of one chip.
        padded: The dims that it pads.
    """

    op: Op
    copies: tuple[int, ...]
    operands: tuple[tuple[Spec, ...], ...]
    result: tuple[Spec, ...]
    made: Spec
    open_axes: Axes
    constrained: bool
    movements: tuple[Movement, ...]
    own_cost: Cost
    flops_per_chip: float
    padded: tuple[Padded, ...] = ()

    @property
    def cost(self) -> Cost:
        """The op and its movements."""
        return sum((m.cost for m in self.movements), self.own_cost)

    @property
    def compute_seconds(self) -> float:
        """Time of the matrix unit."""
        return self.own_cost.compute_seconds

    @property
    def hbm_seconds(self) -> float:
        """Time of the op's HBM and on-chip traffic, without its movements."""
        return self.own_cost.hbm_seconds

    @property
    def ici_seconds(self) -> float:
        """Time of the movements, hidden or not."""
        return sum(m.seconds for m in self.movements)

    @property
    def executions(self) -> int:
        """How often it runs in a step, all copies together."""
        return self.op.trips * len(self.copies)


@dataclass(frozen=True, slots=True)
class Decisions:
    """A whole candidate spelled out."""

    problem: Problem
    labels: tuple[int, ...]
    orders: Orders
    ops: tuple[OpDecision, ...]

    @property
    def cost(self) -> Cost:
        """The whole step: all executions of all ops."""
        return sum((decision.executions * decision.cost for decision in self.ops), Cost())

    def spec_of_value(self, value: int) -> Spec:
        """Spec of an argument, result or loop slot; free values are replicated."""
        if value in self.problem.value_variable:
            return self.orders.spec_of_value(value)
        return ((),) * len(self.problem.graph.values[value].shape)


def spell_out(problem: Problem, labels: Sequence[int]) -> Decisions:
    """Turn the labels of a candidate into decisions per op."""
    speller = _Speller(problem, labels)
    ops = tuple(decision for op in speller.copies if (decision := speller.decision(op)) is not None)
    return Decisions(problem, tuple(labels), speller.orders, ops)


class _Speller:
    """The edges of a plan by what they start from, end in, and move."""

    def __init__(self, problem: Problem, labels: Sequence[int]) -> None:
        self.problem, self.labels = problem, labels
        self.leaders = problem.folding.value_leader
        self.copies = _copies(problem)
        self.orders = Orders(problem, labels)
        self.reads: dict[int, list[Edge]] = {}
        self.movements: dict[int, list[Movement]] = {}
        self.moved: set[int] = set()
        permutes = {number: list(found) for number, found in groupby(self.orders.permutes, lambda p: p.edge)}
        for number, edge in enumerate(problem.edges):
            self.reads.setdefault(edge.held, []).append(edge)
            have, want = self.layouts_on(edge)
            if (have != want).any() or number in permutes:
                self.moved |= {edge.held, edge.value}
                owner = owner_of(problem, edge)
                share = edge.trips / (problem.graph.ops[owner].trips * len(self.copies[owner]))
                beside = 0.0 if edge.beside is None else float(edge.beside[labels[edge.target]])
                found = movements_on(problem, edge, have, want, share, beside)
                found += permutes_on(problem, edge, permutes.get(number, ()), share)
                self.movements.setdefault(owner, []).extend(found)

    def layouts_on(self, edge: Edge) -> tuple[Layout, Layout]:
        """The layout of an edge's value at its source, and the one that the target wants."""
        return edge.source_layouts[self.labels[edge.source]], edge.target_layouts[self.labels[edge.target]]

    def decision(self, index: int) -> OpDecision | None:
        """How an op runs that stands for itself and its copies; None for one that decides nothing."""
        op = self.problem.graph.ops[index]
        movements = tuple(self.movements.get(index, ()))
        if op.index in self.problem.op_variable:
            return self.op_decision(op, movements)
        if op.kind is OpKind.IDENTITY and op.results[0] in self.problem.value_variable:
            spec = self.orders.spec_of_value(op.results[0])
            copies, padded = self.copies[index], self.padded_slot(op.results[0])
            return OpDecision(op, copies, ((spec,),), (spec,), spec, (), True, movements, Cost(), 0.0, padded)
        return None

    def op_decision(self, op: Op, movements: tuple[Movement, ...]) -> OpDecision:
        number = self.problem.op_variable[op.index]
        variable, label = self.problem.variables[number], self.labels[number]
        cost = variable.cost
        if cost is None:
            raise TypeError(
                f"variable {number} of op {op.name!r} has no cost: expected the variable of an op"
            )
        return OpDecision(
            op=op,
            copies=self.copies[op.index],
            operands=tuple(self.operand(op, position) for position in range(len(op.operands))),
            result=self.result(op),
            made=self.orders.spec_of_result(op, 0),
            open_axes=self.open_axes(op),
            constrained=self.is_constrained(op),
            movements=movements,
            own_cost=_own_cost(cost, label),
            flops_per_chip=float(cost.flops_per_chip[label]),
            padded=self.padded(factor_names(op), [f.size for f in op.factors], variable.codes[label]),
        )

    def padded(self, names: Sequence[str], sizes: Sequence[int], codes: Layout) -> tuple[Padded, ...]:
        """The dims that are padded, of those called `names`."""
        return padded_dims(names, sizes, codes, self.problem.mesh)

    def padded_slot(self, value: int) -> tuple[Padded, ...]:
        """The padded dims of what a loop or the caller is handed."""
        shape, variable = self.problem.graph.values[value].shape, self.problem.value_variable[value]
        names = [f"dim {number}" for number in range(len(shape))]
        return self.padded(names, shape, self.problem.layouts(value)[self.labels[variable]])

    def operand(self, op: Op, position: int) -> tuple[Spec, ...]:
        """The chain that brings an operand to where it is read."""
        value = self.leaders[op.operands[position]]
        edge = next(
            (e for e in self.reads.get(value, ()) if (e.op, e.position) == (op.index, position)), None
        )
        if edge is None:
            return ()
        have, want = self.layouts_on(edge)
        if has_unreduced(want):
            return ()
        spec, held = self.orders.spec_of_operand(op, position), self.held_spec(value)
        chain = stages(held, spec, OpenSum(unreduced_axes(have))) or (spec,)
        return (held, *chain) if self.is_stored_and_split(value, held, chain[0]) else chain

    def is_stored_and_split(self, value: int, held: Spec, first: Spec) -> bool:
        """Whether a dim of a stored value is to be split further where it is read.

        Not told how it is held there, the partitioner slices the whole stack of layers ahead of the loop, or
        exchanges its axes: a second copy of it, made in every step.
        """
        split = any(set(new) - set(old) for old, new in zip(held, first, strict=True))
        return split and self.problem.graph.values[value].stored_bytes > 0

    def held_spec(self, value: int) -> Spec:
        """The spec in which a value is found by its readers."""
        if value in self.problem.value_variable:
            return self.orders.spec_of_value(value)
        producer = self.problem.graph.ops[self.problem.graph.values[value].producer]
        return self.orders.spec_of_result(producer, producer.results.index(value))

    def open_axes(self, op: Op) -> Axes:
        """The axes over which an op leaves its first result an open sum."""
        number = self.problem.op_variable[op.index]
        code = self.problem.variables[number].codes[[self.labels[number]]]
        return unreduced_axes(result_layouts(op, code, 0)[0])

    def open_sum(self, op: Op, made: Spec) -> OpenSum:
        """The open sum that an op leaves in its first result, made so."""
        axes = self.open_axes(op)
        used = {*axes, *(axis for dim in made for axis in dim)}
        wide = (axis for axis, size in enumerate(self.problem.mesh.shape) if size > 1)
        return OpenSum(axes, tuple(axis for axis in wide if axis not in used), _batch_dims(op))

    def result(self, op: Op) -> tuple[Spec, ...]:
        """The chain of the first result.

        An open sum is closed, and what an einsum, an elementwise op or a view makes goes on to where its
        readers share it: there it is gathered once, not by every reader, who may be in a loop.
        """
        value, made, open_axes = op.results[0], self.orders.spec_of_result(op, 0), self.open_axes(op)
        if value in self.problem.value_variable:
            return self.anchored_result(op, made, open_axes)
        readers = self.reads.get(value)
        if not open_axes:
            return (made, *(self.handed_over(readers[0], made) if readers else ()))
        return self.closed_result(op, readers[0], made) if readers else ()

    def handed_over(self, edge: Edge, made: Spec) -> tuple[Spec, ...]:
        """The way of a result to the loop that starts with it; other readers find their own."""
        _, want = self.layouts_on(edge)
        if has_unreduced(want) or self.problem.graph.ops[edge.op].kind is not OpKind.IDENTITY:
            return ()
        return stages(made, self.orders.spec_of_value(edge.value))

    def anchored_result(self, op: Op, made: Spec, open_axes: Axes) -> tuple[Spec, ...]:
        value = op.results[0]
        number = self.problem.value_variable[value]
        if has_unreduced(self.problem.layouts(value)[self.labels[number]]):
            return ()
        spec = self.orders.spec_of_value(value)
        if op.kind not in _SHARED_KINDS:
            return closings(made, spec, self.open_sum(op, made)) if open_axes else (made,)
        chain = stages(made, spec, self.open_sum(op, made))
        return chain if open_axes else (made, *chain)

    def closed_result(self, op: Op, edge: Edge, made: Spec) -> tuple[Spec, ...]:
        """An open sum with one reader is closed on the way there, or handed on as it is."""
        _, want = self.layouts_on(edge)
        if has_unreduced(want):
            return ()
        reader = self.problem.graph.ops[edge.op]
        if reader.kind is OpKind.IDENTITY:
            return stages(made, self.orders.spec_of_value(edge.value), self.open_sum(op, made))
        wanted = self.orders.spec_of_operand(reader, edge.position)
        return closings(made, wanted, self.open_sum(op, made))

    def is_constrained(self, op: Op) -> bool:
        """Pin what the user pinned, what several ops read, and what is resharded on its way in or out."""
        if op.index in self.problem.pinned_ops or any(v in self.problem.value_variable for v in op.results):
            return True
        return any(self.leaders[value] in self.moved for value in (*op.results, *op.operands))


def _batch_dims(op: Op) -> tuple[int, ...]:
    """Of an einsum of two operands, the dims of its result that both have."""
    if op.kind is not OpKind.EINSUM or len(op.operands) != 2:
        return ()
    left, right = ({factor for dim in dims for factor in dim} for dims in op.operand_dims)
    return tuple(number for number, dim in enumerate(op.result_dims[0]) if left & right & set(dim))


def _own_cost(cost: OpCost, label: int) -> Cost:
    """The cost of an op under one of its strategies; what exceeds compute and HBM is latency."""
    compute, hbm = float(cost.compute_seconds[label]), float(cost.hbm_seconds[label])
    return op_cost(compute, hbm, cost.launch_seconds, cost.serial_fraction)


def _copies(problem: Problem) -> dict[int, tuple[int, ...]]:
    """For each op that stands for itself the ops that it stands for, in program order."""
    copies: dict[int, list[int]] = {}
    for op, leader in enumerate(problem.folding.op_leader):
        copies.setdefault(leader, []).append(op)
    return {leader: tuple(ops) for leader, ops in sorted(copies.items())}
