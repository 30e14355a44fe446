"""Tier 0: search the meshes that the options allow, and give the candidates of the best ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import msgspec

import autoshard
from autoshard.calibration.calibrated import numbers_label
from autoshard.cost.torus import TorusMesh
from autoshard.judged import Judged
from autoshard.kept_shardings import marks, with_kept
from autoshard.mesh_study import Tried, best_meshes, mesh_label
from autoshard.pinning import meshes_with_axes, resolve
from autoshard.plan import Plan
from autoshard.planning import make_plan
from autoshard.search.building import build_problem
from autoshard.search.errors import BudgetError, PinError
from autoshard.search.folding import fold
from autoshard.search.pins import pinned
from autoshard.search.planner import NOTABLE, Candidate, Outcome, search_plans, signature
from autoshard.search.problem import Problem
from autoshard.tune_options import Options
from autoshard.tune_session import Session

_MESHES_OF_CANDIDATES = 2
"""The best mesh gives `top_k` candidates, the next one its best: a wrong guess of the mesh loses not all."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Candidates, best first, none where nothing fits; `interrupted` where Ctrl-C left meshes untried."""

    candidates: tuple[Judged, ...]
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Solved:
    """A mesh's decision problem, and what the search found for it."""

    problem: Problem
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """Predicted step time of the best plan."""
        return self.outcome.candidates[0].seconds


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
        return SearchResult(tuple(_judged(session, search.best)[:1]), interrupted=True)
    found = distinct_candidates(solved, session.options.top_k)
    plans = [plan_of(session, each.problem, candidate, each.outcome) for each, candidate in found]
    return SearchResult(tuple(Judged(plan) for plan in plans))


def search_meshes(session: Session, headroom_bytes: float = 0.0) -> list[Solved]:
    """What the search finds on the meshes that are worth it, as `search_candidates` has it.

    Args:
        session: What to plan.
        headroom_bytes: HBM per chip to hold back from what a plan may use.
    """
    return _Search(session, headroom_bytes).run()


def distinct_candidates(solved: Sequence[Solved], most: int) -> list[tuple[Solved, Candidate]]:
    """The fastest candidates of some meshes, each with where it is from.

    What does the same in the same time and memory as a faster one is dropped: it is its copy on a finer mesh.
    """
    every = [(each, candidate) for each in solved for candidate in each.outcome.candidates]
    every.sort(key=lambda pair: pair[1].seconds)
    notable = NOTABLE * every[0][1].seconds if every else 0.0
    kept: dict[Hashable, tuple[Solved, Candidate]] = {}
    for each, candidate in every:
        does = signature(each.problem, candidate.labels, notable)
        key = (f"{candidate.seconds:.4g}", round(candidate.peak.nbytes), does)
        kept.setdefault(key, (each, candidate))
    return list(kept.values())[:most]


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
            meshes = tuple(each.mesh for each in tried[:_MESHES_OF_CANDIDATES])
            bound = min((each.bound_seconds for each in tried), default=bound)
        solved = [self.solve(mesh, 1 if place else top_k) for place, mesh in enumerate(meshes)]
        if not any(solved):
            _require_possible_pins(self.session, possible)
        return [_with_bound(each, bound) for each in solved if each is not None]

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
                f"{options.mesh} {fingerprint} {round(self.headroom_bytes)} gap {options.gap:g} "
                f"limit {options.time_limit_seconds}{_wishes_label(options)}"
                f"{numbers_label(session.slice_.chip)}"
            ),
            trials=options.trials,
            storage=options.storage,
            wanted=_MESHES_OF_CANDIDATES,
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


def solve_mesh(
    session: Session,
    mesh: TorusMesh,
    top_k: int = 1,
    headroom_bytes: float = 0.0,
    on_step: Callable[[str], None] = lambda _: None,
    worth_seconds: float = float("inf"),
) -> Solved | None:
    """Solve one mesh; None where nothing fits, or where a pin is not possible.

    Raises:
        NotWorthError: every plan takes longer than `worth_seconds`.
    """
    try:
        problem = pinned_problem(session, mesh)
    except PinError:
        return None
    try:
        outcome = search_plans(
            problem,
            session.hbm_limit_bytes - headroom_bytes,
            top_k=top_k,
            gap=session.options.gap,
            time_limit_seconds=session.options.time_limit_seconds,
            worth_seconds=worth_seconds,
            on_step=on_step,
        )
    except BudgetError:
        return None
    return Solved(problem, outcome)


def pinned_problem(session: Session, mesh: TorusMesh) -> Problem:
    """The decision problem of one mesh, kept to the session's pins and bans, and to kept shardings.

    Raises:
        PinError: a pin or a ban matches nothing, or asks for what is not possible on this mesh.
    """
    graph, options = session.graph, session.options
    pins = resolve(options.pins, session.traced, graph, mesh, session.ordered_pins, options.forbid)
    if session.kept is None:
        return pinned(build_problem(graph, mesh), pins)
    kept = session.kept.pins(graph)
    return pinned(build_problem(graph, mesh, fold(graph, *marks(kept))), [*kept, *pins])


def allowed_meshes(session: Session) -> tuple[TorusMesh, ...]:
    """The meshes that the options allow and that have all axes that pins and bans name.

    Raises:
        PinError: none has.
    """
    options = session.options
    return meshes_with_axes(session.meshes, options.pins, options.forbid)


def possible_problems(session: Session) -> list[tuple[TorusMesh, Problem]]:
    """The problems of the meshes that the options allow, as many as are tried, each built once.

    Raises:
        PinError: no mesh can keep to the pins and bans.
    """
    meshes = allowed_meshes(session)[: session.options.trials]
    problems: list[tuple[TorusMesh, Problem]] = []
    for mesh in meshes:
        try:
            problems.append((mesh, pinned_problem(session, mesh)))
        except PinError:
            if mesh == meshes[-1] and not problems:
                raise
    return problems


def _require_possible_pins(session: Session, meshes: Sequence[TorusMesh]) -> None:
    """Raise the first mesh's `PinError` where no mesh can keep to the pins."""
    first: PinError | None = None
    options = session.options
    for mesh in meshes if options.pins or options.forbid or session.kept else ():
        try:
            pinned_problem(session, mesh)
        except PinError as error:
            first = first or error
        else:
            return
    if first is not None:
        kept = () if session.kept is None else session.kept.shardings
        if any(f"`{each.text}`" in str(first) for each in kept):
            raise PinError(f"{first}; `--shardings free` frees the shardings of the model") from first
        raise first


def _wishes_label(options: Options) -> str:
    """What tells a study under pins, bans or a memory limit from others."""
    more = [each for each in (options.forbid, options.hbm_limit_bytes) if each]
    wishes = repr((options.pins, *more)) if more else repr(options.pins)
    return f" {hashlib.sha256(wishes.encode()).hexdigest()[:12]}" if more or options.pins else ""


def _with_bound(solved: Solved, bound_seconds: float) -> Solved:
    """A plan is bounded by all the meshes that were searched, not only by its own."""
    least = min(bound_seconds, solved.outcome.bound_seconds)
    return replace(solved, outcome=replace(solved.outcome, bound_seconds=least))


def _judged(session: Session, solved: Solved) -> list[Judged]:
    return [
        Judged(plan_of(session, solved.problem, candidate, solved.outcome))
        for candidate in solved.outcome.candidates
    ]


def plan_of(session: Session, problem: Problem, candidate: Candidate, outcome: Outcome) -> Plan:
    """Write a candidate as a plan, with what the user asked for."""
    target, options, limit = session.target, session.options, session.options.hbm_limit_bytes
    plan = make_plan(
        session.traced,
        problem,
        candidate,
        outcome,
        function_name=target.name,
        target=target.text or None,
        inputs=target.inputs_text,
        objective=options.objective,
    )
    predicted = msgspec.structs.replace(plan.predicted, hbm_limit_bytes=round(session.hbm_limit_bytes))
    plan = msgspec.structs.replace(
        plan,
        predicted=predicted,
        pins=options.pins,
        forbidden=options.forbid,
        hbm_limit_bytes=None if limit is None else round(limit),
    )
    return plan if session.kept is None else with_kept(plan, session.kept, session.graph)
