"""How long the search takes: against what is promised, against depth, and against chips.

Run from the repository's root: ``python -m bench.search [--quick]``. Nothing is compiled. All times are CPU
seconds of this process, on one core, the least of three runs: `trace` is from the function to the graph with
its sharding rules, `core` from the graph to the best plan (candidates, prices, search), `all in` both and the
plan record. Imports are not in it; `bench.tune_seconds` times whole commands.

* Promised: a Llama 3 8B train step and a decode step on a 3-D mesh within 10 s all in, the core within 2 s;
  PaLM 540B decode on v4:4x4x4 within 5 s.
* Depth: PaLM scanned over 1 to 118 layers, Llama 3 unrolled to 8, 32, 80 layers; the core of the deepest over
  the core of the shallowest is at most 1.3.
* Chips: PaLM 540B decode on 8 to 4096 chips, in a mesh of three axes; the largest over the smallest core is
  at most 1.5.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from autoshard.cost.slices import parse_slice
from autoshard.graph_building import build_graph
from autoshard.mesh_study import meshes_to_try
from autoshard.planning import make_plan
from autoshard.search.building import build_problem
from autoshard.search.planner import search_plans
from autoshard.text_table import align
from autoshard.trace import trace
from bench.fidelity_verdicts import Verdict
from bench.train_step import train_target
from examples import llama, palm

RUNS = 3
GAP = 0.01
MOST_DEPTH_RATIO, MOST_CHIPS_RATIO = 1.3, 1.5
_BAR = 40

Target = tuple[Callable[..., Any], Callable[[], tuple[Any, ...]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A program on a slice whose native mesh is searched, and the seconds that are promised."""

    name: str
    slice_name: str
    target: Target
    most_seconds: float | None = None
    most_core_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """CPU seconds of one case, and how large its network was."""

    trace_seconds: float
    core_seconds: float
    all_seconds: float
    ops: int
    variables: int


def measure(case: Case, runs: int) -> Times:
    """Time a case; the least of some runs, part by part."""
    print(f"{case.name} on {case.slice_name}", file=sys.stderr)
    found = [_once(case) for _ in range(runs)]
    least = min(found, key=lambda times: times.all_seconds)
    return replace(
        least,
        trace_seconds=min(times.trace_seconds for times in found),
        core_seconds=min(times.core_seconds for times in found),
    )


def _once(case: Case) -> Times:
    function, inputs, donated = case.target
    mesh = meshes_to_try(parse_slice(case.slice_name), "native")[0]
    arguments = inputs()
    jax.clear_caches()
    started = time.process_time()
    traced = trace(function, arguments, donate_argnames=donated)
    graph = build_graph(traced)
    graphed = time.process_time()
    problem = build_problem(graph, mesh)
    outcome = search_plans(problem, mesh.slice.chip.hbm_usable_bytes, gap=GAP)
    searched = time.process_time()
    make_plan(traced, problem, outcome.candidates[0], outcome, function_name=case.name)
    ended = time.process_time()
    return Times(
        graphed - started, searched - graphed, ended - started, len(graph.ops), len(problem.variables)
    )


def promised() -> list[Case]:
    """The cases with a limit."""
    small = llama.LLAMA3_8B
    return [
        Case("Llama 3 8B decode", "v5p:2x2x4", _decode(llama, small, 64, 4096), 10.0, 2.0),
        Case("Llama 3 8B train step", "v5p:2x2x4", train_target(small, 64, 4096, adam=True), 10.0, 2.0),
        Case("PaLM 540B decode", "v4:4x4x4", _decode(palm, palm.PALM_540B, 512, 2048), 5.0),
    ]


def scanned(layers: Sequence[int]) -> list[Case]:
    """PaLM 540B with other numbers of layers, few enough sequences for all to fit."""
    return [
        Case(
            f"{n} layers",
            "v4:4x4x4",
            _decode(palm, replace(palm.PALM_540B, layers=n), 512, 2048),
        )
        for n in layers
    ]


def unrolled(layers: Sequence[int]) -> list[Case]:
    """Llama 3 70B with other numbers of layers, each written out."""
    return [
        Case(
            f"{n} layers",
            "v5p:2x2x4",
            _decode(llama, replace(llama.LLAMA3_70B, layers=n, scan_layers=False), 64, 4096),
        )
        for n in layers
    ]


def sizes() -> list[Case]:
    """PaLM 540B with one layer, which fits everywhere, on more and more chips."""
    config = replace(palm.PALM_540B, layers=1)
    slices = ("2x2x2", "4x4x4", "8x8x8", "8x16x16", "16x16x16")
    return [Case(f"v4:{name}", f"v4:{name}", _decode(palm, config, 512, 2048)) for name in slices]


def _decode(model: Any, config: Any, batch: int, context: int) -> Target:
    return (*model.decode_target(config, batch, context), ("cache",))


def table(cases: Sequence[Case], times: Sequence[Times]) -> list[str]:
    """A line for each case, the core as a bar."""
    most = max(each.core_seconds for each in times)
    rows = [("case", "ops", "decisions", "trace", "core", "all in", "core as a bar")]
    rows += [
        (
            case.name,
            str(each.ops),
            str(each.variables),
            f"{each.trace_seconds:.2f}",
            f"{each.core_seconds:.2f}",
            f"{each.all_seconds:.2f}",
            "#" * max(1, round(_BAR * each.core_seconds / most)),
        )
        for case, each in zip(cases, times, strict=True)
    ]
    return align(rows, right=(1, 2, 3, 4, 5))


def run_promised(runs: int) -> list[Verdict]:
    """Time the promised cases."""
    cases = promised()
    times = [measure(case, runs) for case in cases]
    print("promised, CPU seconds\n")
    print(*table(cases, times), "", sep="\n")
    verdicts = []
    for case, each in zip(cases, times, strict=True):
        limits = (
            ("all in", each.all_seconds, case.most_seconds),
            ("core", each.core_seconds, case.most_core_seconds),
        )
        for part, seconds, most in limits:
            if most is not None:
                verdicts.append(
                    Verdict(f"{case.name}, {part}", f"{seconds:.2f} s", f"{most:g} s", seconds <= most)
                )
    return verdicts


def run_growth(title: str, cases: Sequence[Case], most_ratio: float, runs: int) -> Verdict:
    """Time cases of growing size; the verdict is on the largest over the smallest."""
    times = [measure(case, runs) for case in cases]
    print(f"{title}, CPU seconds\n")
    print(*table(cases, times), "", sep="\n")
    ratio = times[-1].core_seconds / times[0].core_seconds
    return Verdict(
        f"{title}: core of {cases[-1].name} over {cases[0].name}",
        f"{ratio:.2f}",
        f"at most {most_ratio}",
        ratio <= most_ratio,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and, last, the verdicts."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one run of each case instead of three")
    runs = 1 if parser.parse_args(arguments).quick else RUNS
    verdicts = run_promised(runs)
    verdicts.append(run_growth("depth, scanned", scanned((1, 8, 32, 118)), MOST_DEPTH_RATIO, runs))
    verdicts.append(run_growth("depth, unrolled", unrolled((8, 32, 80)), MOST_DEPTH_RATIO, runs))
    verdicts.append(run_growth("chips", sizes(), MOST_CHIPS_RATIO, runs))
    for verdict in verdicts:
        print(verdict.line)
    kept = sum(verdict.met for verdict in verdicts)
    print(f"\n{kept} of {len(verdicts)} targets met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
