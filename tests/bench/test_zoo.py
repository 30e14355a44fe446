"""The zoo's driver: results are kept as they come, nothing is run twice, and a death costs one stage."""

import os
import sys
from pathlib import Path

import pytest

from bench import zoo
from bench.zoo_results import Failure, Fared, Key, Numerics, Record, Tracing, append, forget, load
from bench.zoo_table import table, totals

DENSE, SPARSE = "equimo.dense.forward", "equimo.sparse.train"


def _tracing(case: str = DENSE, **changes: float) -> Tracing:
    facts = {"equations": 10, "einsums": 2, "make_jaxpr_seconds": 1.0, "trace_seconds": 2.0}
    facts |= {"graph_seconds": 1.0, "peak_bytes": 2.0**30, "flops_fraction": 1.0, "bytes_fraction": 0.99}
    facts |= {"arguments": 3, "argument_bytes": 4.0, **changes}
    return Tracing(case=case, seconds=5.0, **facts)  # type: ignore[arg-type]  # numbers of two types


def _numerics(max_error: float | None, case: str = DENSE) -> Numerics:
    agrees = max_error is not None and max_error < 1e-3
    fared = Fared(plan="chosen", agrees=agrees, max_error=max_error, worst_path="", detail="why")
    return Numerics(case=case, seconds=1.0, tolerance=1e-3, plans=(fared,))


def _failure(stage: str, error: str, case: str = DENSE) -> Failure:
    return Failure(case=case, seconds=0.0, of=stage, error=error)


def _by_key(*records: tuple[str, Record]) -> dict[Key, Record]:
    return {(record.case, stage): record for stage, record in records}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_records_come_back_and_the_last_of_a_stage_counts(file: Path) -> None:
    kept = _by_key(("trace", _tracing()), ("numerics", _numerics(None)), ("plan", _failure("plan", "x")))
    for record in (_failure("trace", "first"), *kept.values()):
        append(file, record)
    assert load(file) == kept
    forget(file, [(DENSE, "trace"), (DENSE, "compile")])
    assert set(load(file)) == {(DENSE, "numerics"), (DENSE, "plan")}
    assert load(file.with_name("none")) == {}


def test_promises_hold_at_their_limits() -> None:
    assert _tracing(trace_seconds=5.0).is_quick  # 6 s are 3 times 1 s and 3 s
    assert not _tracing(trace_seconds=5.1).is_quick
    assert _tracing(peak_bytes=6e9).is_quick
    assert not _tracing(peak_bytes=6.1e9).is_quick
    assert _tracing(flops_fraction=0.99, bytes_fraction=0.98).is_covered
    assert not _tracing(flops_fraction=0.98).is_covered
    assert not _tracing(bytes_fraction=0.97).is_covered


def test_the_table_says_what_is_wrong_and_counts_what_is_not() -> None:
    records = _by_key(
        ("trace", _tracing()),
        ("plan", _failure("plan", "too large")),
        ("numerics", _numerics(2e-7)),
        ("trace", _tracing(SPARSE, bytes_fraction=0.5)),
        ("numerics", _numerics(None, SPARSE)),
    )
    lines = list(table(records, [DENSE, SPARSE]))
    assert lines[1].split()[:9] == [DENSE, "10", "2", "1.0", "3.0", "3.0", "1.0", "100.0%", "99.0%"]
    assert "FAILED" in lines[1]
    assert lines[1].endswith("ok 2e-07")
    assert lines[2].endswith("WRONG inf")
    assert f"{DENSE}: plan failed: too large" in lines
    assert f"{SPARSE}: chosen: why" in lines
    expected = "2 cases: 2 traced in time and memory, 1 covered, 0 planned, 0 compiled, 1 numerics ok"
    assert totals(records, [DENSE, SPARSE]) == lines[-1] == expected


STAND_IN = """#!{python}
import os, sys
from pathlib import Path
from bench.zoo_results import Failure, append
if "--list" in sys.argv:
    print("noise", "{dense}", "{sparse}", sep=chr(10))
    sys.exit()
case, results, stages = sys.argv[3], Path(sys.argv[5]), sys.argv[7].split(",")
for stage in stages:
    if stage == "compile":
        os.abort()
    append(results, Failure(case=case, seconds=1.0, of=stage, error="with " + str(len(stages))))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """An interpreter that dies of every compile."""
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable, dense=DENSE, sparse=SPARSE))
    path.chmod(0o755)
    return path


def test_a_case_goes_on_after_a_death_and_is_not_run_twice(
    file: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*names: str) -> None:
        arguments = ["zoo", *names, "--python", f"equimo={stand_in}", "--results", str(file)]
        monkeypatch.setattr(sys, "argv", arguments)
        assert zoo.main() == 0

    run(DENSE)
    errors = {stage: record.error for (_, stage), record in load(file).items() if isinstance(record, Failure)}
    assert errors.pop("compile").endswith("status -6")
    assert errors == {"trace": "with 4", "plan": "with 4", "numerics": "with 1"}
    before = file.read_bytes()
    run(DENSE)
    assert file.read_bytes() == before
    run("equimo")
    assert {case for case, _ in load(file)} == {DENSE, SPARSE}
    run(SPARSE, "--stages", "trace", "--again", "failed")
    again = load(file)[SPARSE, "trace"]
    assert isinstance(again, Failure)
    assert again.error == "with 1"
    assert capfd.readouterr().out.splitlines()[-1].startswith("1 cases: 0 traced")


def test_the_interpreter_is_that_of_the_library_or_of_its_python(tmp_path: Path) -> None:
    assert zoo.python_in(tmp_path, "equimo") is None
    for folder in ("python3.11", "equimo"):
        python = tmp_path / folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        os.symlink(sys.executable, python)
        assert zoo.python_in(tmp_path, "equimo") == python
    assert zoo.python_in(tmp_path, "hf") == tmp_path / "python3.11" / "bin" / "python"
    assert zoo.python_in(tmp_path, "maxtext") is None
