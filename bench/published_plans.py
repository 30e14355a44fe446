"""Tier 0's plans for the published step times, kept for pricing: solved once, re-priced on any chip.

Where the paper names the feed-forward's layout it is pinned, at rest and in the einsums; the rest of the plan
is the search's own. A plan that the model finds too large for HBM is still priced, without the limit: the
paper ran it (its largest prefills in microbatches); it is marked as not fitting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from autoshard.cost.chips import Chip
from autoshard.mesh_solving import Solved, solve_mesh
from autoshard.mesh_study import meshes_to_try
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import open_session
from bench.fixed_plan import NOTHING, FixedPlan, Seconds, fix
from bench.published_points import Point, Program, programs_of

NO_LIMIT = float("-inf")
"""Headroom with which every plan fits."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program of a published time under its plan."""

    count: int
    plan: FixedPlan
    fits: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A published time with what is predicted for it.

    Attributes:
        point: The published time.
        parts: The programs whose times add up to it.
    """

    point: Point
    parts: tuple[Part, ...]

    @property
    def fits(self) -> bool:
        """Whether the model finds that all programs fit."""
        return all(part.fits for part in self.parts)

    def price(self, chip: Chip | None = None) -> Seconds:
        """Predict the published time, on the table's chip or another."""
        layers_only = self.point.covers == "layers"
        priced = (part.plan.price(chip, layers_only=layers_only) * part.count for part in self.parts)
        return sum(priced, NOTHING)


@cache
def case_of(point: Point) -> Case:
    """Search the plans of a published time."""
    return Case(point, tuple(_part(program) for program in programs_of(point)))


def _part(program: Program) -> Part:
    fitting = solve(program)
    solved = fitting or solve(program, NO_LIMIT)
    if solved is None:
        raise RuntimeError(f"no plan of {program} even without a limit of memory")
    return Part(program.count, fix(solved.problem, solved.outcome.candidates[0].labels), fitting is not None)


def solve(program: Program, headroom_bytes: float = 0.0) -> Solved | None:
    """The best plan on the slice's own mesh that keeps to the program's pins; None where nothing fits."""
    jit_options = {"donate_argnames": program.donated} if program.donated else {}
    target = Target("", None, program.function, "step", program.inputs(), jit_options)
    options = Options(program.slice_name, refine="none", top_k=1, mesh="native", pins=program.pins)
    session = open_session(target, options, Progress(quiet=True))
    (mesh,) = meshes_to_try(session.slice_, "native")
    return solve_mesh(session, mesh, headroom_bytes=headroom_bytes)
