"""A plan whose decisions stay while the chip's constants change: what a fit needs, priced in milliseconds.

The decision problem prices every label of every variable; here only the chosen one of each is kept, with the
same functions of the cost model. On the chip of the search the sum is the plan's predicted time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.layouts import Layouts
from autoshard.cost.reshard import reshard_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.search.costs import op_cost
from autoshard.search.graph import Graph, Op
from autoshard.search.hiding import hidden_seconds
from autoshard.search.kernels import Kernels, kernels
from autoshard.search.ordering import Orders
from autoshard.search.problem import Floats, Problem, copies


@dataclass(frozen=True, slots=True)
class Seconds:
    """Times per step of a plan, or of a part of it.

    Attributes:
        whole: What the model predicts.
        compute: Matrix and vector units of the ops.
        hbm: HBM and on-chip traffic of the ops, which proceeds beside it: they do not add up to the whole.
        ici: Collectives, hidden or not, and the copies that reshards make.
    """

    whole: float
    compute: float
    hbm: float
    ici: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            self.whole + other.whole, self.compute + other.compute, self.hbm + other.hbm, self.ici + other.ici
        )

    def __mul__(self, count: float) -> Seconds:
        return Seconds(self.whole * count, self.compute * count, self.hbm * count, self.ici * count)


NOTHING = Seconds(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Run:
    """One op under its strategy [1, A], how often per step, and whether it stands in a loop."""

    op: Op
    code: npt.NDArray[np.int8]
    trips: int
    in_loop: bool


@dataclass(frozen=True, slots=True)
class _Move:
    """One reshard, [1, A] from and to, and [1] the seconds of work beside which a gather may run."""

    have: Layouts
    want: Layouts
    nbytes: float
    shape: tuple[int, ...]
    beside: Floats | None
    trips: int
    in_loop: bool


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """A plan as the list of what it runs and moves.

    `permute_seconds` are those of the orders of axes, as the search's chip has them.
    """

    graph: Graph
    mesh: TorusMesh
    kernels: Kernels
    runs: tuple[_Run, ...]
    moves: tuple[_Move, ...]
    permute_seconds: float

    def price(self, chip: Chip | None = None, *, layers_only: bool = False) -> Seconds:
        """Price the plan on a chip.

        Args:
            chip: Its constants; those of the search when left out.
            layers_only: Leave out what runs outside of loops: a scanned model's embedding and unembedding.
        """
        mesh = self.mesh
        if chip is not None:
            mesh = TorusMesh(replace(mesh.slice, chip=chip), mesh.axes)
        runs = [run for run in self.runs if run.in_loop or not layers_only]
        moves = [move for move in self.moves if move.in_loop or not layers_only]
        permutes = Seconds(self.permute_seconds, 0.0, 0.0, self.permute_seconds)
        return sum(
            (*(self._run(run, mesh) for run in runs), *(self._move(move, mesh) for move in moves)), permutes
        )

    def _run(self, run: _Run, mesh: TorusMesh) -> Seconds:
        cost = op_cost(run.op, run.code, self.graph, mesh, self.kernels)
        compute, hbm = float(cost.compute_seconds[0]), float(cost.hbm_seconds[0])
        return Seconds(float(cost.seconds[0]), compute, hbm, 0.0) * run.trips

    def _move(self, move: _Move, mesh: TorusMesh) -> Seconds:
        moved = float(reshard_seconds(move.have, move.want, move.nbytes, mesh, move.shape)[0, 0])
        copied = float(copies(move.have, move.want, move.nbytes, mesh)[0, 0])
        exposed = moved * mesh.slice.chip.exposed_ici_fraction
        if move.beside is not None:
            gather = np.array([[exposed]])
            exposed -= float(hidden_seconds(move.have, move.want, gather, move.beside, mesh)[0, 0])
        return Seconds(exposed + copied, 0.0, 0.0, moved + copied) * move.trips


def fix(problem: Problem, labels: Sequence[int]) -> FixedPlan:
    """Keep the decisions of a plan."""
    graph = problem.graph
    runs = tuple(
        _Run(graph.ops[v.subject], v.codes[[label]], v.trips, graph.ops[v.subject].loop >= 0)
        for v, label in zip(problem.variables, labels, strict=True)
        if v.cost is not None
    )
    moves = tuple(
        _Move(
            edge.source_layouts[[labels[edge.source]]],
            edge.target_layouts[[labels[edge.target]]],
            graph.values[edge.value].nbytes,
            graph.values[edge.value].shape,
            None if edge.beside is None else edge.beside[[labels[edge.target]]],
            edge.trips,
            graph.values[edge.value].loop >= 0,
        )
        for edge in problem.edges
    )
    moved = tuple(move for move in moves if (move.have != move.want).any())
    permutes = Orders(problem, labels).permute_seconds
    return FixedPlan(graph, problem.mesh, kernels(graph), runs, moved, permutes)
