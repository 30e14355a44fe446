"""The search bench: what it times, and its verdicts, on a tiny model and on made-up times."""

import pytest

from bench import search
from bench.search import Case, Times
from examples import llama


def _times(core_seconds: float) -> Times:
    return Times(1.0, core_seconds, 2.0, ops=10, variables=5)


def test_a_case_is_timed_part_by_part() -> None:
    case = Case("tiny", "v5e:2x2", search._decode(llama, llama.TINY, 8, 16))
    found = search.measure(case, 1)
    assert found.ops > found.variables > 10
    assert found.all_seconds >= found.trace_seconds + found.core_seconds > 0


def test_growth_is_the_last_core_over_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = {"small": 0.5, "large": 0.7}
    monkeypatch.setattr(search, "measure", lambda case, runs: _times(cores[case.name]))
    cases = [Case(name, "v5e:2x2", search._decode(llama, llama.TINY, 8, 16)) for name in cores]
    verdict = search.run_growth("depth", cases, 1.3, 1)
    assert (verdict.figure, verdict.met) == ("1.40", False)
    assert search.run_growth("depth", cases, 1.5, 1).met
    large = capsys.readouterr().out.splitlines()[4]
    assert large.split() == ["large", "10", "5", "1.00", "0.70", "2.00", "#" * 40]
