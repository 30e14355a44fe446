"""Make the plans of both sides of the quality bench, compile them, and keep the answers.

The cache is of the form of `bench.fidelity_cache`, with a part for each mesh of a case. Programs that either
cache has answers on are not compiled again; the file is written after every answer. A run may be told to
compile only the first plans of each kind, in the order of tier 0, and a later run the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench import fidelity_cache
from bench.fidelity_cache import Cache, PlanLine, load, save
from bench.fidelity_cases import Case, Study
from bench.fidelity_labels import StalePlanError, price_plan
from bench.fidelity_plans import WRITTEN
from bench.fidelity_rebuild import (
    Compiling,
    add_plans,
    answers_by_id,
    compile_missing,
    forget,
    libtpu_version,
    note,
)
from bench.quality_freed import add_freed, is_freed
from bench.quality_plans import SEARCH, SLOW, contenders, studies

FILE = Path(__file__).with_name("data") / "compiled_quality.jsonl.xz"


def rebuild(
    cases: Sequence[Case],
    *,
    fresh: bool,
    workers: int,
    limit_seconds: float,
    most: int | None = None,
    path: Path = FILE,
) -> None:
    """Bring the cache up to date for some cases.

    Args:
        cases: Which.
        fresh: Whether to make plans where there are some already; these are forgotten.
        workers: Compiles at once.
        limit_seconds: For one compile; one that takes longer is lost.
        most: Plans of each kind (ours, rules, rules as written) to compile, the fastest by tier 0; all when
            left out.
        path: The file of the cache.

    Raises:
        AutoshardError: There is no compiler.
        KeyboardInterrupt: Ctrl-C; what is known has been saved.
    """
    cache, libtpu = load(path), libtpu_version()
    try:
        for case in cases:
            known = answers_by_id(load(fidelity_cache.FILE), cache)
            if fresh or case.name not in cache.cases:
                make_plans(case, cache, known)
                save(cache, path)
            places = studies(case)
            chosen = {(plan.case, plan.codes) for plan in worth_compiling(places, cache, most)}

            def wanted(plan: PlanLine, chosen: Collection[tuple[str, str]] = chosen) -> bool:
                return (plan.case, plan.codes) in chosen

            for study in places:
                compile_missing(study, cache, Compiling(path, libtpu, workers, limit_seconds, wanted))
            freed = add_freed(places, cache, known)
            if freed is not None:
                compile_missing(freed, cache, Compiling(path, libtpu, workers, limit_seconds, is_freed))
    finally:
        save(cache, path)


def worth_compiling(places: Sequence[Study], cache: Cache, most: int | None) -> list[PlanLine]:
    """The first plans of each side, in the order of tier 0; no slow rules."""
    priced: list[tuple[float, PlanLine]] = []
    for study in places:
        for plan in cache.of_case(study.name):
            with suppress(StalePlanError):  # the model of today has no such plan: nothing to compile
                labels = cache.labels(plan)
                priced.append((price_plan(study.problem, study.memory, labels).seconds, plan))
    priced.sort(key=lambda each: each[0])
    ours = [plan for _, plan in priced if plan.origin == SEARCH]
    rules = [plan for _, plan in priced if plan.rule and plan.origin not in (SLOW, WRITTEN)]
    written = [plan for _, plan in priced if plan.origin == WRITTEN]
    return [*ours[:most], *rules[:most], *written[:most]]


def make_plans(case: Case, cache: Cache, known: Mapping[str, PlanLine]) -> None:
    """Find both sides of a case; `known` is what the compiler has said, by the hash of program and slice."""
    note(f"{case.name}: making plans")
    found = contenders(case)
    for study in studies(case):
        forget(study.name, cache)
        proposed = [placed.proposal for placed in found if placed.study == study]
        if proposed or not study.label:
            add_plans(study, cache, proposed, known)
