"""Which gathers run beside other work, and for how long.

A weight does not depend on what the step computes. The compiler starts its gather early, beside the einsums
that come before its reader (on most TPUs, with the options of `autoshard.compiled.options`), which the looped
collective einsums of Pope et al. 2022 (section 3.5) did by hand. Gathers of activations wait for what makes
them, and hide nowhere.

Beside what a gather may run is priced edge by edge: the work of a loop's body is shared out among the einsums
in it that read stored values, in proportion to their own time. With r the body's work over those einsums',
both at their best layouts, and s = `hidden_gather_slowdown` by which a gather in pieces takes longer,

    beside  = r * the reader's time (at its best layout, where the weight is converted for it on the way)
    exposed = min(gather, s * gather - hidden_gather_fraction * min(s * gather, beside))

so all gathers of a body together hide at most behind the body, and one that would take too long in pieces is
made at once. Known weakness: a weight that is gathered in two parts, before and after its conversion, hides
each of them as if it were alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, Layouts
from autoshard.cost.torus import DCN_DIM, TorusMesh
from autoshard.search.graph import Graph, OpKind
from autoshard.search.kernels import views_stored
from autoshard.search.problem import Edge, Variable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hiding:
    """The work of a program's loops, and which of its edges can hide behind it.

    Attributes:
        graph: The program.
        variables: Its decisions, priced.
        op_variable: The decision of each op; copies share one.
    """

    graph: Graph
    variables: tuple[Variable, ...]
    op_variable: dict[int, int]

    def beside(self, edge: Edge) -> Floats | None:
        """[J] seconds of work beside which the gather of an edge may run; None where it cannot hide."""
        if edge.op < 0 or self.graph.values[edge.value].stored_bytes <= 0:
            return None
        reader = self._reader(edge.op)
        cost = None if reader is None else self.variables[self.op_variable[reader]].cost
        if reader is None or cost is None:
            return None
        seconds = cost.seconds if reader == edge.op else cost.seconds.min()
        return np.full(len(edge.target_layouts), self._shares.get(self._body(reader), 0.0) * seconds)

    def _reader(self, index: int) -> int | None:
        """The einsum that reads what an op reads: itself, or that which the op converts a weight for."""
        op = self.graph.ops[index]
        while op.kind is not OpKind.EINSUM:
            readers = {reader for value in op.results for reader, _ in self.graph.consumers[value]}
            if not views_stored(op, self.graph) or len(readers) != 1:
                return None
            op = self.graph.ops[readers.pop()]
        return op.index

    def _body(self, op: int) -> int:
        """The outermost loop around an op, -1 where there is none."""
        loop = self.graph.ops[op].loop
        while loop >= 0 and self.graph.loops[loop].parent >= 0:
            loop = self.graph.loops[loop].parent
        return loop

    @cached_property
    def _shares(self) -> dict[int, float]:
        """For each body its work over that of its einsums that read stored values."""
        work: dict[int, float] = {}
        readers: dict[int, float] = {}
        for number in set(self.op_variable.values()):
            variable = self.variables[number]
            if variable.cost is None:
                continue
            op, body = self.graph.ops[variable.subject], self._body(variable.subject)
            seconds = float(variable.cost.seconds.min()) * variable.trips
            work[body] = work.get(body, 0.0) + seconds
            if op.kind is OpKind.EINSUM and self.graph.reads_stored(op):
                readers[body] = readers.get(body, 0.0) + seconds
        return {body: work[body] / seconds for body, seconds in readers.items() if seconds}


def hidden_seconds(
    have: Layouts, want: Layouts, gather_seconds: Floats, beside: Floats, mesh: TorusMesh
) -> Floats:
    """How much of reshards runs beside other work: 0 for all but gathers within a slice.

    Args:
        have: [K, A] layouts before.
        want: [J, A] layouts after.
        gather_seconds: [K, J] time of each reshard.
        beside: [J] time of the work beside which it may run.
        mesh: The mesh of A axes.

    Returns:
        [K, J] seconds.
    """
    differs = have[:, None, :] != want[None, :, :]
    across = np.array([axis.torus_dim == DCN_DIM for axis in mesh.axes])
    gathered = (have[:, None, :] >= 0) & (want[None, :, :] == REPLICATED) & ~across
    pure = (~differs | gathered).all(axis=2)
    chip = mesh.slice.chip
    pieces = chip.hidden_gather_slowdown * np.where(pure, gather_seconds, 0.0)
    exposed = pieces - chip.hidden_gather_fraction * np.minimum(pieces, beside[None, :])
    return np.where(pure, np.maximum(gather_seconds - exposed, 0.0), 0.0)
