"""Where the mesh axes of a tensor dim meet: the places whose order of axes is to be chosen.

A dim is sharded by the axes of the op's factors that it is made of, or of the one dim of an anchored value's
layout. Each of these is a place; the order of the axes within a place is free, that of a dim's places is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.search.graph import Dims, Op
from autoshard.search.problem import Edge, Problem, VariableKind

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where axes meet: factor `part` of an op variable, or canonical dim `part` of a layout variable."""

    variable: int
    part: int


class Places:
    """The places of a problem, whatever the labels."""

    def __init__(self, problem: Problem) -> None:
        """Find places in `problem`."""
        self._problem = problem

    def op(self, op: Op, dims: Dims) -> list[list[Place]]:
        """Places of the dims of one tensor of an op."""
        variable = self._problem.op_variable[op.index]
        return [[Place(variable, factor) for factor in dim] for dim in dims]

    def value(self, value: int) -> list[list[Place]]:
        """Places of the dims of an anchored value."""
        problem = self._problem
        variable = problem.value_variable[value]
        rank = len(problem.graph.values[value].shape)
        dims = problem.classes[value].dims[value] if value in problem.classes else range(rank)
        places: list[list[Place]] = [[] for _ in range(rank)]
        for canonical, dim in enumerate(dims):
            places[dim] = [Place(variable, canonical)]
        return places

    def source(self, edge: Edge) -> list[list[Place]]:
        """Places of the dims of what is on an edge, at its source."""
        variable = self._problem.variables[edge.source]
        if variable.kind is VariableKind.LAYOUT:
            return self.value(edge.held)
        op = self._problem.graph.ops[variable.subject]
        return self.op(op, op.result_dims[op.results.index(edge.held)])

    def target(self, edge: Edge) -> list[list[Place]]:
        """Places of the same dims at its target."""
        variable = self._problem.variables[edge.target]
        if variable.kind is VariableKind.LAYOUT:
            return self.value(edge.value)
        op = self._problem.graph.ops[variable.subject]
        return self.op(op, op.operand_dims[edge.position])


def axes_by_part(code: npt.NDArray[np.int8]) -> dict[int, Axes]:
    """For each part of a variable that a label shards, its axes in mesh order."""
    found: dict[int, list[int]] = {}
    for axis, part in enumerate(code.tolist()):
        if part >= 0:
            found.setdefault(part, []).append(axis)
    return {part: tuple(axes) for part, axes in found.items()}
