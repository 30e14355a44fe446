"""Tier 1: what Shardy makes of a candidate's constraints, in milliseconds and without any compiler.

The parent calls `propagate_all`. Each candidate's StableHLO is partitioned in a child process, for Shardy's
passes can abort: that costs one candidate, and it is named. Where the pass that says by which collectives a
reshard is done is what fails, the candidate is tried once more without it: the collectives of its reshards
are then derived by our own rule and say so.

Run as a module, this file is the child; it imports neither JAX nor a device runtime.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing

import msgspec

from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.partitioner.prices import PropagatedCollective, priced
from autoshard.partitioner.propagation import Propagated, propagated
from autoshard.programs import Program
from autoshard.workers import Outcome, Status, run_jobs, serve

TIME_LIMIT_SECONDS = 60.0
"""For one candidate: a model of 20,000 ops takes a few seconds."""
_LOG_TAIL_CHARACTERS = 1000


class PropagationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What Shardy says of one candidate; all figures are per chip, for one run of the program.

    Attributes:
        status: `ok`, or how the candidate was lost.
        detail: the reason, where the status is not `ok`, or why collectives are derived; else empty.
        collectives: every collective, in the order of the program.
        seconds: time of all collectives, one after the other.
        unknown_loops: lines of loops whose trip count could not be read; they are counted once.
        seconds_taken: how long the passes and the reading of their result took.
    """

    status: Status
    detail: str = ""
    collectives: tuple[PropagatedCollective, ...] = ()
    seconds: float | None = None
    unknown_loops: tuple[str, ...] = ()
    seconds_taken: float | None = None

    @property
    def total_bytes(self) -> float:
        """Bytes per chip of all collectives, all trips."""
        return sum(each.total_bytes for each in self.collectives)


class PropagationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the child: a portable StableHLO artifact, and whether reshards are to become collectives."""

    stablehlo: bytes
    to_collectives: bool = True


class PropagationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the child found, and in how many seconds."""

    propagated: Propagated
    seconds_taken: float


def propagate_all(
    programs: Sequence[Program],
    slice_: Slice | str,
    *,
    workers: int = 1,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    on_result: Callable[[int, PropagationResult], None] | None = None,
) -> list[PropagationResult]:
    """Run Shardy over candidates in child processes, and price what they move.

    Nothing is raised for a candidate that Shardy cannot partition: its result says so. Ctrl-C ends the
    children and is raised again.

    Args:
        programs: candidates, exported for any platform; each brings its own mesh axes.
        slice_: the slice, or its name, on whose torus the collectives are priced.
        workers: how many to run at once; one child does about 20 small programs a second.
        time_limit_seconds: per candidate.
        on_result: called with the index and the result of a candidate as soon as it is known.

    Returns:
        One result per program, in the order of `programs`.
    """
    parsed = parse_slice(slice_) if isinstance(slice_, str) else slice_
    meshes = [TorusMesh(parsed, program.mesh_axes) for program in programs]
    results: dict[int, PropagationResult] = {}

    def settle(index: int, result: PropagationResult) -> None:
        results[index] = result
        if on_result is not None:
            on_result(index, result)

    artifacts: dict[int, bytes] = {}
    for index, program in enumerate(programs):
        try:
            artifacts[index] = stablehlo_of(program)
        except Exception as error:  # whatever jax.export raises for bytes that are no program of its own
            reason = f"no exported program: {type(error).__name__}: {error}"
            settle(index, PropagationResult(status="failed", detail=reason))
    again: dict[int, str] = {}
    with closing(_outcomes(artifacts, True, workers, time_limit_seconds)) as outcomes:
        for index, outcome in outcomes:
            result = result_of(outcome, meshes[index])
            if result.status in ("crashed", "failed"):
                again[index] = result.detail
            else:
                settle(index, result)
    artifacts = {index: artifacts[index] for index in again}
    with closing(_outcomes(artifacts, False, workers, time_limit_seconds)) as outcomes:
        for index, outcome in outcomes:
            settle(index, _derived(result_of(outcome, meshes[index]), again[index]))
    return [results[index] for index in range(len(programs))]


def _outcomes(
    artifacts: Mapping[int, bytes], to_collectives: bool, workers: int, time_limit_seconds: float
) -> Generator[tuple[int, Outcome], None, None]:
    """Partition in child processes; the outcomes come with the key of their artifact."""
    keys = list(artifacts)
    jobs = run_jobs(
        [PropagationRequest(stablehlo=artifacts[key], to_collectives=to_collectives) for key in keys],
        module="autoshard.partitioner.worker",
        workers=workers,
        time_limit_seconds=time_limit_seconds,
    )
    with closing(jobs):
        for outcome in jobs:
            yield keys[outcome.index], outcome


def _derived(result: PropagationResult, reason: str) -> PropagationResult:
    """The result without Shardy's own collectives, with the reason why they are missing."""
    if result.status != "ok":
        return result
    return msgspec.structs.replace(result, detail=f"collectives of reshards are derived: {reason}")


def stablehlo_of(program: Program) -> bytes:
    """Return the portable StableHLO artifact inside a serialised program."""
    import jax

    return bytes(jax.export.deserialize(bytearray(program.serialised)).mlir_module_serialized)


def result_of(outcome: Outcome, mesh: TorusMesh) -> PropagationResult:
    """Return the result that a child's outcome stands for, priced on a mesh."""
    if outcome.status != "ok":
        tail = outcome.log.strip()[-_LOG_TAIL_CHARACTERS:] if outcome.status == "crashed" else ""
        detail = f"{outcome.detail}; its last words: {tail}" if tail else outcome.detail
        return PropagationResult(status=outcome.status, detail=detail)
    answer = msgspec.msgpack.decode(outcome.answer, type=PropagationAnswer)
    collectives = priced(answer.propagated.found, mesh)
    return PropagationResult(
        status="ok",
        collectives=collectives,
        seconds=sum(each.seconds * each.trips for each in collectives),
        unknown_loops=answer.propagated.unknown_loops,
        seconds_taken=answer.seconds_taken,
    )


def _handle(request: PropagationRequest, report: Callable[[str], None]) -> PropagationAnswer:
    from autoshard.partitioner.partition import partition

    report("partitioning")
    started = time.perf_counter()
    functions = partition(request.stablehlo, to_collectives=request.to_collectives)
    return PropagationAnswer(propagated=propagated(functions), seconds_taken=time.perf_counter() - started)


if __name__ == "__main__":
    serve(_handle, PropagationRequest)
