"""Tiers 1 to 3 for some candidates: export each with its constraints and have a child process judge it.

`autoshard.partitioner.worker` has Shardy partition it, `autoshard.compiled.worker` compiles it for the
slice; `autoshard.timing_worker` runs it on devices and compares the outputs with those of the function as it
is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import msgspec
from jax.extend.core import jaxpr_as_fun
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.applying import argument_specs, constraints_of, result_specs
from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.constraining import run_constrained
from autoshard.cost.slices import Slice
from autoshard.cost.torus import MeshAxis
from autoshard.fusion_times import with_fusion_times
from autoshard.host import host_memory_bytes
from autoshard.judged import Judged, with_estimate, with_measurement
from autoshard.memory_orders import insists_on_written
from autoshard.partitioner.check import PropagationCheck, check_candidates
from autoshard.plan import Plan
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.timing_worker import time_all
from autoshard.trace import Traced

_HOST_MEMORY_SHARE = 0.5
"""Tier 3 on virtual CPU devices is left out where its arrays would take more than this share of the host."""
_COPIES = 4
"""Of the function's arrays that tier 3 holds at once: on the host and on the devices, inputs and outputs."""


def export_candidate(traced: Traced, plan: Plan, platform: str) -> Program:
    """Export a traced function under a plan."""
    axes = tuple(MeshAxis(a.name, a.size, a.torus_dim, a.stride) for a in plan.mesh_axes)
    mesh = abstract_mesh(axes)
    constraints = constraints_of(plan, traced.equations)

    def constrain(array: Any, spec: PartitionSpec) -> Any:
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

    def planned(*leaves: Any) -> list[Any]:
        return run_constrained(traced.closed, leaves, constraints, constrain, mesh)

    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=NamedSharding(mesh, spec))
        for aval, spec in zip(traced.in_avals, argument_specs(plan), strict=True)
    ]
    program = export_program(
        planned,
        arguments,
        platform=platform,
        donate=traced.donated,
        mesh_axes=axes,
        out_shardings=[NamedSharding(mesh, spec) for spec in result_specs(plan)],
    )
    planned_program = msgspec.structs.replace(
        program,
        compiler_options=plan.compiler_options,
        as_written=insists_on_written(plan.arguments),
    )
    return _with_paths(planned_program, traced)


def export_reference(traced: Traced, platform: str) -> Program:
    """Export the function as it is, for one device."""

    def unsharded(*leaves: Any) -> list[Any]:
        return list(jaxpr_as_fun(traced.closed)(*leaves))

    return _with_paths(export_program(unsharded, traced.in_avals, platform=platform), traced)


def _with_paths(program: Program, traced: Traced) -> Program:
    return msgspec.structs.replace(
        program, argument_paths=traced.argument_names, result_paths=traced.result_names
    )


def partition_candidates(
    traced: Traced,
    candidates: Sequence[Judged],
    slice_: Slice,
    *,
    platform: str,
    workers: int,
    on_result: Callable[[int, Judged], None],
) -> None:
    """Tier 1: partition each candidate by Shardy; `on_result` sees each as soon as it is known.

    Raises:
        CompileError: a candidate cannot be exported.
    """
    plans = [candidate.plan for candidate in candidates]
    programs = [_exported(traced, candidate, platform) for candidate in candidates]

    def settle(index: int, check: PropagationCheck) -> None:
        on_result(index, replace(candidates[index], program=programs[index], propagated=check))

    check_candidates(plans, programs, slice_, workers=workers, on_check=settle)


def _exported(traced: Traced, candidate: Judged, platform: str) -> Program:
    return candidate.program or export_candidate(candidate.traced or traced, candidate.plan, platform)


def with_program(traced: Traced, candidate: Judged, platform: str) -> Judged:
    """Return a candidate that has been exported."""
    return replace(candidate, program=_exported(traced, candidate, platform))


def compile_candidates(
    traced: Traced,
    candidates: Sequence[Judged],
    *,
    workers: int,
    time_limit_seconds: float,
    on_start: Callable[[int], None],
    on_result: Callable[[int, Judged], None],
    on_known: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Tier 2: compile each candidate for its slice; `on_result` sees each as soon as it is judged.

    Args:
        traced: the function.
        candidates: its plans, all for one slice.
        workers: how many to compile at once.
        time_limit_seconds: per candidate.
        on_start: called with the index of a candidate when its compile begins.
        on_result: called with the index of a candidate and what has become of it.
        on_known: called with the index of a candidate that an earlier run has compiled.
        note: told what is wrong with the cache of earlier compiles; left out, stderr is.
    """

    def settle(index: int, result: CompileResult) -> None:
        judged = with_estimate(candidates[index], result)
        own = judged.traced or traced
        plan = with_fusion_times(judged.plan, own.equations, result.matmul_seconds)
        on_result(index, replace(judged, plan=plan))

    compile_all(
        [_exported(traced, candidate, "tpu") for candidate in candidates],
        candidates[0].plan.slice,
        workers=workers,
        time_limit_seconds=time_limit_seconds,
        on_start=on_start,
        on_known=on_known,
        on_result=settle,
        note=note,
    )


def time_candidates(
    traced: Traced,
    candidates: Sequence[Judged],
    *,
    cpu_devices: int | None,
    platform: str,
    seed: int,
    time_limit_seconds: float,
    on_progress: Callable[[str], None],
) -> list[Judged]:
    """Tier 3: run the candidates on devices (virtual CPU devices count as such) and check their results."""
    results = time_all(
        [_exported(traced, candidate, platform) for candidate in candidates],
        export_reference(traced, platform),
        cpu_devices=cpu_devices,
        seed=seed,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
    )
    return [
        with_measurement(candidate, result) for candidate, result in zip(candidates, results, strict=True)
    ]


def host_memory_reason(traced: Traced) -> str | None:
    """Why tier 3 on virtual CPU devices would not fit this host, or None."""
    nbytes = sum(a.size * a.dtype.itemsize for a in (*traced.in_avals, *traced.out_avals))
    memory = host_memory_bytes()
    if nbytes * _COPIES <= _HOST_MEMORY_SHARE * memory:
        return None
    return (
        f"the function's arrays take {nbytes / 2**30:.1f} GiB, too much to run on CPU devices of this host "
        f"({memory / 2**30:.0f} GiB); tune a smaller configuration to time it"
    )
