"""One mesh: its decision problem, kept to what the user wishes, and the best plans of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autoshard.cost.torus import TorusMesh
from autoshard.kept_shardings import marks
from autoshard.pinning import meshes_with_axes, resolve
from autoshard.search.building import build_problem
from autoshard.search.errors import BudgetError, PinError
from autoshard.search.folding import fold
from autoshard.search.pins import pinned
from autoshard.search.planner import Outcome, search_plans
from autoshard.search.problem import Problem
from autoshard.tune_session import Session


@dataclass(frozen=True, slots=True)
class Solved:
    """A mesh's decision problem, and what the search found for it."""

    problem: Problem
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """Predicted step time of the best plan."""
        return self.outcome.candidates[0].seconds


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
        return require_solved(session, mesh, top_k, headroom_bytes, on_step, worth_seconds)
    except (BudgetError, PinError):
        return None


def require_solved(
    session: Session,
    mesh: TorusMesh,
    top_k: int = 1,
    headroom_bytes: float = 0.0,
    on_step: Callable[[str], None] = lambda _: None,
    worth_seconds: float = float("inf"),
) -> Solved:
    """Solve one mesh.

    Args:
        session: What to plan.
        mesh: The mesh.
        top_k: Number of distinct plans wanted.
        headroom_bytes: HBM per chip to hold back from what a plan may use.
        on_step: Told in words what is being done.
        worth_seconds: Step time above which plans are of no use.

    Raises:
        BudgetError: nothing fits; says what is needed at least.
        PinError: a pin or a ban is not possible.
        NotWorthError: every plan takes longer than `worth_seconds`.
    """
    problem = pinned_problem(session, mesh)
    outcome = search_plans(
        problem,
        session.hbm_limit_bytes - headroom_bytes,
        top_k=top_k,
        gap=session.options.gap,
        time_limit_seconds=session.options.time_limit_seconds,
        worth_seconds=worth_seconds,
        on_step=on_step,
    )
    return Solved(problem, outcome)


def pinned_problem(session: Session, mesh: TorusMesh, *, stored_padded: bool = False) -> Problem:
    """The decision problem of one mesh, kept to the session's pins and bans, and to kept shardings.

    Args:
        session: What to plan.
        mesh: The mesh.
        stored_padded: As if the model stored its arrays padded (`autoshard.padding_offers`).

    Raises:
        PinError: a pin or a ban matches nothing, or asks for what is not possible on this mesh.
    """
    graph, options = session.graph, session.options
    build = partial(build_problem, padding=options.padding == "allow", stored_padded=stored_padded)
    pins = resolve(options.pins, session.traced, graph, mesh, session.ordered_pins, options.forbid)
    if session.kept is None:
        return pinned(build(graph, mesh), pins)
    kept = session.kept.pins(graph)
    return pinned(build(graph, mesh, fold(graph, *marks(kept))), [*kept, *pins])


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


def require_possible_pins(session: Session, meshes: Sequence[TorusMesh]) -> None:
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


def with_bound(solved: Solved, bound_seconds: float) -> Solved:
    """A plan is bounded by all the meshes that were searched, not only by its own."""
    least = min(bound_seconds, solved.outcome.bound_seconds)
    return replace(solved, outcome=replace(solved.outcome, bound_seconds=least))
