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

from autoshard.compile_worker import CompileResult, compile_all
from autoshard.errors import AutoshardError
from autoshard.programs import Program
from bench.fidelity_cache import Answer, Cache, CaseLine, PlanLine, answer_of, load, save
from bench.fidelity_cases import Case, Study
from bench.fidelity_labels import StalePlanError, price_plan, variable_names, write_labels
from bench.fidelity_plans import Proposal, export, program_id, proposals

_SAVE_SECONDS = 20.0
_LOST = ("crashed", "timed out", "failed", "skipped")


def rebuild(cases: Sequence[Case], *, fresh: bool, workers: int, limit_seconds: float) -> None:
    """Bring the cache up to date for some cases.

    Args:
        cases: Which.
        fresh: Whether to make plans where there are some already; these are forgotten.
        workers: Compiles at once.
        limit_seconds: For one compile.

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
            compile_missing(study, cache, libtpu, workers, limit_seconds)
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


def compile_missing(study: Study, cache: Cache, libtpu: str, workers: int, limit_seconds: float) -> None:
    """Compile the programs that this libtpu has not answered on; lost compiles are tried again."""
    todo = list(_missing(study, cache, libtpu))
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
    """Plans to compile, with their programs; a plan that is possible no more is forgotten."""
    for plan in cache.of_case(study.case.name):
        try:
            priced = price_plan(study.problem, study.memory, cache.labels(plan))
        except StalePlanError:
            _note(f"{plan.case} {plan.id}: impossible by the model of today, forgotten")
            del cache.plans[plan.case, plan.id]
            continue
        program = export(study, priced.candidate)
        renewed = msgspec.structs.replace(plan, id=program_id(program, study.case.slice_name))
        if renewed.id != plan.id:
            del cache.plans[plan.case, plan.id]
        if renewed.id != plan.id or plan.libtpu != libtpu or plan.answer is None or _is_lost(plan.answer):
            yield renewed, program


def _is_lost(answer: Answer) -> bool:
    return answer.status in _LOST


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
