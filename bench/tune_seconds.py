"""How long `autoshard tune` takes, all in: from the shell's prompt to the plan on disk.

Run from the repository's root on a quiet machine: ``python -m bench.tune_seconds [--runs N]``.

Every run is a process of its own, so starting Python, importing JAX, tracing, searching, compiling and
writing are all in its time; the median of the runs is given. A run that compiles has an empty compile cache;
then the same command runs once more (`again`), and its answers come from the cache. Rows with a limit are
what the project promises on a machine with two cores. Compiling needs the package `libtpu`; without it such
rows say 0 compiled.
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
    compiled: int = 0
    limit_seconds: float | None = None
    again_limit_seconds: float | None = None

    @property
    def arguments(self) -> list[str]:
        """What follows `autoshard tune`."""
        refine = ["compile", "--top-k", str(self.compiled)] if self.compiled else ["none"]
        return [self.target, "--slice", self.slice_name, "--refine", *refine]


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one run: all in, of the search by the model alone; and how many candidates were judged."""

    seconds: float
    search_seconds: float
    compiled: int


CASES = (
    Case("examples/palm.py:decode_540b", "v4:4x4x4", 0, 5.0),
    Case("examples/palm.py:decode_540b", "v4:4x4x4", 3, 30.0),
    Case("examples/palm.py:decode_540b", "v4:4x4x4", 5, 60.0, 6.0),
    Case("examples/llama.py:decode_8b", "v5e:2x4"),
    Case("examples/llama.py:decode_8b", "v5e:2x4", 3),
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
    print(f"{'autoshard tune':<78}{'search':>8}{'all in':>8}{'limit':>7}{'again':>8}{'limit':>7}  compiled")
    kept = [promise for case in CASES for promise in show(case, number)]
    print(f"\n{sum(kept)} of {len(kept)} promises kept")


def show(case: Case, number: int) -> list[bool]:
    """Print one row; returns for each promise whether it is kept."""
    runs = [measure(case) for _ in range(number)]
    search = statistics.median(first.search_seconds for first, _ in runs)
    first = statistics.median(first.seconds for first, _ in runs)
    again = [second.seconds for _, second in runs if second is not None]
    pairs = [(first, case.limit_seconds)]
    pairs += [(statistics.median(again), case.again_limit_seconds)] if again else []
    columns = "".join(f"{seconds:>8.2f}{_whole(limit):>7}" for seconds, limit in pairs)
    print(f"{' '.join(case.arguments):<78}{search:>8.2f}{columns:<30}  {runs[0][0].compiled}", flush=True)
    return [seconds <= limit for seconds, limit in pairs if limit is not None]


def _whole(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.0f}"


def measure(case: Case) -> tuple[Run, Run | None]:
    """Run a case with an empty compile cache, and once more if it compiles."""
    with tempfile.TemporaryDirectory() as folder:
        first = run(case, Path(folder))
        return first, run(case, Path(folder)) if case.compiled else None


def run(case: Case, folder: Path) -> Run:
    """Run a case once in a fresh process.

    Args:
        case: what to run.
        folder: where the plan and the compile cache go.
    """
    command = [sys.executable, "-m", "autoshard.cli", "tune", *case.arguments, "--quiet", "--format", "json"]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "-o", str(folder / "plan.json")],
        cwd=ROOT,
        env={**os.environ, "AUTOSHARD_CACHE": str(folder / "cache")},
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
