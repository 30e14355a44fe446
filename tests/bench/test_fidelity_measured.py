"""Section 6 runs its two parts and hands on their verdicts."""

import pytest

from bench import fidelity_measured, fidelity_microbench, fidelity_train
from bench.fidelity_verdicts import Verdict


def test_both_parts_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("train", "1", "2", False)
    monkeypatch.setattr(fidelity_train, "run", lambda say: (verdict,))
    lines: list[str] = []
    found = fidelity_measured.run(lines.append)
    assert found[-1] is verdict
    assert [each.name for each in found[:-1]] == [
        "collectives, mean |ln ratio|",
        "matmuls and copies, mean |ln ratio|",
    ]
    text = "\n".join(lines)
    assert "left out" in text and "Kendall tau" in text


def test_a_mean_error_beyond_the_noise_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity_microbench, "log_error", lambda bench: 0.5)
    assert not any(verdict.met for verdict in fidelity_microbench.run(lambda text: None))
    monkeypatch.setattr(fidelity_microbench, "log_error", lambda bench: -0.1)
    assert all(verdict.met for verdict in fidelity_microbench.run(lambda text: None))
