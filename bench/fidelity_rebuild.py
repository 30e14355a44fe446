"""Make the plans that tier 0 is held against the compiler on, compile them, and keep the answers.

Plans that the cache has are kept as they are: a plan is its labels, not the search that found it. All are
exported, and those are compiled whose program, or whose compiler, is not the one that the answer is for. The
cache is written after every few answers, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.errors import AutoshardError
from autoshard.programs import Program
from bench.fidelity_cache import Answer, Cache, CaseLine, PlanLine, answer_of, load, save
from bench.fidelity_cases import Case, Study
from bench.fidelity_labels import StalePlanError, price_plan, variable_names, write_labels
from bench.fidelity_plans import Proposal, export, program_id, proposals

_SAVE_SECONDS = 20.0
_LOST = ("crashed", "timed out", "failed", "skipped")


def rebuild(
    cases: Sequence[Case], *, fresh: bool, workers: int, limit_seconds: float, origins: Sequence[str] = ()
) -> None:
    """Bring the cache up to date for some cases.

    Args:
        cases: Which.
        fresh: Whether to make plans where there are some already; these are forgotten.
        workers: Compiles at once.
        limit_seconds: For one compile.
        origins: Compile plans of these origins only; of all when left out.

    Raises:
        AutoshardError: There is no compiler.
        KeyboardInterrupt: Ctrl-C; what is known has been saved.
    """
    cache, libtpu = load(), libtpu_version()
    try:
        for case in cases:
            study = Study(case)
            if fresh or case.name not in cache.cases:
                make_plans(study, cache)
            compile_missing(study, cache, libtpu, workers, limit_seconds, origins)
    finally:
        save(cache)


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
    name, known = study.case.name, dict(cache.plans)
    _note(f"{name}: making plans")
    for key in [key for key in cache.plans if key[0] == name]:
        del cache.plans[key]
    add_case(study, cache)
    for proposal in proposals(study):
        program = export(study, proposal.candidate)
        key = (name, program_id(program, study.case.slice_name))
        if key not in cache.plans:
            line = plan_line(study, key[1], proposal)
            before = known.get(key)
            cache.plans[key] = (
                line
                if before is None
                else msgspec.structs.replace(line, libtpu=before.libtpu, answer=before.answer)
            )


def add_case(study: Study, cache: Cache) -> None:
    """Write down what the labels of the plans refer to."""
    cache.cases[study.case.name] = CaseLine(
        case=study.case.name,
        fingerprint=study.traced.fingerprint(),
        variables=variable_names(study.problem),
    )


def plan_line(study: Study, plan_id: str, proposal: Proposal) -> PlanLine:
    """A plan that has not been compiled."""
    codes = write_labels(study.problem, proposal.candidate.labels).values()
    return PlanLine(
        case=study.case.name, id=plan_id, origin=proposal.origin, rule=proposal.rule, codes=" ".join(codes)
    )


def compile_missing(
    study: Study, cache: Cache, libtpu: str, workers: int, limit_seconds: float, origins: Sequence[str]
) -> None:
    """Compile the programs that this libtpu has not answered on; lost compiles are tried again."""
    missing = _missing(study, cache, libtpu)
    todo = [each for each in missing if not origins or each[0].origin in origins]
    saved = time.monotonic()

    def settle(index: int, result: CompileResult) -> None:
        nonlocal saved
        plan = todo[index][0]
        cache.plans[plan.case, plan.id] = msgspec.structs.replace(
            plan, libtpu=libtpu, answer=answer_of(result)
        )
        _note(f"{plan.case} {index + 1}/{len(todo)} {plan.id} {plan.origin}: {result.status}")
        if time.monotonic() - saved > _SAVE_SECONDS:
            save(cache)
            saved = time.monotonic()

    compile_all(
        [program for _, program in todo],
        study.case.slice_name,
        workers=workers,
        time_limit_seconds=limit_seconds,
        on_result=settle,
    )


def _missing(study: Study, cache: Cache, libtpu: str) -> Iterator[tuple[PlanLine, Program]]:
    """Plans to compile, with their programs."""
    for plan in cache.of_case(study.case.name):
        program = _program(study, cache, plan)
        renewed = None if program is None else _renewed(plan, program, study.case.slice_name)
        if renewed != plan:
            _replace(cache, plan, renewed)
        if program is None or renewed is None:
            continue
        if renewed.libtpu != libtpu or renewed.answer is None or _is_lost(renewed.answer):
            yield renewed, program


def _program(study: Study, cache: Cache, plan: PlanLine) -> Program | None:
    """The program of a plan as it is made today; None where it is possible no more."""
    try:
        priced = price_plan(study.problem, study.memory, cache.labels(plan))
    except StalePlanError:
        _note(f"{plan.case} {plan.id}: impossible by the model of today, forgotten")
        return None
    return export(study, priced.candidate)


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


def _is_lost(answer: Answer) -> bool:
    return answer.status in _LOST


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
