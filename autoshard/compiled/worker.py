"""Tier 2: what the real TPU compiler says of a candidate, on a host without a TPU.

The parent calls `compile_all`. Each candidate is compiled ahead of time in a child process for the
described slice, unless the answer is known from an earlier run (`autoshard.compiled.cache`); HBM per chip is
the compiler's own figure, the step time is estimated from its schedule (`autoshard.compiled.timeline`) with
the chip's present numbers, and a program that does not fit is a result, not an error: the compiler names the
bytes that it would have needed.

Run as a module, this file is the child.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Literal

import msgspec

from autoshard.compiled.answer import CompilerAnswer, CompileRequest, compile_program
from autoshard.compiled.cache import CompileCache, cache_folder
from autoshard.compiled.hlo import parse_module
from autoshard.compiled.matmul_times import matmul_seconds
from autoshard.compiled.program_key import program_key
from autoshard.compiled.rematerialisation import rematerialised_in
from autoshard.compiled.timeline import CompiledCollective, estimate_timeline
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.host import host_memory_bytes, host_swap_bytes
from autoshard.programs import Program
from autoshard.topology import compiler_environment, compiler_skip_reason
from autoshard.workers import Outcome, run_jobs, serve

Status = Literal["ok", "out of memory", "crashed", "timed out", "failed", "skipped"]

_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_UNIT_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REMATERIALISATION = "Involuntary full rematerialization"
_LOG_TAIL_CHARACTERS = 1000
_HOST_MEMORY_SHARE = 0.8
"""Of the host's memory and swap, what all compiles together may hold."""


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
        rematerialised: the compiler's warning of each of these (`autoshard.compiled.rematerialisation`).
        matmul_seconds: time of the matrix multiplications of each marked equation, all trips
            (`autoshard.compiled.matmul_times`).
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
    rematerialised: tuple[str, ...] = ()
    matmul_seconds: dict[str, float] = {}


def compile_all(
    programs: Sequence[Program],
    slice_: Slice | str,
    *,
    workers: int = 1,
    time_limit_seconds: float = 300.0,
    on_result: Callable[[int, CompileResult], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_known: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
    keep_text: bool = False,
) -> list[CompileResult]:
    """Compile candidates for a slice in child processes, those that were not compiled before.

    Nothing is raised for a candidate that cannot be compiled: its result says so. Ctrl-C ends the children
    and is raised again; what `on_result` was given until then stays valid.

    Args:
        programs: candidates, exported for the platform `tpu`; each brings its own mesh axes.
        slice_: the slice, or its name. A calibrated chip in it is used for the time estimate.
        workers: how many to compile at once; a compile uses about one core and 0.5-1 GB.
        time_limit_seconds: per candidate.
        on_result: called with the index and the result of a candidate as soon as it is known.
        on_start: called with the index of a candidate when its compile begins.
        on_known: called with the index of a candidate whose answer comes from the cache.
        note: told what is wrong with the cache; left out, stderr is.
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

    def judge(index: int, answer: CompilerAnswer) -> None:
        settle(index, _estimated(answer, parsed, programs[index].mesh_axes, keep_text))

    reason = compiler_skip_reason(parsed)
    if reason is not None:
        for index in range(len(programs)):
            settle(index, CompileResult(status="skipped", detail=reason))
        return [result for result in results if result is not None]
    cache = CompileCache(cache_folder(os.environ), note or _to_stderr)
    keys = [program_key(program, parsed) if cache.folder else "" for program in programs]
    new = []
    for index, key in enumerate(keys):
        known = cache.get(key)
        if known is None:
            new.append(index)
            continue
        if on_known is not None:
            on_known(index)
        judge(index, known)
    outcomes = run_jobs(
        [CompileRequest(program=programs[index], slice_name=parsed.name) for index in new],
        module="autoshard.compiled.worker",
        workers=workers,
        time_limit_seconds=time_limit_seconds,
        memory_limit_bytes=_HOST_MEMORY_SHARE * (host_memory_bytes() + host_swap_bytes()),
        environment=compiler_environment(),
        on_start=None if on_start is None else lambda job: on_start(new[job]),
    )
    with closing(outcomes):
        for outcome in outcomes:
            index, answer = new[outcome.index], answer_of(outcome)
            if answer is None:
                settle(index, _lost(outcome))
            else:
                cache.put(keys[index], answer)
                judge(index, answer)
    return [result for result in results if result is not None]


def answer_of(outcome: Outcome) -> CompilerAnswer | None:
    """Return what the compiler said in a child; None where it said nothing of the program."""
    if outcome.status == "ok":
        answer = msgspec.msgpack.decode(outcome.answer, type=CompilerAnswer)
        return msgspec.structs.replace(answer, log=outcome.log)
    needed = out_of_memory_bytes(outcome.detail)
    if needed is None:
        return None
    return CompilerAnswer(
        status="out of memory", detail=outcome.detail, hbm_bytes_per_chip=needed, log=outcome.log
    )


def result_of(outcome: Outcome, slice_: Slice, mesh_axes: tuple[MeshAxis, ...]) -> CompileResult:
    """Return the result that a child's outcome stands for."""
    answer = answer_of(outcome)
    return _lost(outcome) if answer is None else _estimated(answer, slice_, mesh_axes, keep_text=False)


def out_of_memory_bytes(message: str) -> int | None:
    """Return the HBM bytes per chip that an out-of-memory message says are needed; None for other errors."""
    match = _OUT_OF_MEMORY.search(message)
    return None if match is None else round(float(match[1]) * _UNIT_BYTES[match[2]])


def _lost(outcome: Outcome) -> CompileResult:
    """The result of a compile that gave no answer."""
    tail = outcome.log.strip()[-_LOG_TAIL_CHARACTERS:] if outcome.status == "crashed" else ""
    detail = f"{outcome.detail}; its last words: {tail}" if tail else outcome.detail
    return CompileResult(
        status=outcome.status,
        detail=detail,
        rematerialisations=outcome.log.count(_REMATERIALISATION),
        rematerialised=rematerialised_in(outcome.log),
    )


def _estimated(
    answer: CompilerAnswer, slice_: Slice, mesh_axes: tuple[MeshAxis, ...], keep_text: bool
) -> CompileResult:
    """The result of an answer, with the step time as it follows from the chip's present numbers."""
    result = CompileResult(
        status=answer.status,
        detail=answer.detail,
        hbm_bytes_per_chip=answer.hbm_bytes_per_chip,
        argument_bytes=answer.argument_bytes,
        argument_specs=answer.argument_specs,
        argument_orders=answer.argument_orders,
        result_orders=answer.result_orders,
        rematerialisations=answer.log.count(_REMATERIALISATION),
        text=answer.text if keep_text and answer.text else None,
        rematerialised=rematerialised_in(answer.log),
    )
    if answer.status != "ok":
        return result
    try:
        module = parse_module(answer.text)
        timeline = estimate_timeline(module, TorusMesh(slice_, mesh_axes))
        matmuls = matmul_seconds(module, timeline)
    except Exception as error:  # a schedule that cannot be read costs its candidate, not the run
        traceback.print_exc()
        detail = f"the schedule cannot be read: {type(error).__name__}: {error}"
        return msgspec.structs.replace(result, status="failed", detail=detail)
    return msgspec.structs.replace(
        result,
        seconds_estimated=timeline.seconds,
        compute_seconds=timeline.compute_seconds,
        filled_seconds=timeline.filled_seconds,
        collective_seconds=timeline.collective_seconds,
        exposed_collective_seconds=timeline.exposed_collective_seconds,
        collectives=timeline.collectives,
        unknown_loops=timeline.unknown_loops,
        matmul_seconds=matmuls,
    )


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _handle(request: CompileRequest, report: Callable[[str], None]) -> CompilerAnswer:
    report("compiling")
    return compile_program(request)


if __name__ == "__main__":
    serve(_handle, CompileRequest)
