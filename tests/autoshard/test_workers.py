import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from autoshard.workers import Outcome, run_jobs

CHILD = """
import os, sys, time
from autoshard.workers import serve

def handle(request, report):
    action, value = request
    if action == "abort":
        print("cannot go on", file=sys.stderr, flush=True)
        os.abort()
    if action == "raise":
        raise ValueError("bad value " + str(value))
    if action == "sleep":
        report(f"asleep in {os.getpid()}")
        time.sleep(value)
    if action == "steps":
        for i in range(4):
            report(f"step {i}")
            time.sleep(value)
    if action == "grow":
        report(f"grows in {os.getpid()}")
        held = bytearray(b"x" * value)
        time.sleep(600)
    if action == "environment":
        return os.environ.get(value)
    print("noise that must not reach the terminal")
    return [os.getpid(), value]

serve(handle, tuple[str, object])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "child_of_test.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "child_of_test"


def run(module: str, *jobs: tuple[str, object], workers: int = 1, limit: float = 30.0) -> list[Outcome]:
    outcomes = list(run_jobs(jobs, module=module, workers=workers, time_limit_seconds=limit))
    return sorted(outcomes, key=lambda outcome: outcome.index)


def test_one_child_answers_many_jobs(module: str, capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = run(module, ("echo", 1), ("echo", "two"), ("echo", None))
    answers = [msgspec.msgpack.decode(outcome.answer) for outcome in outcomes]
    assert [answer[1] for answer in answers] == [1, "two", None]
    assert len({answer[0] for answer in answers}) == 1
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert capfd.readouterr() == ("", "")
    assert "noise" in outcomes[2].log


def test_a_child_is_replaced_after_forty_jobs(module: str) -> None:
    outcomes = run(module, *[("echo", i) for i in range(41)])
    pids = [msgspec.msgpack.decode(outcome.answer)[0] for outcome in outcomes]
    assert len(set(pids[:40])) == 1
    assert pids[40] != pids[0]


def test_jobs_run_beside_each_other(module: str) -> None:
    outcomes = run_jobs([("sleep", 600), ("echo", 1)], module=module, workers=2, time_limit_seconds=60)
    assert next(outcomes).index == 1  # while the first is at work
    outcomes.close()


def test_a_crash_costs_one_job_and_is_named(module: str) -> None:
    before, crashed, after = run(module, ("echo", 1), ("abort", 0), ("echo", 2))
    assert (before.status, crashed.status, after.status) == ("ok", "crashed", "ok")
    assert "SIGABRT" in crashed.detail
    assert "cannot go on" in crashed.log
    first, second = (msgspec.msgpack.decode(outcome.answer)[0] for outcome in (before, after))
    assert first != second


def test_an_exception_costs_one_job_and_keeps_the_child(module: str) -> None:
    before, failed, after = run(module, ("echo", 1), ("raise", 7), ("echo", 2))
    assert (failed.status, failed.detail) == ("failed", "ValueError: bad value 7")
    assert msgspec.msgpack.decode(before.answer)[0] == msgspec.msgpack.decode(after.answer)[0]


def test_a_job_over_its_time_is_ended(module: str) -> None:
    late, after = run(module, ("sleep", 600), ("echo", 2), limit=2.0)
    assert late.status == "timed out"
    assert late.reported.startswith("asleep")
    assert "2 s" in late.detail
    assert after.status == "ok"


def test_progress_starts_the_time_limit_anew(module: str) -> None:
    seen: list[tuple[int, str]] = []
    (outcome,) = run_jobs(
        [("steps", 0.7)],
        module=module,
        workers=1,
        time_limit_seconds=2.0,  # less than the 2.8 s of all steps
        on_progress=lambda index, text: seen.append((index, text)),
    )
    assert outcome.status == "ok"
    assert seen == [(0, f"step {i}") for i in range(4)]


def test_a_killed_child_costs_its_job_and_is_named(module: str) -> None:
    def kill(index: int, text: str) -> None:
        os.kill(int(text.removeprefix("asleep in ")), signal.SIGKILL)

    killed, after = sorted(
        run_jobs(
            [("sleep", 600), ("echo", 2)],
            module=module,
            workers=1,
            time_limit_seconds=60,
            on_progress=kill,
        ),
        key=lambda outcome: outcome.index,
    )
    assert (killed.status, after.status) == ("crashed", "ok")
    assert killed.detail == "the child process was ended by SIGKILL"


def test_the_largest_child_is_ended_before_the_host_is_out_of_memory(module: str) -> None:
    pids: list[int] = []
    outcomes = run_jobs(
        [("echo", 1), ("grow", 2**29), ("echo", 2)],
        module=module,
        workers=2,
        time_limit_seconds=60,
        memory_limit_bytes=2**28,  # both children without the grown job take less
        on_progress=lambda index, text: pids.append(int(text.removeprefix("grows in "))),
    )
    small, grown, after = sorted(outcomes, key=lambda outcome: outcome.index)
    assert (small.status, grown.status, after.status) == ("ok", "crashed", "ok")
    assert "of this host's memory" in grown.detail
    assert "256 MiB is what all may hold together" in grown.detail
    assert len(pids) == 1
    assert not _alive(pids[0])


def test_a_module_that_does_not_start_is_a_crash_with_its_words(module: str) -> None:
    (outcome,) = run("no_such_child_module", ("echo", 1))
    assert outcome.status == "crashed"
    assert "no_such_child_module" in outcome.log


def test_children_get_their_environment(module: str) -> None:
    (outcome,) = run_jobs(
        [("environment", "FLAVOUR")],
        module=module,
        workers=1,
        time_limit_seconds=30,
        environment={"FLAVOUR": "mint"},
    )
    assert msgspec.msgpack.decode(outcome.answer) == "mint"
    assert "FLAVOUR" not in os.environ


def test_an_interrupt_ends_the_child_at_work_and_keeps_what_is_done(module: str) -> None:
    kept: list[int] = []
    pids: list[int] = []

    def interrupt(index: int, text: str) -> None:
        pids.append(int(text.removeprefix("asleep in ")))
        raise KeyboardInterrupt

    def consume() -> None:
        for outcome in run_jobs(
            [("echo", 1), ("sleep", 600), ("echo", 2)],
            module=module,
            workers=1,
            time_limit_seconds=900,
            on_progress=interrupt,
        ):
            kept.append(outcome.index)

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert kept == [0]
    assert len(pids) == 1
    assert not _alive(pids[0])


def _alive(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True
