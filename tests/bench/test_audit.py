"""The audit bench: its two figures, and that a run goes on where it stopped."""

from pathlib import Path

import pytest

from autoshard.compiled.worker import CompileResult
from autoshard.cost.slices import parse_slice
from bench import audit
from bench.audit_cases import CASES
from bench.audit_results import Audited, Difference, append, read, report


def record(rank: int, predicted: float, compiled: float, attributed: float | None = None) -> Audited:
    return Audited(
        case="palm.decode_62b v5e:4x4",
        rank=rank,
        status="ok",
        predicted_bytes=predicted,
        compiled_bytes=compiled,
        attributed_bytes=compiled if attributed is None else attributed,
    )


def test_the_cases_are_both_examples_and_phases_on_four_generations_of_8_to_64_chips() -> None:
    seen = set()
    for case in CASES:
        example, _, function = case.name.split()[0].partition(".")
        slice_ = parse_slice(case.slice)
        assert 8 <= slice_.n_chips <= 64
        seen.add((example, function.partition("_")[0], slice_.chip.name))
    wanted = {
        (e, p, c)
        for e in ("palm", "llama")
        for p in ("prefill", "decode")
        for c in ("v4", "v5e", "v5p", "v6e")
    }
    assert seen == wanted


def test_the_figures_are_over_bytes_and_plans() -> None:
    text = report([record(0, 100, 100), record(1, 80, 100, attributed=90), record(2, 95, 100)])
    attributed, ratio = text.splitlines()[-2:]
    assert "96.7% of all bytes, 90.0% in the worst plan (target: 95.0%)" in attributed  # 290 of 300
    assert "by 5.0% in the median of 3 plans" in ratio
    assert ratio.endswith("2 are within that")


def test_what_was_not_compiled_is_listed_and_does_not_count() -> None:
    lost = Audited(case="palm.decode_62b v5e:4x4", rank=1, status="out of memory")
    text = report([record(0, 100, 100), lost])
    assert "out of memory" in text
    assert "median of 1 plans" in text
    assert "1 plans were compiled, 1 do not fit" in text
    assert report([lost]).endswith("nothing was compiled; 1 plans do not fit")


def test_differences_are_listed_with_their_causes() -> None:
    found = Difference(
        verdict="unexpected",
        predicted="",
        compiled="all-gather(x)",
        op="mul",
        source="palm.py:125",
        predicted_bytes=0,
        compiled_bytes=1024,
        cause="done again instead of kept",
    )
    each = record(0, 100, 100)
    listed = Audited(case=each.case, rank=0, status="ok", compiled_bytes=2048, differences=(found,))
    (line,) = (line for line in report([listed]).splitlines() if "done again" in line)
    assert "palm.py:125" in line
    assert "0 B -> 1.00 KiB" in line


def test_a_program_without_collectives_is_as_predicted() -> None:
    assert record(0, 0, 0).ratio == 1.0
    assert record(0, 5, 0).ratio == float("inf")


def test_records_are_kept_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    path = tmp_path / ".audit" / "results.jsonl"
    append(path, record(0, 1, 1))
    append(path, record(1, 1, 1))
    path.write_bytes(path.read_bytes() + b'{"case": "pa')
    assert [each.rank for each in read(path)] == [0, 1]
    assert (path.parent / ".gitignore").read_text() == "*\n"
    assert read(tmp_path / "nothing.jsonl") == []


def test_a_lost_compile_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What crashed is tried again, and a run with such plans passes no target."""
    crashed = CompileResult(status="crashed", detail="the child process was ended by SIGKILL")
    monkeypatch.setattr(audit, "compile_all", lambda *_, **__: [crashed])
    path = tmp_path / "results.jsonl"
    for rank in range(2):
        append(path, record(rank, 100, 100))
    assert audit.main(["palm.decode_62b", "v5e", "--results", str(path)]) == 1
    printed = capsys.readouterr()
    assert "incomplete: 1 compiles were lost" in printed.out
    assert "ended by SIGKILL" in printed.err
    assert [each.rank for each in read(path)] == [0, 1]


def test_cases_without_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    append(path, record(0, 100, 100))
    assert audit.main(["palm.decode_62b", "--report", "--results", str(path)]) == 1
    assert "cases without results: palm.decode_62b v6e:4x8" in capsys.readouterr().out


def test_a_case_that_is_known_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "compile_all", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(audit, "load_target", lambda *_: pytest.fail("loaded"))
    path = tmp_path / "results.jsonl"
    for rank in range(3):
        append(path, record(rank, 100, 100))
    assert audit.main(["palm.decode_62b", "v5e", "--results", str(path)]) == 0
