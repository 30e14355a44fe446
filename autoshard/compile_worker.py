"""Tier 2: what the real TPU compiler says of a candidate, on a host without a TPU.

The parent calls `compile_all`. Each candidate is compiled ahead of time in a child process for the
described slice; HBM per chip is the compiler's own figure, the step time is estimated from its schedule
(`autoshard.timeline`), and a program that does not fit is a result, not an error: the compiler names the
bytes that it would have needed.

Run as a module, this file is the child.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Literal

import msgspec

from autoshard.cost.chips import chip
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.programs import LoadedProgram, Program, argument_specs, chosen_orders, load
from autoshard.timeline import CompiledCollective, Timeline, estimate_timeline
from autoshard.topology import compiler_environment, compiler_skip_reason, mesh_for
from autoshard.workers import Outcome, run_jobs, serve

Status = Literal["ok", "out of memory", "crashed", "timed out", "failed", "skipped"]

_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_UNIT_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REMATERIALISATION = "Involuntary full rematerialization"
_LOG_TAIL_CHARACTERS = 1000


class CompileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler says of one candidate; all figures are per chip, for one run of the program.

    Attributes:
        status: `ok`; `out of memory`: the program does not fit HBM; else how the candidate was lost.
        detail: the reason, where the status is not `ok`; else empty.
        seconds_estimated: compute + filled + exposed collective seconds of the compiler's schedule.
        hbm_bytes_per_chip: peak HBM; with `out of memory`, what the program would have needed. None where
            unknown.
        argument_bytes: HBM of the arguments at rest.
        compute_seconds: cycles that the compiler counts, over the clock.
        filled_seconds: time of instructions without cycles, filled in from their bytes.
        collective_seconds: all collectives, hidden or not.
        exposed_collective_seconds: the part of it that nothing hides.
        collectives: every collective of the schedule.
        unknown_loops: loops whose trip count could not be read; they are counted once.
        argument_specs: how the compiler expects each flat argument, as in plan files.
        argument_orders: dims of each flat argument in the order that the compiler chose for them in memory,
            outermost first.
        result_orders: the same of each flat result.
        rematerialisations: reshards that the partitioner could only do by replicating the tensor.
        text: the scheduled HLO, where it was asked for.
    """

    status: Status
    detail: str = ""
    seconds_estimated: float | None = None
    hbm_bytes_per_chip: int | None = None
    argument_bytes: int | None = None
    compute_seconds: float | None = None
    filled_seconds: float | None = None
    collective_seconds: float | None = None
    exposed_collective_seconds: float | None = None
    collectives: tuple[CompiledCollective, ...] = ()
    unknown_loops: tuple[str, ...] = ()
    argument_specs: tuple[str, ...] = ()
    argument_orders: tuple[tuple[int, ...], ...] = ()
    result_orders: tuple[tuple[int, ...], ...] = ()
    rematerialisations: int = 0
    text: str | None = None


class CompileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the child: a program, the slice, and the chip's numbers that differ from the table."""

    program: Program
    slice_name: str
    chip_values: dict[str, float]
    keep_text: bool = False


def compile_all(
    programs: Sequence[Program],
    slice_: Slice | str,
    *,
    workers: int = 1,
    time_limit_seconds: float = 300.0,
    on_result: Callable[[int, CompileResult], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    keep_text: bool = False,
) -> list[CompileResult]:
    """Compile candidates for a slice in child processes.

    Nothing is raised for a candidate that cannot be compiled: its result says so. Ctrl-C ends the children
    and is raised again; what `on_result` was given until then stays valid.

    Args:
        programs: candidates, exported for the platform `tpu`; each brings its own mesh axes.
        slice_: the slice, or its name. A calibrated chip in it is used for the time estimate.
        workers: how many to compile at once; a compile uses about one core and 0.5-1 GB.
        time_limit_seconds: per candidate.
        on_result: called with the index and the result of a candidate as soon as it is known.
        on_start: called with the index of a candidate when its compile begins.
        keep_text: keep the scheduled HLO in the results.

    Returns:
        One result per program, in the order of `programs`.
    """
    parsed = parse_slice(slice_) if isinstance(slice_, str) else slice_
    results: list[CompileResult | None] = [None] * len(programs)

    def settle(index: int, result: CompileResult) -> None:
        results[index] = result
        if on_result is not None:
            on_result(index, result)

    reason = compiler_skip_reason(parsed)
    if reason is not None:
        for index in range(len(programs)):
            settle(index, CompileResult(status="skipped", detail=reason))
        return [result for result in results if result is not None]
    changes = _chip_values(parsed)
    requests = [
        CompileRequest(program=program, slice_name=parsed.name, chip_values=changes, keep_text=keep_text)
        for program in programs
    ]
    outcomes = run_jobs(
        requests,
        module="autoshard.compile_worker",
        workers=workers,
        time_limit_seconds=time_limit_seconds,
        environment=compiler_environment(),
        on_start=on_start,
    )
    with closing(outcomes):
        for outcome in outcomes:
            settle(outcome.index, result_of(outcome))
    return [result for result in results if result is not None]


def result_of(outcome: Outcome) -> CompileResult:
    """Return the result that a child's outcome stands for."""
    rematerialisations = outcome.log.count(_REMATERIALISATION)
    if outcome.status == "ok":
        result = msgspec.msgpack.decode(outcome.answer, type=CompileResult)
        return msgspec.structs.replace(result, rematerialisations=rematerialisations)
    needed = out_of_memory_bytes(outcome.detail)
    if needed is not None:
        return CompileResult(status="out of memory", detail=outcome.detail, hbm_bytes_per_chip=needed)
    tail = outcome.log.strip()[-_LOG_TAIL_CHARACTERS:] if outcome.status == "crashed" else ""
    detail = f"{outcome.detail}; its last words: {tail}" if tail else outcome.detail
    return CompileResult(status=outcome.status, detail=detail, rematerialisations=rematerialisations)


def out_of_memory_bytes(message: str) -> int | None:
    """Return the HBM bytes per chip that an out-of-memory message says are needed; None for other errors."""
    match = _OUT_OF_MEMORY.search(message)
    return None if match is None else round(float(match[1]) * _UNIT_BYTES[match[2]])


def compile_program(request: CompileRequest) -> CompileResult:
    """Compile one program in this process, which must run under `compiler_environment()`."""
    import jax

    jax.config.update("jax_enable_x64", request.program.enable_x64)
    mesh_axes = request.program.mesh_axes
    slice_ = _calibrated(parse_slice(request.slice_name), request.chip_values)
    loaded = load(request.program, mesh_for(slice_, mesh_axes), choose_layouts=True)
    lowered = loaded.jitted.lower(*loaded.arguments)
    compiled = lowered.compile(compiler_options=request.program.compiler_options)
    text = compiled.as_text()
    return _result(
        compiled, loaded, estimate_timeline(text, TorusMesh(slice_, mesh_axes)), text, request.keep_text
    )


def _result(
    compiled: Any, loaded: LoadedProgram, timeline: Timeline, text: str, keep_text: bool
) -> CompileResult:
    memory = compiled.memory_analysis()
    return CompileResult(
        status="ok",
        seconds_estimated=timeline.seconds,
        hbm_bytes_per_chip=int(memory.peak_memory_in_bytes),
        argument_bytes=int(memory.argument_size_in_bytes),
        compute_seconds=timeline.compute_seconds,
        filled_seconds=timeline.filled_seconds,
        collective_seconds=timeline.collective_seconds,
        exposed_collective_seconds=timeline.exposed_collective_seconds,
        collectives=timeline.collectives,
        unknown_loops=timeline.unknown_loops,
        argument_specs=argument_specs(compiled, loaded.arguments),
        argument_orders=chosen_orders(compiled.input_formats[0]),
        result_orders=chosen_orders(compiled.output_formats),
        text=text if keep_text else None,
    )


def _chip_values(slice_: Slice) -> dict[str, float]:
    table = chip(slice_.chip.name).quantities
    changed = {
        name: known.value
        for name, known in slice_.chip.quantities.items()
        if known.value != table[name].value
    }
    return {name.replace("peak_flops_per_second.", "peak_"): value for name, value in changed.items()}


def _calibrated(slice_: Slice, values: dict[str, float]) -> Slice:
    if not values:
        return slice_
    changed = slice_.chip.with_values("measured", "calibrated", **values)
    return Slice(changed, slice_.topology, slice_.num_slices)


def _handle(request: CompileRequest, report: Callable[[str], None]) -> CompileResult:
    report("compiling")
    return compile_program(request)


if __name__ == "__main__":
    serve(_handle, CompileRequest)
