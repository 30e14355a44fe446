"""Our plans against those of XLA's own auto-sharding pass, both on the TPU compiler's timeline.

Run from the repository's root on a quiet machine: ``python -m bench.xla_auto [--cases TEXT ...]``.

JAX dropped `AUTO` after 0.9.2, and libtpu its solver after 0.0.40. So the pass runs in an environment of its
own, which the bench makes with pip (`.venv-auto`, or ``--python PATH``), on the same function of the same
example file, with Shardy off, and with the chip's usable HBM as its memory budget, in whole GiB. What it
compiles is put on our timeline. Its shardings of arguments and results are then compiled again by the
compiler of this environment, which decides the rest; the faster of the two stands for it:

    ratio = estimated seconds of XLA's program, the faster one / estimated seconds of our plan

Its seconds are for solving and compiling; ours are for tracing, searching and compiling three candidates.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.errors import AutoshardError
from autoshard.text_table import align
from autoshard.topology import compiler_environment, topology_request
from autoshard.tuning import tune_target
from autoshard.units import format_bytes, format_seconds

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "bench" / "xla_auto_child.py"
PACKAGES = ("jax==0.9.2", "jaxlib==0.9.2", "libtpu==0.0.40")
CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A function of an example file, a slice, and the mesh that the pass is given; ids run row-major."""

    file: str
    function: str
    slice_name: str
    mesh: dict[str, int]

    @property
    def name(self) -> str:
        """As it is typed to `autoshard tune`."""
        return f"{self.file}:{self.function} {self.slice_name}"


CASES = (
    Case("examples/llama.py", "decode_8b", "v5e:2x4", {"x": 2, "y": 4}),
    Case("examples/palm.py", "decode_8b", "v5e:2x4", {"x": 2, "y": 4}),
    Case("examples/llama.py", "prefill_8b", "v5e:4x4", {"x": 4, "y": 4}),
    Case("examples/palm.py", "decode_62b", "v4:2x2x2", {"x": 2, "y": 2, "z": 2}),
    Case("examples/palm.py", "decode_540b", "v4:4x4x4", {"x": 4, "yz": 16}),
)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a case: seconds that it took to make, its step, its memory; or why there is none."""

    made_seconds: float
    step_seconds: float = math.nan
    hbm_bytes: float = math.nan
    trouble: str = ""


def main() -> int:
    """Run the cases; returns the exit status."""
    parser = argparse.ArgumentParser(description="our plans against XLA's own auto-sharding")
    parser.add_argument("--cases", nargs="*", help="only cases whose name has one of these texts in it")
    parser.add_argument("--python", type=Path, help=f"an interpreter with {', '.join(PACKAGES)}")
    parser.add_argument("--limit-seconds", type=float, default=900.0, help="of one compile (900)")
    options = parser.parse_args()
    python = options.python or environment(ROOT / ".venv-auto")
    chosen = [case for case in CASES if not options.cases or any(text in case.name for text in options.cases)]
    rows: list[tuple[Case, Side, Side, Side]] = []
    for case in chosen:
        say(f"{case.name}: XLA's pass")
        theirs, answer = compiled(case, python, None, options.limit_seconds)
        say(f"{case.name}: its shardings, compiled here")
        again = Side(math.nan, trouble="nothing to compile")
        if answer is not None:
            again, _ = compiled(case, Path(sys.executable), answer, options.limit_seconds)
        say(f"{case.name}: ours")
        rows.append((case, theirs, again, ours(case)))
        for side, label in zip(rows[-1][1:], ("XLA", "XLA, compiled here", "ours"), strict=True):
            if side.trouble:
                say(f"{case.name}: {label}: {side.trouble}")
    print("\n".join(align(table(rows), right=range(1, 9))))
    ratios = [ratio(theirs, again, our) for _, theirs, again, our in rows]
    known = [each for each in ratios if math.isfinite(each)]
    if known:
        mean = math.exp(sum(map(math.log, known)) / len(known))
        print(f"\nstep time of XLA's program over ours: geometric mean {mean:.2f} over {len(known)} cases")
    return 0


def environment(folder: Path) -> Path:
    """An interpreter with the last JAX that has the pass; made when it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"making {folder}: {', '.join(PACKAGES)}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
    return python


def compiled(
    case: Case, python: Path, chosen: dict[str, Any] | None, limit_seconds: float
) -> tuple[Side, dict[str, Any] | None]:
    """Compile a case in a child, with `AUTO` or with shardings that it chose before."""
    slice_ = parse_slice(case.slice_name)
    topology, options = topology_request(slice_)
    budget = {"xla_tpu_auto_spmd_partitioning_memory_budget_gb": str(budget_gib(slice_))}
    request = {
        "topology": topology,
        "topology_options": options,
        "mesh": case.mesh,
        "file": str(ROOT / case.file),
        "function": case.function,
        "options": budget if chosen is None else {},
        "arguments": None if chosen is None else chosen["arguments"],
        "results": None if chosen is None else chosen["results"],
    }
    environment = os.environ | compiler_environment()
    environment.pop("TPU_LIBRARY_PATH", None)  # importing JAX sets it, to the compiler of this environment
    if chosen is None:
        environment |= {"JAX_USE_SHARDY_PARTITIONER": "0"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        command = [str(python), str(CHILD), str(asked), str(answered)]
        try:
            run = subprocess.run(
                command, env=environment, cwd=folder, timeout=limit_seconds, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return Side(limit_seconds, trouble=f"no answer within {limit_seconds:.0f} s"), None
        if not answered.exists():
            lines = run.stderr.strip().splitlines()
            words = next((line for line in reversed(lines) if "Error: " in line), "".join(lines[-1:]))
            return Side(math.nan, trouble=f"exit status {run.returncode}: {words[:300]}"), None
        answer = json.loads(answered.read_text())
    timeline = estimate_timeline(answer["text"], native_mesh(slice_))
    return Side(answer["seconds"], timeline.seconds, answer["hbm_bytes"]), answer


def budget_gib(slice_: Slice) -> int:
    """What of a chip's memory a program may use, in whole GiB."""
    return int(slice_.chip.hbm_usable_bytes // 2**30)


def ours(case: Case) -> Side:
    """The plan of `autoshard.tune`, compiled; nothing is taken from the compile cache."""
    started = time.perf_counter()
    target = f"{ROOT / case.file}:{case.function}"
    try:
        plan = tune_target(target, slice=case.slice_name, refine="compile", top_k=CANDIDATES).plan
    except AutoshardError as error:
        return Side(time.perf_counter() - started, trouble=str(error))
    seconds = time.perf_counter() - started
    return Side(seconds, plan.estimated_seconds or math.nan, plan.hbm_bytes_per_chip or math.nan)


def table(rows: list[tuple[Case, Side, Side, Side]]) -> list[list[str]]:
    """Cells, a line for each case."""
    head = [
        "case",
        "mesh",
        "XLA makes in",
        "its step",
        "HBM",
        "its step, here",
        "ours makes in",
        "step",
        "HBM",
    ]
    lines = [[*head, "ratio"]]
    for case, theirs, again, our in rows:
        lines.append(
            [
                case.name,
                "x".join(map(str, case.mesh.values())),
                cell(theirs.made_seconds, lambda seconds: f"{seconds:.0f} s"),
                *(cell(theirs.step_seconds, format_seconds), cell(theirs.hbm_bytes, format_bytes)),
                cell(again.step_seconds, format_seconds),
                f"{our.made_seconds:.0f} s",
                *(cell(our.step_seconds, format_seconds), cell(our.hbm_bytes, format_bytes)),
                cell(ratio(theirs, again, our), lambda each: f"{each:.2f}"),
            ]
        )
    return lines


def ratio(theirs: Side, again: Side, our: Side) -> float:
    """How many times as long as ours its faster program takes; not a number where a side has none."""
    known = [side.step_seconds for side in (theirs, again) if math.isfinite(side.step_seconds)]
    return min(known, default=math.nan) / our.step_seconds


def cell(value: float, write: Any) -> str:
    """A figure, or a dash where there is none."""
    return str(write(value)) if math.isfinite(value) else "-"


def say(text: str) -> None:
    """Progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ["AUTOSHARD_CACHE"] = "off"
    sys.exit(main())
