"""Are the plans' collectives those that the TPU compiler makes? Both examples, four generations, the top 3.

Every plan is compiled and audited (`autoshard.audit.planned`). Printed are, for each plan, the predicted and
the compiled bytes; what is not as predicted, with its cause where the compiler tells; and last two figures:
which part of the collective bytes is attributed to an einsum or a named operation, and how far predicted
bytes are from compiled ones in the median case. Plans that do not fit HBM have no collectives: they are
counted apart.

A record is kept for each plan as soon as it is audited: the same command goes on where it stopped, and
`--again` begins anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autoshard.audit.planned import audit_compiled
from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.mesh_search import search_candidates
from autoshard.progress import Progress
from autoshard.refinement import compile_limit_seconds
from autoshard.refining import export_candidate
from autoshard.targets import load_target
from autoshard.tune_options import Options
from autoshard.tune_session import open_session
from bench.audit_cases import CASES, TOP_K, Case
from bench.audit_results import Audited, append, audited, figures, read, report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".audit" / "results.jsonl"


_SETTLED = frozenset({"ok", "out of memory"})
"""What the compiler says of a plan; anything else says that it was not asked, and the plan is tried again."""


def run(case: Case, known: Sequence[Audited], results: Path) -> int:
    """Audit the best plans of a case that are not known yet; return how many compiles were lost."""
    done = {each.rank for each in known if each.case == case.name}
    if done >= set(range(TOP_K)):
        return 0
    lost = 0
    target = load_target(str(ROOT / case.target.partition(":")[0]) + ":" + case.target.partition(":")[2])
    options = Options(slice_text=case.slice, refine="none", top_k=TOP_K)
    session = open_session(target, options, Progress(quiet=True))
    candidates = search_candidates(session).candidates
    for rank, candidate in enumerate(candidates[:TOP_K]):
        if rank in done:
            continue
        print(f"{case.name} #{rank + 1}", file=sys.stderr, flush=True)
        (result,) = compile_all(
            [export_candidate(session.traced, candidate.plan, "tpu")],
            case.slice,
            time_limit_seconds=compile_limit_seconds(len(session.graph.ops)),
            keep_text=True,
        )
        if result.status not in _SETTLED:
            print(f"    lost: {_status(result)}", file=sys.stderr, flush=True)
            lost += 1
        elif result.status == "ok":
            audit = audit_compiled(candidate.plan, session.traced.equations, result)
            append(results, audited(case.name, rank, audit))
        else:
            append(results, Audited(case=case.name, rank=rank, status=_status(result)))
    return lost


def _status(result: CompileResult) -> str:
    first = result.detail.splitlines()[0] if result.detail else ""
    return f"{result.status}: {first}"[:100]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit what is asked for and print the report; exit 1 when a target is missed."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.again:
        options.results.unlink(missing_ok=True)
    cases = [case for case in CASES if all(word in case.name for word in options.words)]
    lost = 0
    if not options.report:
        lost = sum(run(case, read(options.results), options.results) for case in cases)
    names = [case.name for case in cases]
    records = sorted(
        (each for each in read(options.results) if each.case in names),
        key=lambda each: (names.index(each.case), each.rank),
    )
    print(report(records))
    unknown = [case.name for case in cases if case.name not in {each.case for each in records}]
    if unknown or lost:
        print(f"incomplete: {lost} compiles were lost, cases without results: {', '.join(unknown) or 'none'}")
        return 1
    found = figures(records)
    return 0 if found is not None and found.meets_targets else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only cases whose names have these, e.g. v5e"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: .audit/results.jsonl")
    parser.add_argument("--again", action="store_true", help="forget the results and begin anew")
    parser.add_argument("--report", action="store_true", help="print what is known, compile nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
