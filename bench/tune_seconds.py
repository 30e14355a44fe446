"""How long `autoshard tune` takes, all in: from the shell's prompt to the plan on disk.

Run from the repository's root on a quiet machine: ``python -m bench.tune_seconds [--runs N]``.

Every run is a process of its own, so starting Python, importing JAX, tracing, searching, compiling and
writing are all in its time; the median of the runs is given. Rows with a limit are what the project promises
on a machine with two cores. Compiling needs the package `libtpu`; without it such rows say 0 compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, and the seconds that it may take, None where nothing is promised."""

    target: str
    slice_name: str
    refine: str
    limit_seconds: float | None = None

    @property
    def arguments(self) -> list[str]:
        """What follows `autoshard tune`."""
        compiled = ["--top-k", "3"] if self.refine == "compile" else []
        return [self.target, "--slice", self.slice_name, "--refine", self.refine, *compiled]


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one run: all in, of the search by the model alone, and how many candidates were compiled."""

    seconds: float
    search_seconds: float
    compiled: int


CASES = (
    Case("examples/palm.py:decode_540b", "v4:4x4x4", "none", 5.0),
    Case("examples/palm.py:decode_540b", "v4:4x4x4", "compile", 30.0),
    Case("examples/llama.py:decode_8b", "v5e:2x4", "none"),
    Case("examples/llama.py:decode_8b", "v5e:2x4", "compile"),
)


def main() -> None:
    """Time every case; print the table and how many promises are kept."""
    parser = argparse.ArgumentParser(description="all-in seconds of `autoshard tune`")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case (default: 3)")
    number = parser.parse_args().runs
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores, load {os.getloadavg()[0]:.1f} before the first run, median of {number} runs, seconds"
    )
    print(f"{'autoshard tune':<78}{'search':>8}{'all in':>8}{'limit':>7}  compiled")
    kept = [show(case, number) for case in CASES]
    promised = [each for each in kept if each is not None]
    print(f"\n{sum(promised)} of {len(promised)} promises kept")


def show(case: Case, number: int) -> bool | None:
    """Print one row; returns whether the limit is kept, None where there is none."""
    runs = [measure(case) for _ in range(number)]
    seconds = statistics.median(run.seconds for run in runs)
    search = statistics.median(run.search_seconds for run in runs)
    limit = "" if case.limit_seconds is None else f"{case.limit_seconds:.0f}"
    print(
        f"{' '.join(case.arguments):<78}{search:>8.2f}{seconds:>8.2f}{limit:>7}  {runs[0].compiled}",
        flush=True,
    )
    return None if case.limit_seconds is None else seconds <= case.limit_seconds


def measure(case: Case) -> Run:
    """Run a case once in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "autoshard.cli",
            "tune",
            *case.arguments,
            "--quiet",
            "--format",
            "json",
        ]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "-o", str(Path(folder) / "plan.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - started
    facts = json.loads(done.stdout)
    compiled = sum(each["estimated_seconds"] is not None for each in facts["candidates"])
    return Run(seconds, facts["search_seconds"], compiled)


if __name__ == "__main__":
    main()
