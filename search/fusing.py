"""Einsums that could be one: they read one activation and sum over the same dims of it, each with a weight of
its own (queries, keys and values; gate and up).

As separate kernels each of them starts anew, reads the activation again, and has collectives of its own:

    separate = sum(time of each) + sum(collectives of each)
    fused    = time of one einsum as wide as all + collectives that move as much, each kind of them once

Fusing them is a change of the model, which only its author can make; what it would save by the cost model is
worked out for the layouts of a plan. Einsums can be one only where these cut what they share alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from autoshard.cost.cost import Cost
from autoshard.cost.roofline import matmul_seconds
from autoshard.search.candidates import operand_layouts
from autoshard.search.costs import access_seconds
from autoshard.search.decisions import Decisions, OpDecision
from autoshard.search.graph import FactorKind, Graph, OpKind
from autoshard.search.movements import Movement
from autoshard.search.problem import Problem

_MATMUL = "dot_general"
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Einsums that could be one, and the time per step of them as they are and as one.

    Attributes:
        members: The einsums, in program order.
        activation: The value that they all read.
        local_seconds: Their kernels as they are, starts included.
        fused_local_seconds: The one kernel.
        collective_seconds: What is exposed of the collectives that belong to them.
        fused_collective_seconds: The same of the one einsum's.
    """

    members: tuple[OpDecision, ...]
    activation: int
    local_seconds: float
    fused_local_seconds: float
    collective_seconds: float
    fused_collective_seconds: float

    @property
    def seconds(self) -> float:
        """The einsums as they are."""
        return self.local_seconds + self.collective_seconds

    @property
    def fused_seconds(self) -> float:
        """The one einsum."""
        return self.fused_local_seconds + self.fused_collective_seconds


def fusions(decisions: Decisions) -> tuple[Fusion, ...]:
    """Return the groups of einsums that would be faster as one by the cost model, in program order."""
    groups: dict[_Key, list[_Matmul]] = {}
    for decision in decisions.ops:
        matmul = _matmul(decisions, decision)
        if matmul is not None:
            groups.setdefault(matmul.key, []).append(matmul)
    found = (_fusion(decisions.problem, group) for group in groups.values() if len(group) > 1)
    return tuple(fusion for fusion in found if fusion.fused_seconds < fusion.seconds)


@dataclass(frozen=True, slots=True)
class _Matmul:
    """An einsum of an activation and a weight; sizes are those of one chip.

    Attributes:
        decision: The einsum.
        activation: The activation's value.
        read_seconds: Time to read the activation.
        shared: Sizes of the batch, of the activation's own dims, and of the sum.
        width: Size of the weight's own dims.
        dtype: In which it multiplies.
        key: Equal for einsums that can be one.
    """

    decision: OpDecision
    activation: int
    read_seconds: float
    shared: tuple[float, float, float]
    width: float
    dtype: str
    key: _Key


def _matmul(decisions: Decisions, decision: OpDecision) -> _Matmul | None:
    """The einsum of an op, None for an op that is no einsum of one activation and one weight."""
    op, problem = decision.op, decisions.problem
    graph = problem.graph
    if op.kind is not OpKind.EINSUM or op.primitive != _MATMUL or len(op.operands) != 2:
        return None
    weights = [position for position, value in enumerate(op.operands) if _is_weight(graph, value)]
    if len(weights) != 1:
        return None
    weight = weights[0]
    activation = 1 - weight
    code = problem.variables[problem.op_variable[op.index]].codes[
        [decisions.labels[problem.op_variable[op.index]]]
    ]
    read = {factor for dim in op.operand_dims[activation] for factor in dim}
    weighed = {factor for dim in op.operand_dims[weight] for factor in dim}

    def local(factors: Iterable[int]) -> float:
        """Elements of a block on one chip."""
        sizes = problem.mesh.shape
        chips = {f: prod(sizes[axis] for axis, held in enumerate(code[0]) if held == f) for f in factors}
        return prod(-(-op.factors[f].size // count) for f, count in chips.items())

    summed = {f for f in read & weighed if op.factors[f].kind is FactorKind.REDUCTION}
    own = weighed - read
    layout = operand_layouts(op, code, activation)
    dtypes = tuple(graph.values[op.operands[position]].dtype for position in (activation, weight))
    value = problem.folding.value_leader[op.operands[activation]]
    roles = tuple(tuple((f in summed, f in weighed) for f in dim) for dim in op.operand_dims[activation])
    own_axes = frozenset(axis for axis, factor in enumerate(code[0]) if factor in own)
    place = (op.loop, op.trips, len(decision.copies))
    return _Matmul(
        decision=decision,
        activation=value,
        read_seconds=float(access_seconds(graph, op.operands[activation], layout, problem.mesh)[0]),
        shared=(local(read & weighed - summed), local(read - weighed), local(summed)),
        width=local(own),
        dtype=max(dtypes, key=lambda name: -problem.mesh.slice.chip.peak(name)),
        key=(value, place, roles, layout.tobytes(), decision.open_axes, own_axes, dtypes),
    )


def _is_weight(graph: Graph, value: int) -> bool:
    """Whether a value is stored and only read: no cache that the step writes."""
    known = graph.values[value]
    if not known.stored_bytes:
        return False
    return known.producer < 0 or graph.ops[known.producer].kind is not OpKind.UPDATE


def _fusion(problem: Problem, group: Sequence[_Matmul]) -> Fusion:
    chip, first = problem.mesh.slice.chip, group[0]
    times = first.decision.executions
    own = [matmul.decision.own_cost for matmul in group]
    width = sum(matmul.width for matmul in group)
    compute = float(matmul_seconds(*first.shared, width, dtype=first.dtype, chip=chip))
    hbm = sum(cost.hbm_seconds for cost in own) - sum(matmul.read_seconds for matmul in group[1:])
    fused = max(compute, hbm) + chip.serial_fraction * min(compute, hbm) + chip.kernel_seconds
    exposed, fused_exposed = _exposed(problem, group)
    return Fusion(
        members=tuple(matmul.decision for matmul in group),
        activation=first.activation,
        local_seconds=times * sum(cost.seconds for cost in own),
        fused_local_seconds=times * fused,
        collective_seconds=times * exposed,
        fused_collective_seconds=times * fused_exposed,
    )


def _exposed(problem: Problem, group: Sequence[_Matmul]) -> tuple[float, float]:
    """What is exposed of the movements of all einsums, and of those of the one that they would be."""
    name = problem.graph.value_label(group[0].activation)
    alike: dict[tuple[object, ...], list[Movement]] = {}
    for matmul in group:
        for movement in matmul.decision.movements:
            key = (movement.tensor == name, movement.kind, movement.axes)
            alike.setdefault(key, []).append(movement)
    separate = fused = 0.0
    for (of_activation, *_), movements in alike.items():
        costs = [movement.cost for movement in movements]
        separate += sum(cost.seconds for cost in costs)
        fused += max(cost.seconds for cost in costs) if of_activation else _at_once(costs)
    return separate, fused


def _at_once(costs: Sequence[Cost]) -> float:
    """Collectives of one kind over the same axes as one: their bytes are moved, latency is paid once."""
    total = sum(costs, Cost())
    latencies = [cost.latency_seconds for cost in costs]
    saved = sum(latencies) - max(latencies)
    exposed_share = (
        total.exposed_seconds / total.communication_seconds if total.communication_seconds else 0.0
    )
    return total.seconds - exposed_share * saved
