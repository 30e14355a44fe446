"""The child process in which virtual CPU devices are measured: their number must stand before JAX starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import msgspec

from autoshard.calibration.bench import Answer, Request, measure
from autoshard.errors import CalibrationError
from autoshard.timing_worker import cpu_environment
from autoshard.workers import run_jobs, serve

_STEP_SECONDS = 120.0


def measure_cpu_devices(request: Request, device_count: int, report: Callable[[str], None]) -> Answer:
    """Time the probes of a request on virtual CPU devices; Ctrl-C ends the child and is raised again.

    Raises:
        CalibrationError: the child was lost.
    """
    outcomes = run_jobs(
        [request],
        module="autoshard.calibration.worker",
        workers=1,
        time_limit_seconds=_STEP_SECONDS,
        environment=cpu_environment(device_count),
        on_progress=lambda job, text: report(text),
    )
    with closing(outcomes):
        (outcome,) = outcomes
    if outcome.status != "ok":
        words = outcome.log.strip()[-500:]
        raise CalibrationError(
            f"{device_count} CPU devices could not be measured: the process that ran them {outcome.status} "
            f"at `{outcome.reported or 'its start'}` ({outcome.detail}); its last words: {words or 'none'}"
        )
    return msgspec.msgpack.decode(outcome.answer, type=Answer)


if __name__ == "__main__":
    serve(measure, Request)
