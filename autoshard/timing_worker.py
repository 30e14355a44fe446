"""Tier 3: time candidates on virtual CPU devices in a child process, or on the attached devices.

A child that crashes or hangs costs the candidate at work; the others are run again without it. The
attached devices are used in this process, since a TPU belongs to one process only. How candidates are
timed and judged is told in `autoshard.timing_bench`. Run as a module, this file is the child.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import msgspec

from autoshard.programs import Program
from autoshard.timing_bench import REFERENCE, TimingRequest, TimingResult, time_programs
from autoshard.workers import Outcome, run_jobs, serve

_DEVICE_COUNT = re.compile(r"--xla_force_host_platform_device_count=\S+")


def time_all(
    programs: Sequence[Program],
    reference: Program | None,
    *,
    cpu_devices: int | None,
    rounds: int = 5,
    runs_per_round: int = 3,
    seed: int = 0,
    integer_bound: int = 2,
    time_limit_seconds: float = 300.0,
    on_progress: Callable[[str], None] | None = None,
) -> list[TimingResult]:
    """Run and time candidates, and check their outputs.

    Nothing is raised for a candidate that fails: its result says so. In a child process a crash or a time-out
    costs the candidate at work; the others are run again without it. Ctrl-C ends the child and is raised
    again.

    Args:
        programs: candidates, exported for the devices' platform (`cpu` with `cpu_devices`).
        reference: the unsharded program, exported with no mesh axes; None: outputs are not checked.
        cpu_devices: how many virtual CPU devices to start in a child; None: the attached devices, in this
            process.
        rounds: how often every candidate gets its turn.
        runs_per_round: timed runs per turn.
        seed: of the inputs, see `autoshard.numerics`.
        integer_bound: integer inputs are drawn from `[0, integer_bound)`: at most the vocabulary, at most the
            cache.
        time_limit_seconds: for each compile and each turn; heeded in a child only.
        on_progress: called with a line of text per step.

    Returns:
        One result per program, in the order of `programs`.
    """
    request = TimingRequest(
        programs=tuple(programs),
        reference=reference,
        rounds=rounds,
        runs_per_round=runs_per_round,
        seed=seed,
        integer_bound=integer_bound,
    )
    say = on_progress or (lambda text: None)
    if cpu_devices is None:
        return time_programs(request, lambda text: say(_readable(text)))
    return _in_children(request, cpu_environment(cpu_devices), time_limit_seconds, say)


def _readable(report: str) -> str:
    number, _, step = report.partition(": ")
    return f"unsharded program: {step}" if number == REFERENCE else f"candidate {int(number) + 1}: {step}"


def cpu_environment(device_count: int) -> dict[str, str]:
    """The environment of a process that has so many virtual CPU devices."""
    flags = _DEVICE_COUNT.sub("", os.environ.get("XLA_FLAGS", ""))
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "-1",  # not set: the flag below decides
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={device_count}".strip(),
    }


def _in_children(
    request: TimingRequest, environment: dict[str, str], time_limit_seconds: float, say: Callable[[str], None]
) -> list[TimingResult]:
    """Run a request in a child; after a crash again without the candidate that was at work."""
    results: dict[int, TimingResult] = {}
    reference, waiting = request.reference, list(range(len(request.programs)))
    unchecked = ""
    while waiting:
        job = msgspec.structs.replace(
            request, programs=tuple(request.programs[i] for i in waiting), reference=reference
        )
        (outcome,) = run_jobs(
            [job],
            module="autoshard.timing_worker",
            workers=1,
            time_limit_seconds=time_limit_seconds,
            environment=environment,
            on_progress=_progress(say, tuple(waiting)),
        )
        if outcome.status == "ok":
            answers = msgspec.msgpack.decode(outcome.answer, type=list[TimingResult])
            results.update(zip(waiting, (_explained(answer, unchecked) for answer in answers), strict=True))
            break
        culprit = outcome.reported.partition(":")[0]
        if culprit == REFERENCE:
            reference, unchecked = None, f"outputs not checked: the unsharded program {outcome.status}"
            continue
        lost = waiting.pop(int(culprit)) if culprit else waiting.pop(0)
        results[lost] = _lost(outcome)
    return [results[i] for i in range(len(request.programs))]


def _explained(result: TimingResult, unchecked: str) -> TimingResult:
    return (
        msgspec.structs.replace(result, detail=unchecked) if unchecked and result.status == "ok" else result
    )


def _progress(say: Callable[[str], None], places: Sequence[int]) -> Callable[[int, str], None]:
    return lambda job, text: say(_readable(_renumbered(text, places)))


def _renumbered(report: str, places: Sequence[int]) -> str:
    number, _, step = report.partition(": ")
    return report if number == REFERENCE else f"{places[int(number)]}: {step}"


def _lost(outcome: Outcome) -> TimingResult:
    words = outcome.log.strip()[-500:]
    detail = f"{outcome.detail}; its last words: {words}" if words else outcome.detail
    return TimingResult(status="failed" if outcome.status == "ok" else outcome.status, detail=detail)


def _handle(request: TimingRequest, report: Callable[[str], None]) -> list[TimingResult]:
    import jax

    jax.config.update("jax_enable_x64", request.programs[0].enable_x64)
    return time_programs(request, report)


if __name__ == "__main__":
    serve(_handle, TimingRequest)
