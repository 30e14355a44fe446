"""The trace file of a plan: its function is compiled, or the cache has the answer, and the timeline drawn."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from autoshard.calibration.calibrated import calibrated_slice
from autoshard.compiled.chrome_trace import chrome_trace
from autoshard.compiled.worker import compile_all
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.errors import CompileError, PlanError
from autoshard.matching import require_match
from autoshard.mending import mend_command
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.refinement import compile_limit_seconds
from autoshard.refining import export_candidate
from autoshard.targets import load_target
from autoshard.topology import compiler_skip_reason
from autoshard.trace import trace


def write_plan_trace(
    plan: Plan, path: str | os.PathLike[str], progress: Progress, profile: str | None = None
) -> None:
    """Compile a plan's function and write its estimated timeline as a Chrome trace.

    Args:
        plan: a plan that says where its function is, for a slice that the TPU compiler knows.
        path: the file to write; one that ends in `.gz` is compressed.
        progress: where the stages are reported.
        profile: chip profile for the times; None: the one that `AUTOSHARD_PROFILE` names, if any.

    Raises:
        PlanError: the plan does not say where its function is, or the file cannot be written.
        PlanMismatchError: the function has changed since it was planned.
        CompileError: the slice has no compiler here, or the plan does not compile.
        TargetError: the function is not where the plan says.
    """
    slice_ = traceable_slice(plan.slice, profile, progress.note)
    if plan.function.target is None:
        raise PlanError(
            f"the plan of `{plan.function.name}` does not say where its function is, so it cannot be "
            "compiled. Make it with: autoshard tune MODULE_OR_FILE:FUNCTION --slice ... --trace FILE"
        )
    _write(path, _trace_of(plan, plan.function.target, slice_, progress))


def traceable_slice(name: str, profile: str | None, note: Callable[[str], None]) -> Slice:
    """Return the slice of a trace, with the numbers of a profile.

    Raises:
        CompileError: programs for it cannot be compiled here, so there is no schedule to trace.
        SliceError: it does not exist.
    """
    slice_ = parse_slice(name)
    reason = compiler_skip_reason(slice_)
    if reason is not None:
        raise CompileError(f"There is no compiled schedule to trace for {name}: {reason}. Leave out --trace")
    return calibrated_slice(slice_, profile, note)


def check_trace_path(path: str | os.PathLike[str]) -> None:
    """Raise `PlanError` where a trace cannot be written to `path`: ask before the work, not after it."""
    folder = Path(os.path.realpath(path)).parent
    if Path(path).is_dir():
        _refuse(path, "it is a directory")
    if not folder.is_dir():
        _refuse(path, f"there is no directory `{folder}`")
    if not os.access(folder, os.W_OK | os.X_OK):
        _refuse(path, f"you may not write to `{folder}`")


def _refuse(path: str | os.PathLike[str], reason: str) -> NoReturn:
    raise PlanError(f"The trace cannot be written to `{os.fspath(path)}`: {reason}; choose another file")


def _trace_of(plan: Plan, target_text: str, slice_: Slice, progress: Progress) -> dict[str, Any]:
    progress.stage(f"load {target_text}")
    target = load_target(target_text, plan.function.inputs).bound(plan.choices)
    progress.stage(f"trace {target.name}")
    traced = trace(target.function, target.arguments, target.keywords, **target.jit_options)
    require_match(plan, traced)
    (result,) = compile_all(
        [export_candidate(traced, plan, "tpu")],
        slice_,
        time_limit_seconds=compile_limit_seconds(len(traced.equations.equations)),
        on_start=lambda _: progress.stage("compile the plan"),
        on_known=lambda _: progress.stage("compile the plan: from the cache"),
        note=progress.note,
        keep_text=True,
    )
    if result.text is None:
        raise CompileError(
            f"The plan of `{plan.function.name}` does not compile: {result.status}: {result.detail}. "
            f"Make it again with: {mend_command(plan)}"
        )
    axes = tuple(MeshAxis(a.name, a.size, a.torus_dim, a.stride) for a in plan.mesh_axes)
    return chrome_trace(result.text, TorusMesh(slice_, axes), plan.function.name)


def _write(path: str | os.PathLike[str], found: dict[str, Any]) -> None:
    text = json.dumps(found, separators=(",", ":"))
    compressed = os.fspath(path).endswith(".gz")
    try:
        Path(path).write_bytes(gzip.compress(text.encode(), mtime=0) if compressed else text.encode())
    except OSError as error:
        _refuse(path, str(error.strerror))
