"""Tier 2 without the compiler: children that answer at once, in the place of those that compile."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autoshard.compiled import worker as compile_worker
from autoshard.compiled.answer import CompilerAnswer, CompileRequest
from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.programs import Program
from autoshard.workers import Outcome

SLICE = parse_slice("v5e:2x4")
TEXT = (
    "HloModule m, num_partitions=8\n\nENTRY %main (p: bf16[8]) -> bf16[8] {\n"
    "  %p = bf16[8]{0} parameter(0)\n  ROOT %f = bf16[8]{0} fusion(%p), kind=kLoop, calls=%c, "
    'backend_config={"window_config":{"estimated_cycles":"3000"}}\n}\n'
)
SOUND = CompilerAnswer(
    status="ok", hbm_bytes_per_chip=100, argument_bytes=90, argument_specs=("x",), text=TEXT
)
OUT_OF_MEMORY = "required for HLO temporaries (20.00G) exceeds available HBM (15.75G)"
WARNING = "W spmd_partitioner.cc:675] [SPMD] Involuntary full rematerialization. ..."


def program(name: str) -> Program:
    return Program(
        serialised=name.encode(),
        donated=(),
        mesh_axes=native_mesh(SLICE).axes,
        platform="tpu",
        argument_paths=("0",),
        result_paths=("",),
    )


def outcome_of(index: int, name: str) -> Outcome:
    if name == "large":
        return Outcome(index, "failed", b"", OUT_OF_MEMORY, WARNING, "compiling")
    if name == "crash":
        return Outcome(index, "crashed", b"", "the child process was ended by SIGSEGV", "", "compiling")
    answer = SOUND if name != "unreadable" else msgspec.structs.replace(SOUND, text="no module")
    return Outcome(index, "ok", msgspec.msgpack.encode(answer), "", WARNING * 2, "compiling")


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the programs that reached a child, in their order; the cache is empty at first."""
    names: list[str] = []

    def run_jobs(requests: Sequence[CompileRequest], **options: Any) -> Iterator[Outcome]:
        for index, request in enumerate(requests):
            names.append(request.program.serialised.decode())
            if options["on_start"] is not None:
                options["on_start"](index)
            yield outcome_of(index, names[-1])

    monkeypatch.setenv("AUTOSHARD_CACHE", str(tmp_path))
    monkeypatch.setattr(compile_worker, "run_jobs", run_jobs)
    monkeypatch.setattr(compile_worker, "compiler_skip_reason", lambda slice_: None)
    return names


def run(*names: str, slice_: Slice = SLICE, **options: Any) -> list[CompileResult]:
    return compile_all([program(name) for name in names], slice_, **options)


def test_what_was_compiled_before_is_not_compiled_again(compiled: list[str]) -> None:
    first = run("a", "large")
    started: list[int] = []
    known: list[int] = []
    results: list[int] = []
    again = run(
        "a",
        "b",
        "large",
        on_start=started.append,
        on_known=known.append,
        on_result=lambda i, _: results.append(i),
    )
    assert compiled == ["a", "large", "b"]
    assert (known, started, results) == ([0, 2], [1], [0, 2, 1])
    assert [again[0], again[2]] == first
    assert [(each.status, each.hbm_bytes_per_chip) for each in again] == [
        ("ok", 100),
        ("ok", 100),
        ("out of memory", 20 * 2**30),
    ]
    assert [each.rematerialisations for each in again] == [2, 2, 1]


def test_another_chip_number_gives_another_time_from_the_same_answer(compiled: list[str]) -> None:
    (before,) = run("a")
    slow = SLICE.chip.with_values("measured", "this test", clock_hz=SLICE.chip.clock_hz / 2)
    (after,) = run("a", slice_=Slice(slow, SLICE.topology))
    assert compiled == ["a"]
    assert before.seconds_estimated == 3000 / SLICE.chip.clock_hz
    assert after.seconds_estimated == 2 * before.seconds_estimated


def test_only_facts_are_kept(compiled: list[str]) -> None:
    statuses = [[each.status for each in run("crash")] for _ in range(2)]
    assert statuses == [["crashed"], ["crashed"]]
    assert compiled == ["crash", "crash"]


def test_a_cache_that_is_off_compiles_again(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSHARD_CACHE", "off")
    assert run("a") == run("a")
    assert compiled == ["a", "a"]


def test_a_damaged_entry_is_told_on_stderr_and_compiled_anew(
    compiled: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = run("a")
    (entry,) = (tmp_path / "compile").iterdir()
    entry.write_bytes(entry.read_bytes()[:-20])
    assert run("a") == [first]
    assert run("a") == [first]
    assert compiled == ["a", "a"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("damaged entry") == output.err.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_told_once_and_the_run_goes_on(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOSHARD_CACHE", str(tmp_path / "file"))
    notes: list[str] = []
    assert [each.status for each in run("a", "b", note=notes.append)] == ["ok", "ok"]
    assert len(notes) == 1


def test_the_schedule_is_in_the_result_where_it_is_asked_for(compiled: list[str]) -> None:
    assert [each.text for keep in (True, True, False) for each in run("a", keep_text=keep)] == [
        TEXT,
        TEXT,
        None,
    ]
    assert compiled == ["a"]


def test_a_schedule_that_cannot_be_read_costs_its_candidate(compiled: list[str]) -> None:
    unreadable, sound = run("unreadable", "a")
    assert (unreadable.status, sound.status) == ("failed", "ok")
    assert "the schedule cannot be read: CompileError" in unreadable.detail
    assert unreadable.seconds_estimated is None
