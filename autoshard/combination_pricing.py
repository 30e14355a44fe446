"""One combination of choices on all meshes: its best plan by the model, or why it has none.

A mesh is left as soon as it is proven that no plan on it is of use: none is among the fastest combinations,
or among the best meshes of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autoshard.choice_sessions import ChoiceSessions
from autoshard.choice_trials import Priced, Values
from autoshard.cost.torus import TorusMesh
from autoshard.judged import OK
from autoshard.mesh_search import MESHES_OF_CANDIDATES
from autoshard.mesh_solving import Solved, allowed_meshes, require_solved
from autoshard.mesh_study import mesh_label
from autoshard.search.errors import BudgetError, NotWorthError, PinError
from autoshard.tune_session import Session
from autoshard.units import format_bytes, format_seconds


@dataclass(slots=True)
class _Found:
    """What the meshes of a combination gave."""

    solved: dict[str, Solved] = field(default_factory=dict)
    bounds: list[float] = field(default_factory=list)
    needs: list[float] = field(default_factory=list)
    refused: list[PinError] = field(default_factory=list)

    @property
    def ranked(self) -> list[str]:
        """Labels of the meshes that can hold it, fastest first."""
        return sorted(self.solved, key=lambda label: self.solved[label].seconds)

    @property
    def worth_seconds(self) -> float:
        """The step time above which another mesh is of no use."""
        times = sorted(solved.seconds for solved in self.solved.values())
        return times[MESHES_OF_CANDIDATES - 1] if len(times) >= MESHES_OF_CANDIDATES else float("inf")

    def priced(self) -> Priced:
        """What is kept of the combination."""
        if self.solved:
            best = self.solved[self.ranked[0]]
            nbytes = best.outcome.candidates[0].peak.nbytes
            return Priced(OK, best.seconds, min(self.bounds), nbytes, tuple(self.ranked))
        if self.bounds:
            return Priced(
                f"pruned: no plan is faster than {format_seconds(min(self.bounds))}", None, min(self.bounds)
            )
        if self.needs:
            least = min(self.needs)
            return Priced(
                f"does not fit: needs at least {format_bytes(round(least))} per chip", hbm_bytes=least
            )
        return Priced(f"cannot keep to the pins: {self.refused[0]}")


class CombinationPricing:
    """Prices combinations; keeps the fastest plans, for what follows and for Ctrl-C.

    Attributes:
        fastest: The fastest plans by combination and mesh, fastest first.
    """

    def __init__(self, sessions: ChoiceSessions, headroom_bytes: float, kept: int) -> None:
        """Prepare to keep so many plans, and to hold back so much HBM per chip."""
        self.sessions, self.headroom_bytes, self.kept = sessions, headroom_bytes, kept
        self.fastest: dict[tuple[Values, str], Solved] = {}

    def price(self, values: Values, worth_seconds: float) -> Priced:
        """Search a combination on every mesh; `worth_seconds` is the time above which it is of no use."""
        session, progress = self.sessions.opened(values), self.sessions.progress
        label, found = self.sessions.label(values), _Found()
        try:
            meshes = allowed_meshes(session)[: session.options.trials]
        except PinError as error:
            found.refused.append(error)
            meshes = ()
        progress.stage(f"search {label}", total=len(meshes))
        for mesh in meshes:
            progress.step(mesh_label(mesh))
            self._try(session, mesh, min(worth_seconds, found.worth_seconds), found)
        for mesh_name, solved in found.solved.items():
            self.fastest[values, mesh_name] = solved
        self.fastest = dict(sorted(self.fastest.items(), key=lambda each: each[1].seconds)[: self.kept])
        priced = found.priced()
        if priced.seconds is None or priced.hbm_bytes is None:
            progress.note(f"{label}: {priced.status}")
        else:
            memory = format_bytes(round(priced.hbm_bytes))
            progress.note(f"{label}: {format_seconds(priced.seconds)}, {memory} per chip")
        return priced

    def _try(self, session: Session, mesh: TorusMesh, worth_seconds: float, found: _Found) -> None:
        """Search one mesh."""
        try:
            solved = require_solved(session, mesh, 1, self.headroom_bytes, worth_seconds=worth_seconds)
        except NotWorthError as error:
            found.bounds.append(error.bound_seconds)
        except BudgetError as error:
            found.needs.append(error.minimum_use)
        except PinError as error:
            found.refused.append(error)
        else:
            found.solved[mesh_label(mesh)] = solved
            found.bounds.append(solved.outcome.bound_seconds)

    def best(self, values: Values, labels: Sequence[str], top_k: int) -> list[Solved]:
        """The `top_k` best plans of a combination on its best mesh, and the best of its next one."""
        session = self.sessions.opened(values)
        by_label = {mesh_label(mesh): mesh for mesh in allowed_meshes(session)}
        count = MESHES_OF_CANDIDATES if top_k > 1 else 1
        pairs = [(label, top_k if place == 0 else 1) for place, label in enumerate(labels[:count])]
        return [self._again(session, values, by_label[label], wanted) for label, wanted in pairs]

    def _again(self, session: Session, values: Values, mesh: TorusMesh, top_k: int) -> Solved:
        """The best plans on a mesh; searched again where more are wanted, or none is kept."""
        kept = self.fastest.get((values, mesh_label(mesh)))
        if kept is not None and top_k == 1:
            return kept
        progress = self.sessions.progress
        progress.stage(f"search {self.sessions.label(values)} on {mesh_label(mesh)}")
        return require_solved(session, mesh, top_k, self.headroom_bytes, progress.step)
