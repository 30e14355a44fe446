"""Jobs in child processes: a crash, a time-out or an error costs one job, never the run.

Compilers and device runtimes can abort their process, and some of their settings must stand before JAX
starts, so candidates are compiled and timed in children. A child is a module run as `python -m MODULE FD`;
it calls `serve` and answers requests until its pipe closes, so one import of JAX serves many jobs. The
parent is a single thread that waits for whichever child answers first. Requests and answers are msgpack
messages over a socket pair. The children may be given a limit of memory: a host that runs out of it ends
processes of its own choice, so before that the largest child goes.

Parent::

    for outcome in run_jobs(requests, module="package.child", workers=2, time_limit_seconds=120): ...

Child::

    if __name__ == "__main__":
        serve(handle, Request)          # handle(request, report) -> answer, any msgspec-encodable value
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar

import msgspec

from autoshard.child_process import Child, spawn
from autoshard.units import format_bytes

Status = Literal["ok", "failed", "crashed", "timed out"]
_Request = TypeVar("_Request")

_MESSAGE_CHARACTERS = 2000
_MEMORY_POLL_SECONDS = 0.5


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


def run_jobs(
    requests: Sequence[Any],
    *,
    module: str,
    workers: int,
    time_limit_seconds: float,
    memory_limit_bytes: float | None = None,
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
        memory_limit_bytes: what all children together may hold; over it the largest is ended, and its job
            has crashed. None, or a system that does not tell (not Linux): no limit.
        environment: variables set in the children beside those of this process.
        on_start: called with a job's index when it is sent to a child.
        on_progress: called with a job's index and the text that its handler reported.
    """
    waiting = deque(range(len(requests)))
    children: list[Child] = []
    try:
        while waiting or any(child.job >= 0 for child in children):
            children = _needed(children, bool(waiting))
            while waiting and (child := _free_child(children, workers, module, environment)) is not None:
                job = waiting.popleft()
                if on_start is not None:
                    on_start(job)
                child.send(job, msgspec.msgpack.encode(requests[job]), time_limit_seconds)
            busy = [child for child in children if child.job >= 0]
            yield from _finished(busy, on_progress, memory_limit_bytes)
    finally:
        for child in children:
            child.close()


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


def _needed(children: Sequence[Child], jobs_wait: bool) -> list[Child]:
    """Return the children at work and, while jobs wait, those that can take one; end the others."""
    needed = []
    for child in children:
        if child.job >= 0 or (jobs_wait and child.reusable):
            needed.append(child)
        else:
            child.close()
    return needed


def _free_child(
    children: list[Child], workers: int, module: str, environment: Mapping[str, str] | None
) -> Child | None:
    for child in children:
        if child.job < 0:
            return child
    if len(children) >= workers:
        return None
    children.append(spawn(module, environment or {}))
    return children[-1]


def _finished(
    busy: Sequence[Child], on_progress: Callable[[int, str], None] | None, memory_limit_bytes: float | None
) -> Iterator[Outcome]:
    patience = max(0.0, min(child.deadline for child in busy) - time.monotonic())
    if memory_limit_bytes is not None:
        patience = min(patience, _MEMORY_POLL_SECONDS)
    ready = {id(connection) for connection in wait([child.connection for child in busy], timeout=patience)}
    silent = [child for child in busy if id(child.connection) not in ready]
    for child in busy:
        if id(child.connection) in ready:
            outcome = _receive(child, on_progress)
            if outcome is not None:
                yield outcome
    for child in silent:
        if time.monotonic() >= child.deadline and not child.connection.poll():
            child.end()
            yield _outcome(child, "timed out", detail=f"no answer within {child.limit_seconds:g} s")
    if memory_limit_bytes is not None:
        yield from _outgrown([child for child in silent if child.job >= 0], memory_limit_bytes)


def _outgrown(working: Sequence[Child], memory_limit_bytes: float) -> Iterator[Outcome]:
    """End the largest child if all together are over the limit."""
    held = [child.held_bytes() for child in working]
    if sum(held) <= memory_limit_bytes:
        return
    largest = max(range(len(held)), key=held.__getitem__)
    working[largest].end()
    beside = f" beside {len(held) - 1} more" if len(held) > 1 else ""
    detail = (
        f"ended because it held {format_bytes(held[largest])} of this host's memory{beside}, and "
        f"{format_bytes(memory_limit_bytes)} is what all may hold together"
    )
    yield _outcome(working[largest], "crashed", detail=detail)


def _receive(child: Child, on_progress: Callable[[int, str], None] | None) -> Outcome | None:
    try:
        message = msgspec.msgpack.decode(child.connection.recv_bytes(), type=_Message)
    except (EOFError, ConnectionResetError):
        return _outcome(child, "crashed", detail=child.end())
    if message.kind == "progress":
        child.reported = message.text
        child.extend()
        if on_progress is not None:
            on_progress(child.job, message.text)
        return None
    return _outcome(child, message.kind, message.answer, message.text)


def _outcome(child: Child, status: Status, answer: bytes = b"", detail: str = "") -> Outcome:
    index, child.job = child.job, -1
    return Outcome(index, status, answer, detail, child.log(), child.reported)
