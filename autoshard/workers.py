"""Jobs in child processes: a crash, a time-out or an error costs one job, never the run.

Compilers and device runtimes can abort their process, and some of their settings must stand before JAX
starts, so candidates are compiled and timed in children. A child is a module run as `python -m MODULE FD`;
it calls `serve` and answers requests until its pipe closes, so one import of JAX serves many jobs. The
parent is a single thread that waits for whichever child answers first. Requests and answers are msgpack
messages over a socket pair.

Parent::

    for outcome in run_jobs(requests, module="package.child", workers=2, time_limit_seconds=120): ...

Child::

    if __name__ == "__main__":
        serve(handle, Request)          # handle(request, report) -> answer, any msgspec-encodable value
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from signal import Signals
from typing import IO, Any, Literal, TypeVar

import msgspec

Status = Literal["ok", "failed", "crashed", "timed out"]
_Request = TypeVar("_Request")

_JOBS_PER_CHILD = 40  # the TPU compiler keeps about 13 MB per program and never gives them back
_MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job.

    Attributes:
        index: position of the job in the sequence given to `run_jobs`.
        status: `ok`, or how the job was lost.
        answer: msgpack bytes of what the child's handler returned; empty unless `ok`.
        detail: for a lost job, what is known of the reason; empty when `ok`.
        log: what the child wrote to its stderr during the job.
        reported: last progress text that the child's handler reported; empty without one.
    """

    index: int
    status: Status
    answer: bytes
    detail: str
    log: str
    reported: str


class _Message(msgspec.Struct, frozen=True):
    kind: Literal["ok", "failed", "progress"]
    text: str = ""
    answer: bytes = b""


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    stderr: IO[bytes]
    job: int = -1
    limit_seconds: float = 0.0
    deadline: float = 0.0
    log_start: int = 0
    jobs_left: int = _JOBS_PER_CHILD
    reported: str = field(default="")


def run_jobs(
    requests: Sequence[Any],
    *,
    module: str,
    workers: int,
    time_limit_seconds: float,
    environment: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_progress: Callable[[int, str], None] | None = None,
) -> Generator[Outcome, None, None]:
    """Run every request in a child process and yield the outcomes in the order in which they finish.

    Closing the generator, an exception in its consumer and Ctrl-C all end the children; outcomes that were
    already yielded remain the caller's.

    Args:
        requests: msgspec-encodable values, one per job.
        module: import name of the child's module.
        workers: how many children may run at once.
        time_limit_seconds: for a job to end or to report progress, counted from its start or its last report.
        environment: variables set in the children beside those of this process.
        on_start: called with a job's index when it is sent to a child.
        on_progress: called with a job's index and the text that its handler reported.
    """
    waiting = deque(range(len(requests)))
    children: list[_Child] = []
    try:
        while waiting or any(child.job >= 0 for child in children):
            children = [child for child in children if child.job >= 0 or _reusable(child)]
            while waiting and (child := _free_child(children, workers, module, environment)) is not None:
                _send(child, waiting.popleft(), requests, time_limit_seconds, on_start)
            yield from _finished([child for child in children if child.job >= 0], on_progress)
    finally:
        for child in children:
            _end(child)
            child.stderr.close()


def serve(handle: Callable[[_Request, Callable[[str], None]], Any], request_type: type[_Request]) -> None:
    """Answer requests until the parent closes the pipe; the child's side of `run_jobs`.

    Args:
        handle: called with a request and a function that reports progress; returns a msgspec-encodable
            answer.
        request_type: what the requests decode to.
    """
    connection = Connection(int(sys.argv[1]))

    def send(message: _Message) -> None:
        sys.stdout.flush()  # what the job printed belongs to its log, so it must be out before the answer is
        sys.stderr.flush()
        connection.send_bytes(msgspec.msgpack.encode(message))

    while True:
        try:
            request = msgspec.msgpack.decode(connection.recv_bytes(), type=request_type)
        except EOFError:
            return
        try:
            answer = handle(request, lambda text: send(_Message("progress", text)))
            send(_Message("ok", answer=msgspec.msgpack.encode(answer)))
        except Exception as error:  # every error of a job is that job's result
            traceback.print_exc()
            send(_Message("failed", f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]))


def _free_child(
    children: list[_Child], workers: int, module: str, environment: Mapping[str, str] | None
) -> _Child | None:
    for child in children:
        if child.job < 0:
            return child
    if len(children) >= workers:
        return None
    children.append(_spawn(module, environment or {}))
    return children[-1]


def _spawn(module: str, environment: Mapping[str, str]) -> _Child:
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
    return _Child(process, ours, stderr)


def _send(
    child: _Child,
    job: int,
    requests: Sequence[Any],
    time_limit_seconds: float,
    on_start: Callable[[int], None] | None,
) -> None:
    if on_start is not None:
        on_start(job)
    child.job, child.reported = job, ""
    child.limit_seconds, child.deadline = time_limit_seconds, time.monotonic() + time_limit_seconds
    child.log_start = os.fstat(child.stderr.fileno()).st_size
    child.jobs_left -= 1
    with suppress(
        BrokenPipeError, ConnectionResetError
    ):  # a child that died shows as end of file when it is read
        child.connection.send_bytes(msgspec.msgpack.encode(requests[job]))


def _finished(busy: list[_Child], on_progress: Callable[[int, str], None] | None) -> Iterator[Outcome]:
    by_connection = {id(child.connection): child for child in busy}
    patience = max(0.0, min(child.deadline for child in busy) - time.monotonic())
    ready = {id(connection) for connection in wait([child.connection for child in busy], timeout=patience)}
    for key, child in by_connection.items():
        if key in ready:
            outcome = _receive(child, on_progress)
            if outcome is not None:
                yield outcome
        elif time.monotonic() >= child.deadline:
            _end(child)
            yield _outcome(child, "timed out", detail=f"no answer within {child.limit_seconds:g} s")


def _receive(child: _Child, on_progress: Callable[[int, str], None] | None) -> Outcome | None:
    try:
        message = msgspec.msgpack.decode(child.connection.recv_bytes(), type=_Message)
    except (EOFError, ConnectionResetError):
        return _outcome(child, "crashed", detail=_end(child))
    if message.kind == "progress":
        child.reported, child.deadline = message.text, time.monotonic() + child.limit_seconds
        if on_progress is not None:
            on_progress(child.job, message.text)
        return None
    return _outcome(child, message.kind, message.answer, message.text)


def _outcome(child: _Child, status: Status, answer: bytes = b"", detail: str = "") -> Outcome:
    index, child.job = child.job, -1
    log = os.pread(child.stderr.fileno(), 1 << 20, child.log_start) if not child.stderr.closed else b""
    return Outcome(index, status, answer, detail, log.decode(errors="replace"), child.reported)


def _reusable(child: _Child) -> bool:
    if child.jobs_left > 0 and child.process.poll() is None:
        return True
    _end(child)
    child.stderr.close()
    return False


def _end(child: _Child) -> str:
    """End the child and say how it had ended if it ended by itself."""
    child.connection.close()
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(timeout=0.2)
    if child.process.returncode is None:
        child.process.kill()
    code = child.process.wait()
    if code >= 0:
        return f"the child process ended with exit status {code}"
    with suppress(ValueError):
        return f"the child process was ended by {Signals(-code).name}"
    return f"the child process was ended by signal {-code}"
