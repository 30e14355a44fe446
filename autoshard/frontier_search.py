"""Search the front: for every slice its fastest plan, then the fastest in ever less memory.

The function is traced once, the problem of each mesh built once; the plans of a slice come of one search
(`autoshard.search.memory_front`) over all meshes that are tried. Tier 0 alone judges, runners-up included:
the best by prediction under each budget is a plan of the front.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from autoshard.candidate_plans import plan_of
from autoshard.errors import InfeasibleError
from autoshard.frontier import Row, Wish, best_in_budgets, pick, with_dominated
from autoshard.infeasible import gib_text
from autoshard.mesh_solving import possible_problems
from autoshard.mesh_study import mesh_label
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.search.errors import BudgetError
from autoshard.search.memory_front import FrontPoint, MemoryFront
from autoshard.search.planner import Outcome
from autoshard.targets import load_target
from autoshard.tune_options import Options
from autoshard.tune_session import Session, on_slice, open_session


@dataclass(frozen=True, slots=True)
class Frontier:
    """What was found.

    Attributes:
        function: Name of the function.
        rows: The plans, by slice in the order given, each slice's fastest first.
        unfit: Slices that no plan fits, with the reason.
        picked: Position of the row that is wanted; None where no row keeps within the limit.
        why_none: Why nothing was picked.
        interrupted: Whether Ctrl-C ended the search early.
    """

    function: str
    rows: tuple[Row, ...]
    unfit: dict[str, str]
    picked: int | None
    why_none: str | None = None
    interrupted: bool = False

    @property
    def plan(self) -> Plan | None:
        """The plan that is wanted."""
        return None if self.picked is None else self.rows[self.picked].plan


def frontier_of_target(
    target: str,
    slices: Sequence[str],
    options: Options,
    wish: Wish,
    progress: Progress,
    *,
    inputs: str | None = None,
    tokens: int | None = None,
    points: int = 8,
) -> Frontier:
    """Search the front of a target named on the command line.

    Args:
        target: MODULE_OR_FILE:FUNCTION.
        slices: The slices, each once.
        options: As of `tune`; tiers above 0 do not run, and the slice is replaced.
        wish: What to pick.
        progress: Where to report.
        inputs: The function that gives the abstract inputs.
        tokens: Tokens that a step handles, for the cost of a token.
        points: Most plans of a slice.

    Raises:
        InfeasibleError: No slice has a plan.
        TargetError, TraceError, SliceError, PinError: as of `tune`.
        KeyboardInterrupt: Ctrl-C before any plan was known.
    """
    progress.stage(f"load {target}")
    first = open_session(load_target(target, inputs), replace(options, slice_text=slices[0]), progress)
    rows: list[Row] = []
    unfit: dict[str, str] = {}
    interrupted = False
    try:
        for text in slices:
            _search(on_slice(first, text), rows, unfit, points, tokens)
    except KeyboardInterrupt:
        if not rows:
            raise
        interrupted = True
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unfit.items())
        raise InfeasibleError(f"`{first.target.name}` fits none of the slices: {reasons}; give larger ones")
    front = with_dominated(rows)
    picked, why_none = _picked(front, wish)
    if picked is not None:
        front[picked] = _with_objective(front[picked], wish)
    return Frontier(first.target.name, tuple(front), unfit, picked, why_none, interrupted)


def _picked(rows: Sequence[Row], wish: Wish) -> tuple[int | None, str | None]:
    try:
        return pick(rows, wish), None
    except InfeasibleError as error:
        return None, str(error)


def _with_objective(row: Row, wish: Wish) -> Row:
    assert row.plan is not None
    return replace(row, plan=msgspec.structs.replace(row.plan, objective=wish.objective))


def _search(
    session: Session, rows: list[Row], unfit: dict[str, str], points: int, tokens: int | None
) -> None:
    """Add the plans of one slice, or why there is none; at Ctrl-C those found by then."""
    name, found = session.slice_.name, list[Row]()
    session.progress.stage(f"search {name}")
    front = MemoryFront(
        [problem for _, problem in possible_problems(session)],
        gap=session.options.gap,
        time_limit_seconds=session.options.time_limit_seconds,
        on_step=session.progress.step,
        top_k=session.options.top_k,
    )
    try:
        for point in front.points(session.hbm_limit_bytes, points):
            found += _rows(session, front, point, tokens)
    except BudgetError:
        least, limit = gib_text(front.least.nbytes), gib_text(session.hbm_limit_bytes, up=False)
        unfit[name] = f"no plan needs less than {least} GiB per chip, of {limit} GiB"
        session.progress.note(f"{name}: {unfit[name]}")
    finally:
        rows += [_with_budget(session, row) for row in best_in_budgets(found)]


def _rows(session: Session, front: MemoryFront, point: FrontPoint, tokens: int | None) -> Iterator[Row]:
    """The plans of one budget: a plan's predicted time holds more than the search minimises."""
    outcome = Outcome((point.candidate,), point.bound_seconds, point.method)
    for number, candidate in ((point.problem, point.candidate), *point.others):
        problem = front.problems[number]
        plan = plan_of(session, problem, candidate, outcome)
        yield Row(
            slice=session.slice_.name,
            n_chips=session.slice_.n_chips,
            mesh=mesh_label(problem.mesh),
            step_seconds=plan.predicted_seconds,
            lower_bound_seconds=plan.predicted.lower_bound_seconds,
            hbm_bytes_per_chip=plan.predicted.hbm_bytes_per_chip,
            hbm_budget_bytes=point.budget_bytes,
            tokens=tokens,
            plan=plan,
        )


def _with_budget(session: Session, row: Row) -> Row:
    """The row whose plan says which budget it is the best in, where that is less than what is there."""
    assert row.plan is not None
    bound = row.lower_bound_seconds
    predicted = msgspec.structs.replace(row.plan.predicted, lower_bound_seconds=bound, gap=row.gap)
    plan = msgspec.structs.replace(row.plan, predicted=predicted)
    budget = round(row.hbm_budget_bytes)
    if row.hbm_budget_bytes < session.hbm_limit_bytes:
        predicted = msgspec.structs.replace(predicted, hbm_limit_bytes=budget)
        plan = msgspec.structs.replace(plan, predicted=predicted, hbm_limit_bytes=budget)
    return replace(row, plan=plan)
