"""One child process that works off jobs, as its parent holds it: its pipe, its log, its clock, its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import Signals
from typing import IO

from autoshard.host import held_bytes

_JOBS_PER_CHILD = 40  # the TPU compiler keeps about 13 MB per program and never gives them back
_LOG_BYTES = 1 << 20


@dataclass(slots=True)
class Child:
    """A child process and the job that it has.

    Attributes:
        process: the process.
        connection: to the child: requests out, messages in.
        stderr: file of all that the child writes.
        job: index of the job at work, -1 while there is none.
        limit_seconds: how long the job may be silent.
        deadline: monotonic time by which the job must have been heard of.
        reported: last progress text of the job.
        jobs_left: after so many more jobs the child is replaced.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    stderr: IO[bytes]
    job: int = -1
    limit_seconds: float = 0.0
    deadline: float = 0.0
    reported: str = ""
    jobs_left: int = _JOBS_PER_CHILD
    _log_start: int = 0

    @property
    def reusable(self) -> bool:
        """Whether the child can take another job."""
        return self.jobs_left > 0 and self.process.poll() is None

    def send(self, job: int, request: bytes, limit_seconds: float) -> None:
        """Give the child a job."""
        self.job, self.reported, self.limit_seconds = job, "", limit_seconds
        self.jobs_left -= 1
        self._log_start = os.fstat(self.stderr.fileno()).st_size
        self.extend()
        with suppress(BrokenPipeError, ConnectionResetError):  # a dead child shows as end of file when read
            self.connection.send_bytes(request)

    def extend(self) -> None:
        """Start the time limit of the job anew."""
        self.deadline = time.monotonic() + self.limit_seconds

    def log(self) -> str:
        """Return what the child wrote since the job was sent, the first MiB of it."""
        return os.pread(self.stderr.fileno(), _LOG_BYTES, self._log_start).decode(errors="replace")

    def held_bytes(self) -> int:
        """Return the memory that the child holds."""
        return held_bytes(self.process.pid)

    def end(self) -> str:
        """End the process, and say how it had ended if it ended by itself."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0.2)
        if self.process.returncode is None:
            self.process.kill()
        code = self.process.wait()
        if code >= 0:
            return f"the child process ended with exit status {code}"
        with suppress(ValueError):
            return f"the child process was ended by {Signals(-code).name}"
        return f"the child process was ended by signal {-code}"

    def close(self) -> None:
        """End the process and forget its log."""
        self.end()
        self.stderr.close()


def spawn(module: str, environment: Mapping[str, str]) -> Child:
    """Start `python -m MODULE FD` with some variables set, FD being its end of a socket pair."""
    ours, theirs = Pipe()
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
    package_root = str(Path(__file__).resolve().parent.parent)
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(theirs.fileno())],
        env={**os.environ, "PYTHONPATH": search_path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
    )
    theirs.close()
    return Child(process, ours, stderr)
