"""The search over meshes for phases that are planned together: one mesh, one layout of what they share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import autoshard
from autoshard.calibration.calibrated import numbers_label
from autoshard.cost.torus import TorusMesh
from autoshard.errors import InfeasibleError
from autoshard.mesh_solving import pinned_problem
from autoshard.mesh_study import best_meshes, mesh_label
from autoshard.phases.matching import Handed
from autoshard.phases.phase import Phase
from autoshard.pinning import meshes_with_axes
from autoshard.search.errors import BudgetError, NoSolutionError, PinError
from autoshard.search.joining import HandOver, Joint, Shared, join
from autoshard.search.joint_planner import JointSolution, search_jointly


@dataclass(frozen=True, slots=True)
class Links:
    """What connects phases: the paths of the arguments that they share, and what they hand over."""

    shared: tuple[str, ...]
    handed: tuple[Handed, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The best plans together on the best mesh, and a lower bound on what any of the meshes can give.

    `interrupted` is set where Ctrl-C left meshes untried.
    """

    mesh: TorusMesh
    joint: Joint
    solution: JointSolution
    bound_seconds: float
    interrupted: bool = False


class JointSearch:
    """One pass over the meshes; the best is kept for the case that it is interrupted."""

    def __init__(self, phases: Sequence[Phase], links: Links) -> None:
        """Search for phases, whose sessions are of one slice and one set of options."""
        self.phases, self.links = tuple(phases), links
        self.session = phases[0].session
        self.best: Found | None = None

    def run(self) -> Found:
        """Try the meshes that the options allow.

        Raises:
            InfeasibleError: no mesh has plans that fit and share what is to be shared.
            KeyboardInterrupt: Ctrl-C before anything was found.
        """
        try:
            bound = self.rank()
        except KeyboardInterrupt:
            if self.best is None:
                raise
            return _bounded(self.best, self.best.bound_seconds, interrupted=True)
        if self.best is None:
            raise self.nothing_fits()
        return _bounded(self.best, bound)

    def rank(self) -> float:
        """Solve the only mesh, or rank all in a study that other processes may share; return the bound."""
        pins = [pin for phase in self.phases for pin in phase.session.options.pins]
        bans = [ban for phase in self.phases for ban in phase.session.options.forbid]
        meshes = meshes_with_axes(self.session.meshes, pins, bans)
        if len(meshes) == 1:
            self.session.progress.stage(f"plan together on {mesh_label(meshes[0])}")
            self.score(meshes[0])
            return float("inf")
        options = self.session.options
        self.session.progress.stage("plan together, search meshes", total=min(len(meshes), options.trials))
        tried = best_meshes(
            meshes,
            lambda mesh, _: self.score(mesh),
            study_name=self.study_name(),
            trials=options.trials,
            storage=options.storage,
            on_trial=self.session.progress.step,
        )
        if tried and (self.best is None or self.best.mesh != tried[0].mesh):
            self.score(tried[0].mesh)  # another process solved it
        return min((each.bound_seconds for each in tried), default=float("inf"))

    def score(self, mesh: TorusMesh) -> tuple[float, float] | None:
        """Solve one mesh; its seconds and bound, None where nothing fits or a pin is not possible."""
        try:
            joint = self.joined(mesh)
            solution = search_jointly(
                joint,
                self.session.hbm_limit_bytes,
                gap=self.session.options.gap,
                time_limit_seconds=self.session.options.time_limit_seconds,
            )
        except (PinError, BudgetError, NoSolutionError):
            return None
        if self.best is None or solution.seconds < self.best.solution.seconds:
            self.best = Found(mesh, joint, solution, solution.bound_seconds)
        return solution.seconds, solution.bound_seconds

    def joined(self, mesh: TorusMesh) -> Joint:
        """The phases as one problem on a mesh.

        Raises:
            PinError: a pin asks for what is not possible on this mesh, or pins of phases exclude each other.
        """
        problems = [pinned_problem(phase.session, mesh) for phase in self.phases]
        runs = [phase.runs for phase in self.phases]
        return join(problems, runs, self.shared(), self.handovers())

    def shared(self) -> list[Shared]:
        """The shared arguments as values of the phases' graphs."""
        return [
            Shared({number: self.argument(number, name) for number in range(len(self.phases))})
            for name in self.links.shared
        ]

    def handovers(self) -> list[HandOver]:
        """What is handed over as values of the phases' graphs, and how often.

        From one phase to the next: as often as the one of the two runs that runs less often. From run to run
        of one phase: the rest of its runs.
        """
        between = {
            (each.target, each.argument): min(self.phases[each.source].runs, self.phases[each.target].runs)
            for each in self.links.handed
            if each.source != each.target
        }
        return [
            HandOver(
                (each.source, self.result(each.source, each.result)),
                (each.target, self.argument(each.target, each.argument)),
                between[each.target, each.argument]
                if each.source != each.target
                else self.phases[each.target].runs - between[each.target, each.argument],
            )
            for each in self.links.handed
        ]

    def argument(self, number: int, name: str) -> int:
        """The value of an argument of a phase."""
        session = self.phases[number].session
        return session.graph.arguments[session.traced.argument_names.index(name)]

    def result(self, number: int, name: str) -> int:
        """The value of a result of a phase."""
        session = self.phases[number].session
        return session.graph.results[session.traced.result_names.index(name)]

    def study_name(self) -> str:
        """A name that tells this search from others on one storage."""
        all_options = [phase.session.options for phase in self.phases]
        wishes = [(options.pins, options.forbid) for options in all_options]
        parts = [(phase.name, phase.runs, phase.session.traced.fingerprint()) for phase in self.phases]
        limits = (self.session.hbm_limit_bytes, all_options[0].gap, all_options[0].time_limit_seconds)
        digest = hashlib.sha256(repr((parts, wishes, limits, self.links)).encode()).hexdigest()[:16]
        names = "+".join(phase.name for phase in self.phases)
        return (
            f"autoshard {autoshard.__version__} {names} {self.session.slice_.name} "
            f"{self.session.options.mesh} {digest}{numbers_label(self.session.slice_.chip)}"
        )

    def nothing_fits(self) -> InfeasibleError:
        """The error where every phase fits alone, and not with the others."""
        names = " and ".join(f"`{phase.name}`" for phase in self.phases)
        return InfeasibleError(
            f"{names} each fit {self.session.slice_.name} alone, but no mesh that was tried has plans of all "
            "of them that fit and keep what they share in one layout; share fewer arguments, drop pins, or "
            "take a larger slice"
        )


def _bounded(found: Found, bound: float, *, interrupted: bool = False) -> Found:
    least = min(found.bound_seconds, bound)
    return Found(found.mesh, found.joint, found.solution, least, interrupted)
