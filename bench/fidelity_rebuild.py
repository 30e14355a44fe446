"""Make the plans that tier 0 is held against the compiler on, compile them, and keep the answers.

Plans that the cache has are kept as they are: a plan is its labels, not the search that found it. All are
exported, and those are compiled whose program, or whose compiler, is not the one that the answer is for. The
cache is written after every answer, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.errors import AutoshardError
from autoshard.programs import Program
from bench.fidelity_cache import FILE, Cache, CaseLine, PlanLine, answer_of, load, save
from bench.fidelity_cases import Case, Study
from bench.fidelity_labels import StalePlanError, price_plan, variable_names, write_labels
from bench.fidelity_plans import Proposal, export, program_id, proposals

_LOST = ("crashed", "timed out", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Compiling:
    """How what is missing is compiled.

    Attributes:
        path: The file of the cache.
        libtpu: Version of the compiler.
        workers: Compiles at once.
        limit_seconds: For one compile.
        wanted: Which plans to compile.
    """

    path: Path
    libtpu: str
    workers: int
    limit_seconds: float
    wanted: Callable[[PlanLine], bool]


def rebuild(
    cases: Sequence[Case],
    *,
    fresh: bool,
    workers: int,
    limit_seconds: float,
    origins: Sequence[str] = (),
    path: Path = FILE,
) -> None:
    """Bring the cache up to date for some cases.

    Args:
        cases: Which.
        fresh: Whether to make plans where there are some already; these are forgotten.
        workers: Compiles at once.
        limit_seconds: For one compile.
        origins: Compile plans of these origins only; of all when left out.
        path: The file of the cache.

    Raises:
        AutoshardError: There is no compiler.
        KeyboardInterrupt: Ctrl-C; what is known has been saved.
    """
    cache = load(path)
    compiling = Compiling(
        path, libtpu_version(), workers, limit_seconds, lambda plan: not origins or plan.origin in origins
    )
    try:
        for case in cases:
            study = Study(case)
            if fresh or case.name not in cache.cases:
                make_plans(study, cache)
            compile_missing(study, cache, compiling)
    finally:
        save(cache, path)


def libtpu_version() -> str:
    """The version of the compiler.

    Raises:
        AutoshardError: It is not installed.
    """
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError as error:
        raise AutoshardError("there is no libtpu to compile with: run `pip install libtpu`") from error


def make_plans(study: Study, cache: Cache) -> None:
    """Propose the plans of a case; equal programs are one plan, answers that are known stay."""
    note(f"{study.name}: making plans")
    known = answers_by_id(cache)
    forget(study.name, cache)
    add_plans(study, cache, proposals(study), known)


def forget(name: str, cache: Cache) -> None:
    """Take the plans of a study out of the cache."""
    for key in [key for key in cache.plans if key[0] == name]:
        del cache.plans[key]


def answers_by_id(*caches: Cache) -> dict[str, PlanLine]:
    """Plans that the compiler has answered on, by the hash of program and slice."""
    return {
        plan.id: plan for each in caches for plan in each.plans.values() if plan.answer and not is_lost(plan)
    }


def add_plans(
    study: Study, cache: Cache, proposed: Iterable[Proposal], known: Mapping[str, PlanLine]
) -> None:
    """Put plans of a study into the cache, with what is known of their programs; equal ones are one.

    A plan that is also a rule of people has the rule's name, wherever it comes from first.
    """
    cache.cases[study.name] = CaseLine(
        case=study.name, fingerprint=study.traced.fingerprint(), variables=variable_names(study.problem)
    )
    for proposal in proposed:
        program = export(study, proposal.candidate, proposal.origin)
        key = (study.name, program_id(program, study.case.slice_name))
        if key not in cache.plans:
            line, before = plan_line(study, key[1], proposal), known.get(key[1])
            cache.plans[key] = (
                line
                if before is None
                else msgspec.structs.replace(line, libtpu=before.libtpu, answer=before.answer)
            )
        elif proposal.rule and not cache.plans[key].rule:
            cache.plans[key] = msgspec.structs.replace(cache.plans[key], rule=proposal.rule)


def plan_line(study: Study, plan_id: str, proposal: Proposal) -> PlanLine:
    """A plan that has not been compiled."""
    codes = write_labels(study.problem, proposal.candidate.labels).values()
    return PlanLine(
        case=study.name, id=plan_id, origin=proposal.origin, rule=proposal.rule, codes=" ".join(codes)
    )


def compile_missing(study: Study, cache: Cache, how: Compiling) -> None:
    """Compile the programs that this libtpu has not answered on; lost compiles are tried again."""
    todo = list(_missing(study, cache, how))

    def settle(index: int, result: CompileResult) -> None:
        plan = todo[index][0]
        cache.plans[plan.case, plan.id] = msgspec.structs.replace(
            plan, libtpu=how.libtpu, answer=answer_of(result)
        )
        note(f"{plan.case} {index + 1}/{len(todo)} {plan.id} {plan.origin}: {result.status}")
        save(cache, how.path)

    compile_all(
        [program for _, program in todo],
        study.case.slice_name,
        workers=how.workers,
        time_limit_seconds=how.limit_seconds,
        on_result=settle,
    )


def _missing(study: Study, cache: Cache, how: Compiling) -> Iterator[tuple[PlanLine, Program]]:
    """Plans to compile, with their programs."""
    for plan in cache.of_case(study.name):
        if not how.wanted(plan):
            continue
        program = _program(study, cache, plan)
        renewed = None if program is None else _renewed(plan, program, study.case.slice_name)
        if renewed != plan:
            _replace(cache, plan, renewed)
        if program is None or renewed is None:
            continue
        if renewed.libtpu != how.libtpu or renewed.answer is None or is_lost(renewed):
            yield renewed, program


def _program(study: Study, cache: Cache, plan: PlanLine) -> Program | None:
    """The program of a plan as it is made today; None where it is possible no more."""
    try:
        priced = price_plan(study.problem, study.memory, cache.labels(plan))
    except StalePlanError:
        note(f"{plan.case} {plan.id}: impossible by the model of today, forgotten")
        return None
    return export(study, priced.candidate, plan.origin)


def _renewed(plan: PlanLine, program: Program, slice_name: str) -> PlanLine:
    """The plan with the id of its program of today; another program has not been compiled."""
    today = program_id(program, slice_name)
    return plan if today == plan.id else msgspec.structs.replace(plan, id=today, answer=None, libtpu="")


def _replace(cache: Cache, plan: PlanLine, renewed: PlanLine | None) -> None:
    """Put a plan in another's place, or nothing; of two with one program the first stays."""
    plans = [renewed if known is plan else known for known in cache.plans.values()]
    cache.plans.clear()
    for known in plans:
        if known is not None:
            cache.plans.setdefault((known.case, known.id), known)


def is_lost(plan: PlanLine) -> bool:
    """Whether the compiler was asked and gave no verdict: it crashed, or ran out of time."""
    return plan.answer is not None and plan.answer.status in _LOST


def note(text: str) -> None:
    """Tell on stderr how a rebuild goes."""
    print(text, file=sys.stderr, flush=True)
