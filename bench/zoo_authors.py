"""The author does not matter: Llama-3-8B as several libraries write it, planned for one slice.

Run from the repository's root: ``python -m bench.zoo_authors [--phase forward] [--slice v5e:4x4]``, with
interpreters as for `bench.zoo`. For each library the predicted step time, and how the einsums with a weight
are cut, blind to letters and to the names of equal mesh axes: ``rows.inner.columns`` are the numbers of
shards of the tokens' dims, of the summed dims and of the weight's other dims, with the share of the FLOPs.
The spread of the times comes last.

Programs that compute something else are to differ: attention with float32 logits moves more bytes than with
bfloat16 ones, and in blocks it moves hardly any. The table says which.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.graph_building import build_graph
from autoshard.search.building import build_problem
from autoshard.search.candidates import factor_shards
from autoshard.search.graph import Graph, Op
from autoshard.search.planner import search_plans
from autoshard.text_table import align
from autoshard.trace import trace
from bench.zoo import ROOT, environment, named_pythons, python_in, say
from tests.models.zoo import LIBRARIES, cases, find

_MODEL = "llama3_8b"
_NOTABLE = 0.01


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="one model by several authors")
    parser.add_argument("--phase", default="forward", help="default: forward")
    parser.add_argument("--slice", default="v5e:4x4", help="default: v5e:4x4")
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv-zoo", help="default: .venv-zoo")
    parser.add_argument(
        "--python", action="append", default=[], metavar="LIBRARY=PATH", help="an interpreter"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return planned_here(options.only, options.phase, options.slice)
    named = named_pythons(options.python)
    rows = [
        row
        for library in LIBRARIES
        if (python := named.get(library) or python_in(options.venvs, library))
        for row in planned_by(python, library, options.phase, options.slice)
    ]
    print(
        *align([("case", "predicted", "logits", "weights: rows.inner.columns"), *map(cells, rows)]), sep="\n"
    )
    by_logits: dict[str, list[float]] = {}
    for row in rows:
        by_logits.setdefault(row["logits"], []).append(row["seconds"])
    for logits, times in sorted(by_logits.items()):
        print(f"{logits} logits: {len(times)} programs, slowest over fastest {max(times) / min(times):.4f}")
    everything = [row["seconds"] for row in rows]
    print(f"all: {len(rows)} programs, slowest over fastest {max(everything) / min(everything):.4f}")
    return 0


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    layouts = ", ".join(f"{share:.0%} {layout}" for layout, share in row["layouts"].items())
    return row["case"], f"{row['seconds'] * 1e3:.4g} ms", row["logits"], layouts


def planned_by(python: Path, library: str, phase: str, slice_text: str) -> list[dict[str, Any]]:
    """Plan a library's cases with its interpreter."""
    command = [str(python), "-m", "bench.zoo_authors", "--only", library]
    say(f"{library}: {phase}")
    done = subprocess.run(
        [*command, "--phase", phase, "--slice", slice_text],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        say(f"{library}: status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def planned_here(library: str, phase: str, slice_text: str) -> int:
    """Plan the cases of a library that is installed here, a line of JSON for each."""
    for case in cases(library):
        _, model, own_phase = case.name.split(".")
        if model.startswith(_MODEL) and own_phase == phase:
            print(json.dumps(planned(case.name, slice_text)), flush=True)
    return 0


def planned(name: str, slice_text: str) -> dict[str, Any]:
    program = find(name).full()
    graph = build_graph(trace(program.fn, program.args, program.kwargs, **program.options))
    mesh = native_mesh(parse_slice(slice_text))
    problem = build_problem(graph, mesh)
    best = search_plans(problem, mesh.slice.chip.hbm_usable_bytes).candidates[0]
    flops: Counter[str] = Counter()
    for number, variable in enumerate(problem.variables):
        if variable.cost is None or (op := graph.ops[variable.subject]) not in weighty(graph):
            continue
        shards = factor_shards(variable.codes[[best.labels[number]]], len(op.factors), mesh)[0].tolist()
        flops[cut(op, graph, shards)] += round(op.flops * variable.trips)
    shares = {layout: count / graph.flops for layout, count in flops.most_common()}
    return {"case": name, "seconds": best.seconds, "logits": logits(graph), "layouts": shares}


def weighty(graph: Graph) -> list[Op]:
    """The einsums of a weight with notable work."""
    notable = _NOTABLE * graph.flops / len(graph.einsums)
    return [op for op in graph.einsums if weight_of(op, graph) >= 0 and op.flops * op.trips > notable]


def weight_of(op: Op, graph: Graph) -> int:
    """Which of two operands is a weight: the one that is stored, where no batch is shared as with a cache."""
    stored = [graph.values[value].stored_bytes > 0 for value in op.operands[:2]]
    held = [{factor for dim in dims for factor in dim} for dims in op.operand_dims[:2]]
    kept = {factor for dim in op.result_dims[0] for factor in dim}
    return stored.index(True) if sum(stored) == 1 and not held[0] & held[-1] & kept else -1


def cut(op: Op, graph: Graph, shards: list[int]) -> str:
    """Into how many parts an einsum cuts its rows, what it sums, and its columns."""
    weight = weight_of(op, graph)
    held = [{factor for dim in dims for factor in dim} for dims in op.operand_dims[:2]]
    kept = {factor for dim in op.result_dims[0] for factor in dim}
    parts = {"rows": 1, "inner": 1, "columns": 1}
    for factor, count in enumerate(shards):
        role = "inner" if factor not in kept else "columns" if factor in held[weight] else "rows"
        parts[role] *= count
    return ".".join(map(str, parts.values()))


def logits(graph: Graph) -> str:
    """The type of what attention's first einsum makes, the largest that two computed tensors make."""
    made = [graph.values[op.results[0]] for op in graph.einsums if weight_of(op, graph) < 0]
    return max(made, key=lambda value: (value.nbytes, value.dtype)).dtype if made else "none"


if __name__ == "__main__":
    sys.exit(main())
