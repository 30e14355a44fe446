"""One case of the zoo in this process: trace it, plan it, compile the plan, and check the numerics.

Run from the repository's root, where the case's library is installed:
``python -m bench.zoo_case CASE --results FILE [--stages STAGE,...] [--slices SLICE,...]``; ``--list LIBRARY``
prints the names of a library's cases instead. `bench.zoo` runs many.

The result of each stage (`bench.zoo_stages`) is appended to the file (`bench.zoo_results`) as soon as it is
known; a stage that fails is a result, too. Plans are written beside the file.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this and the next must stand before JAX starts
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

from bench.zoo_options import add_options
from bench.zoo_results import NEEDS, Failure, Record, append, load
from bench.zoo_stages import RUNS
from bench.zoo_work import Work, ZooError
from tests.models import zoo

_ERROR_CHARACTERS = 1000


def main() -> int:
    """Run the stages of one case; returns the exit status, 1 where one failed."""
    parser = argparse.ArgumentParser(description="one case of the zoo")
    parser.add_argument("case", nargs="?", help="such as hf.llama3_8b.train")
    parser.add_argument("--list", metavar="LIBRARY", help="print the names of a library's cases")
    parser.add_argument("--results", type=Path, help="file to append to")
    add_options(parser)
    options = parser.parse_args()
    if options.list:
        print(*(case.name for case in zoo.cases(options.list)), sep="\n")
        return 0
    if not options.case or not options.results:
        parser.error("expected a case and --results")
    plans = options.results.with_name(f"{options.results.stem}.plans")
    slices = tuple(options.slices.split(","))
    work = Work(
        zoo.find(options.case), slices, options.mesh, options.compile_seconds, options.compile_effort, plans
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the compiler's process, too
    records = [run_stage(work, stage, options.results) for stage in options.stages.split(",")]
    return int(any(isinstance(record, Failure) for record in records))


def run_stage(work: Work, stage: str, results: Path) -> Record:
    """Run a stage and append its record; whatever is wrong with the case is the result."""
    name, started = work.case.name, time.monotonic()
    needed = load(results).get((name, NEEDS.get(stage, "")))
    record: Record
    try:
        if isinstance(needed, Failure):
            raise ZooError(f"not run: `{needed.of}` failed")
        record = RUNS[stage](work)
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
        record = Failure(case=name, seconds=time.monotonic() - started, of=stage, error=text)
    append(results, record)
    print(f"{name} {stage}: {record}", file=sys.stderr, flush=True)
    return record


if __name__ == "__main__":
    sys.exit(main())
