"""How much of a function a plan would decide about: tracing is enough for that, no slice and no search."""

from __future__ import annotations

import time

from autoshard.coverage import coverage_record
from autoshard.coverage_records import Coverage
from autoshard.graph_building import build_graph
from autoshard.progress import Progress
from autoshard.targets import load_target
from autoshard.trace import trace
from autoshard.units import format_seconds


def coverage_of_target(target: str, inputs: str | None, progress: Progress) -> tuple[str, Coverage]:
    """Trace a function and say how much of it a plan would decide about.

    Args:
        target: the function, as `MODULE_OR_FILE:FUNCTION`.
        inputs: the function that returns its abstract arguments, likewise; None where a decorator names it.
        progress: where the seconds of the stages are reported.

    Returns:
        The name of the function, and its coverage.

    Raises:
        TargetError: the function or its inputs cannot be loaded.
        TraceError: it cannot be traced on its inputs.
    """
    found = load_target(target, inputs)
    progress.stage(f"trace {found.name}")
    started = time.perf_counter()
    traced = trace(found.function, found.arguments, found.keywords, **found.jit_options)
    progress.note(f"traced {traced.equations.traced} equations in {_since(started)}")
    progress.stage("sharding rules")
    started = time.perf_counter()
    graph = build_graph(traced)
    progress.note(f"graph of {len(graph.ops)} ops and {len(graph.values)} values in {_since(started)}")
    return found.name, coverage_record(graph)


def _since(started_seconds: float) -> str:
    return format_seconds(time.perf_counter() - started_seconds)
