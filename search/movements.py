"""What a plan moves: the collectives and copies on the edges whose layouts differ.

A movement is attributed to the op that asks for it: the einsum that reads the tensor if there is one, else
the einsum that made it, else the op at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.collectives import Kind, stage_laws
from autoshard.cost.cost import Cost, collective_cost
from autoshard.cost.layouts import local_fraction
from autoshard.cost.reshard import reshard_collectives
from autoshard.cost.torus import TorusMesh
from autoshard.search.graph import OpKind
from autoshard.search.hiding import hidden_seconds
from autoshard.search.ordering import Permute
from autoshard.search.problem import Edge, Problem, copies

Layout = npt.NDArray[np.int8]

COPY = "copy"
"""Kind of a movement that stays on the chip: a slice, or what a collective delivers, through HBM."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One collective or copy that a plan needs, and the tensor it moves.

    Cost and bytes are of one chip and one execution.
    """

    kind: str
    axes: tuple[str, ...]
    bytes_per_chip: float
    cost: Cost
    tensor: str

    @property
    def seconds(self) -> float:
        """Its time, hidden or not."""
        return self.cost.local_seconds + self.cost.communication_seconds


def movements_on(
    problem: Problem, edge: Edge, have: Layout, want: Layout, share: float, beside_seconds: float = 0.0
) -> list[Movement]:
    """The collectives of one reshard, then the copy through HBM if the tensor is large.

    Args:
        problem: The problem.
        edge: The way of the tensor.
        have: [A] its layout at the source.
        want: [A] the layout that the target wants.
        share: How often it happens per execution of the op to which it is attributed: where only the first of
            many copies reshards what it reads, that is a part of one.
        beside_seconds: Work beside which it may run (`autoshard.search.hiding`).
    """
    value = problem.graph.values[edge.value]
    label = problem.graph.value_label(edge.value)
    mesh = problem.mesh
    collectives = reshard_collectives(have, want, value.nbytes, mesh, value.shape)
    costs = _partly_hidden([collective_cost(c, mesh) for c in collectives], have, want, beside_seconds, mesh)
    found = [
        Movement(str(c.kind), tuple(c.axes), c.bytes_per_chip * share, share * cost, label)
        for c, cost in zip(collectives, costs, strict=True)
    ]
    copied = float(copies(have[None], want[None], value.nbytes, mesh, value.shape)[0, 0])
    if copied:
        local_bytes = value.nbytes * float(local_fraction(want[None], mesh, value.shape)[0])
        changed = tuple(name for name, a, b in zip(mesh.names, have, want, strict=True) if a != b)
        found.append(Movement(COPY, changed, local_bytes * share, Cost(hbm_seconds=copied * share), label))
    return found


def permutes_on(problem: Problem, edge: Edge, permutes: Sequence[Permute], share: float) -> list[Movement]:
    """The permutes on an edge; arguments as of `movements_on`."""
    label, mesh = problem.graph.value_label(edge.value), problem.mesh
    return [
        Movement(
            str(Kind.COLLECTIVE_PERMUTE),
            tuple(mesh.names[axis] for axis in each.axes),
            each.bytes_per_chip * share,
            share * _permute_cost(each, mesh),
            label,
        )
        for each in permutes
    ]


def _permute_cost(permute: Permute, mesh: TorusMesh) -> Cost:
    """What `Orders` prices a permute at, by its parts: over all axes, of which nothing is hidden."""
    on_slice, across = stage_laws(Kind.COLLECTIVE_PERMUTE, tuple(range(len(mesh.axes))), mesh)
    ici = permute.bytes_per_chip * on_slice.seconds_per_byte
    return Cost(
        ici_seconds={",".join(mesh.names): ici},
        dcn_seconds=permute.bytes_per_chip * across.seconds_per_byte,
        latency_seconds=on_slice.latency_seconds + across.latency_seconds,
    )


def _partly_hidden(
    costs: list[Cost], have: Layout, want: Layout, beside_seconds: float, mesh: TorusMesh
) -> list[Cost]:
    """The costs of a reshard's collectives, what other work hides shared out among them."""
    exposed = sum(cost.exposed_seconds for cost in costs)
    hidden = hidden_seconds(have[None], want[None], np.array([[exposed]]), np.array([beside_seconds]), mesh)
    if not hidden.any():
        return costs
    ratio = float(hidden[0, 0]) / exposed
    return [cost + Cost(hidden_seconds=ratio * cost.exposed_seconds) for cost in costs]


def owner_of(problem: Problem, edge: Edge) -> int:
    """The op to which what happens on an edge is attributed."""
    graph, leaders = problem.graph, problem.folding.op_leader
    producer = graph.values[edge.value].producer
    producer = leaders[producer] if producer >= 0 else producer
    if edge.op >= 0 and graph.ops[edge.op].kind is OpKind.EINSUM:
        return edge.op
    made_by_einsum = producer >= 0 and graph.ops[producer].kind is OpKind.EINSUM
    if made_by_einsum and problem.variables[problem.op_variable[producer]].trips == edge.trips:
        return producer
    return edge.op if edge.op >= 0 else producer
