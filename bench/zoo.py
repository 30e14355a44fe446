"""What the project makes of models that nobody here wrote: a line for each case of the zoo (`tests/models`).

Run from the repository's root: ``python -m bench.zoo [CASE or LIBRARY ...]``, after ``python -m
bench.zoo_venvs`` or with ``--python LIBRARY=PATH`` for each library. Every case runs in a process of its own,
with the interpreter that has its library, and goes through the stages of `bench.zoo_stages`. Progress goes to
standard error; the table comes last on standard output, and after it a line of totals.

The results are in a file (``--results``): what is in it is not run again unless ``--again`` says so, so a run
that was interrupted goes on where it stopped.

=============  =======================================================================================
equations      of the whole program, nested ones included; `einsums` are the contractions among them
jaxpr s        `jax.make_jaxpr` alone; `ours s` is from the function to the graph with sharding rules,
               `make_jaxpr` included; `ratio` is the second over the first; promised is 3 times and 3 s
peak GiB       memory of the process after that; promised are 6 GB
flops, bytes   part of them under decisions; promised are 99% and 98%
slice          the smallest of ``--slices`` that fits; by the compiler's count where it was asked
step, HBM      predicted time of a step and memory per chip, of a plan file of so many `lines`
compiled       by the TPU compiler; then its own estimate, its count of HBM, and how long it took; with
               ``--compile-effort=-1`` in a fifth of the time, without the estimate
collectives    of a step, predicted/compiled, and their bytes per chip
numerics       largest relative error of the reduced case under the chosen plan and three random ones
=============  =======================================================================================
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from bench.zoo_options import add_options
from bench.zoo_results import STAGES, Failure, append, forget, is_failed, load
from bench.zoo_table import table
from tests.models.zoo import LIBRARIES, library_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".zoo" / "results.jsonl"
_LIMIT_SECONDS = 3600.0
_FAREWELL_SECONDS = 20.0
"""What a process is given to end its own children before it is killed."""


@dataclass(frozen=True, slots=True)
class Run:
    """How cases are run.

    Attributes:
        results: The results file.
        stages: What to do with each case.
        limit_seconds: Of a process.
        handed_on: Options of `bench.zoo_case`.
        stopped: Set once the run is to end: what is then cut short has no result.
        processes: Those that are running.
    """

    results: Path
    stages: tuple[str, ...]
    limit_seconds: float
    handed_on: tuple[str, ...]
    stopped: Event = field(default_factory=Event)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> None:
        """Nothing is running yet."""

    def __exit__(self, *_: object) -> None:
        """End what is still running; nothing else is started."""
        self.stopped.set()
        for process in tuple(self.processes):
            end(process)


def main() -> int:
    """Run what is asked for and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="the zoo: models that nobody here wrote")
    every = " ".join(LIBRARIES)
    parser.add_argument("names", nargs="*", metavar="CASE or LIBRARY", help=f"default: {every}")
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv-zoo", help="default: .venv-zoo")
    parser.add_argument(
        "--python", action="append", default=[], metavar="LIBRARY=PATH", help="an interpreter, not in --venvs"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: .zoo/results.jsonl")
    parser.add_argument("--again", nargs="?", const="all", choices=("all", "failed"), help="run anew")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once (default: 1)")
    parser.add_argument(
        "--limit-seconds", type=float, default=_LIMIT_SECONDS, help="of a case (default: 3600)"
    )
    add_options(parser)
    options = parser.parse_args()
    stages = tuple(options.stages.split(","))
    if unknown := [stage for stage in stages if stage not in STAGES]:
        parser.error(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}")
    try:
        named = named_pythons(options.python)
        libraries = list(dict.fromkeys(map(library_of, options.names or LIBRARIES)))
    except KeyError as error:
        parser.error(str(error.args[0]))
    pythons = {name: named.get(name) or python_in(options.venvs, name) for name in libraries}
    cases = [case for name in libraries for case in cases_of(name, pythons[name], options.names)]
    limit = ("--compile-seconds", str(options.compile_seconds))
    effort = f"--compile-effort={options.compile_effort}"
    handed_on = ("--slices", options.slices, "--mesh", options.mesh, *limit, effort)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    run = Run(options.results.absolute(), stages, options.limit_seconds, handed_on)
    if options.again:
        forget_old(run, cases, only_failed=options.again == "failed")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(options.jobs) as pool, run:
            list(pool.map(lambda case: run_case(run, case, pythons[library_of(case)]), cases))
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    print(*table(load(run.results), cases), sep="\n")
    return 0


def named_pythons(texts: Sequence[str]) -> dict[str, Path]:
    """Interpreters by library, as `--python` names them.

    Raises:
        KeyError: A text does not begin with the name of a library.
    """
    pairs = (text.partition("=") for text in texts)
    return {library_of(name): Path(path) for name, _, path in pairs}


def python_in(folder: Path, library: str) -> Path | None:
    """The interpreter that `bench.zoo_venvs` made for a library; None where it did not."""
    names = (library, *(f"python3.{minor}" for minor in LIBRARIES[library].pythons))
    found = (folder / name / "bin" / "python" for name in names)
    return next((python.absolute() for python in found if python.exists()), None)


def cases_of(library: str, python: Path | None, names: Sequence[str]) -> Iterator[str]:
    """The cases of a library that are asked for; none, and a word about it, where it is not installed."""
    if python is None:
        say(f"{library}: no interpreter; make one with `python -m bench.zoo_venvs {library}`")
        return
    wanted = [name for name in names if library_of(name) == library]
    if wanted and library not in wanted:
        yield from wanted
        return
    command = [str(python), "-m", "bench.zoo_case", "--list", library]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        say(f"{library}: its cases cannot be listed: status {done.returncode} of `{' '.join(command)}`")
        return
    yield from (line for line in done.stdout.splitlines() if line.startswith(f"{library}."))


def forget_old(run: Run, cases: Sequence[str], *, only_failed: bool) -> None:
    """Drop the results that are to be made again."""
    known = load(run.results)
    keys = [(case, stage) for case in cases for stage in run.stages]
    forget(run.results, [key for key in keys if not only_failed or is_failed(known.get(key))])


def run_case(run: Run, case: str, python: Path | None) -> None:
    """Run the stages of a case that have no result yet; where a process dies, the next one goes on."""
    known = load(run.results)
    waiting = [stage for stage in run.stages if (case, stage) not in known]
    while waiting and not run.stopped.is_set():
        started = time.monotonic()
        say(f"{case}: {', '.join(waiting)}")
        command = [str(python), "-m", "bench.zoo_case", case, "--results", str(run.results)]
        ended = run_limited([*command, "--stages", ",".join(waiting), *run.handed_on], run)
        known = load(run.results)
        waiting = [stage for stage in waiting if (case, stage) not in known]
        if waiting and not run.stopped.is_set():
            seconds = time.monotonic() - started
            append(run.results, Failure(case=case, seconds=seconds, of=waiting[0], error=ended))
            say(f"{case} {waiting[0]}: {ended}")
            del waiting[0]


def run_limited(command: Sequence[str], run: Run) -> str:
    """Run a command whose output goes to standard error; returns in words how it ended."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=sys.stderr, stdin=subprocess.DEVNULL
    )
    run.processes.append(process)
    try:
        return f"the process ended with status {process.wait(run.limit_seconds)}"
    except subprocess.TimeoutExpired:
        return f"no result within {run.limit_seconds:.0f} s"
    finally:
        end(process)
        run.processes.remove(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, by an interrupt first, so that it can end its own children."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment() -> Mapping[str, str]:
    """Variables of the processes: on CPU devices, offline, and with the modules of this repository first.

    Libraries bring packages that are called `tests`, too.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    fixed = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **fixed, "AUTOSHARD_CACHE": "off"}


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
