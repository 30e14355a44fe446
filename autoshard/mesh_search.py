"""Tier 0: search the meshes that the options allow, and give the candidates of the best ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

import autoshard
from autoshard.calibration.calibrated import numbers_label
from autoshard.candidate_plans import distinct_candidates, judged_plans, plan_of
from autoshard.cost.torus import TorusMesh
from autoshard.judged import Judged
from autoshard.mesh_solving import Solved, allowed_meshes, require_possible_pins, solve_mesh, with_bound
from autoshard.mesh_study import Tried, best_meshes, mesh_label
from autoshard.padding_offers import stored_padding
from autoshard.tune_options import Options
from autoshard.tune_session import Session

MESHES_OF_CANDIDATES = 2
"""The best mesh gives `top_k` candidates, the next one its best: a wrong guess of the mesh loses not all."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Candidates, best first, none where nothing fits; `interrupted` where Ctrl-C left meshes untried."""

    candidates: tuple[Judged, ...]
    interrupted: bool = False


def search_candidates(session: Session, headroom_bytes: float = 0.0) -> SearchResult:
    """Search every mesh that the options allow.

    Args:
        session: What to plan.
        headroom_bytes: HBM per chip to hold back from what a plan may use.

    Raises:
        KeyboardInterrupt: Ctrl-C before any plan was known.
    """
    search = _Search(session, headroom_bytes)
    try:
        solved = search.run()
    except KeyboardInterrupt:
        if search.best is None:
            raise
        return SearchResult(tuple(judged_plans(session, search.best)[:1]), interrupted=True)
    found = distinct_candidates(solved, session.options.top_k)
    plans = [plan_of(session, each.problem, candidate, each.outcome) for each, candidate in found]
    try:
        offer = stored_padding(session, min(solved, key=lambda each: each.seconds)) if solved else None
    except KeyboardInterrupt:
        return SearchResult(tuple(map(Judged, plans)), interrupted=True)
    return SearchResult(tuple(Judged(msgspec.structs.replace(plan, stored_padding=offer)) for plan in plans))


def search_meshes(session: Session, headroom_bytes: float = 0.0) -> list[Solved]:
    """What the search finds on the meshes that are worth it, as `search_candidates` has it.

    Args:
        session: What to plan.
        headroom_bytes: HBM per chip to hold back from what a plan may use.
    """
    return _Search(session, headroom_bytes).run()


class _Search:
    """One pass over the meshes; `best` is kept up to date for the case that it is interrupted."""

    def __init__(self, session: Session, headroom_bytes: float) -> None:
        self.session, self.headroom_bytes = session, headroom_bytes
        self.best: Solved | None = None

    def run(self) -> list[Solved]:
        """Solve the only mesh, or rank the meshes and solve the best again for more candidates."""
        meshes = allowed_meshes(self.session)
        possible = meshes
        top_k, bound = self.session.options.top_k, float("inf")
        if len(meshes) > 1:
            tried = self.rank(meshes)
            meshes = tuple(each.mesh for each in tried[:MESHES_OF_CANDIDATES])
            bound = min((each.bound_seconds for each in tried), default=bound)
        solved = [self.solve(mesh, 1 if place else top_k) for place, mesh in enumerate(meshes)]
        if not any(solved):
            require_possible_pins(self.session, possible)
        return [with_bound(each, bound) for each in solved if each is not None]

    def rank(self, meshes: Sequence[TorusMesh]) -> list[Tried]:
        """Try the meshes in a study that other processes may share."""
        session, options = self.session, self.session.options
        session.progress.stage("search meshes", total=min(len(meshes), options.trials))
        fingerprint = session.traced.fingerprint().removeprefix("sha256:")[:12]
        return best_meshes(
            meshes,
            self.score,
            study_name=(
                f"autoshard {autoshard.__version__} {session.target.name} {session.slice_.name} "
                f"{options.mesh} {fingerprint} {limits_label(session, self.headroom_bytes)}"
            ),
            trials=options.trials,
            storage=options.storage,
            wanted=MESHES_OF_CANDIDATES,
            on_trial=session.progress.step,
            on_pruned=session.progress.note,
        )

    def score(self, mesh: TorusMesh, worth_seconds: float) -> tuple[float, float] | None:
        """Price one mesh for the study."""
        solved = solve_mesh(self.session, mesh, 1, self.headroom_bytes, worth_seconds=worth_seconds)
        self.keep(solved)
        return None if solved is None else (solved.seconds, solved.outcome.bound_seconds)

    def solve(self, mesh: TorusMesh, top_k: int) -> Solved | None:
        """Find the candidates of one mesh."""
        progress = self.session.progress
        progress.stage(f"search {self.session.slice_.name} on {mesh_label(mesh)}")
        return self.keep(solve_mesh(self.session, mesh, top_k, self.headroom_bytes, progress.step))

    def keep(self, solved: Solved | None) -> Solved | None:
        """Remember the fastest so far."""
        if solved is not None and (self.best is None or solved.seconds < self.best.seconds):
            self.best = solved
        return solved


def limits_label(session: Session, headroom_bytes: float) -> str:
    """What tells studies apart that price the same programs on the same meshes."""
    options = session.options
    return (
        f"{round(headroom_bytes)} gap {options.gap:g} limit {options.time_limit_seconds}"
        f"{_wishes_label(options)}{_padding_label(options)}{numbers_label(session.slice_.chip)}"
    )


def _wishes_label(options: Options) -> str:
    """What tells a study under pins, bans or a memory limit from others."""
    more = [each for each in (options.forbid, options.hbm_limit_bytes) if each]
    wishes = repr((options.pins, *more)) if more else repr(options.pins)
    return f" {hashlib.sha256(wishes.encode()).hexdigest()[:12]}" if more or options.pins else ""


def _padding_label(options: Options) -> str:
    """What tells a study that may pad from others."""
    return " padding" if options.padding == "allow" else ""
