"""The fidelity bench's driver: which sections run, what is printed when one fails or is interrupted."""

import os
import sys
from types import ModuleType

import pytest

from bench import fidelity
from bench.fidelity import SECTIONS, Found, Section
from bench.fidelity_verdicts import Verdict

FIRST = Section((1,), "fidelity_test_first", "the first", True)
SECOND = Section((2,), "fidelity_test_second", "the second", False)
MET, MISSED = Verdict("tau", "0.90", "0.85", True), Verdict("error", "20%", "15%", False)


def _module(
    monkeypatch: pytest.MonkeyPatch, section: Section, *verdicts: Verdict, stop: bool = False
) -> None:
    def run(say: object) -> tuple[Verdict, ...]:
        if stop:
            raise KeyboardInterrupt
        return verdicts

    module = ModuleType(f"bench.{section.module}")
    module.run = run  # type: ignore[attr-defined]  # a module made up for the test
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_every_section_of_the_claim_is_there_once() -> None:
    assert sorted(number for section in SECTIONS for number in section.numbers) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_either_number_of_a_module_chooses_it() -> None:
    assert fidelity.chosen([5], quick=False) == fidelity.chosen([4, 5], quick=False)
    assert [section.label for section in fidelity.chosen([5, 1], quick=False)] == ["1", "4, 5"]


def test_no_numbers_choose_all_and_quick_leaves_out_what_takes_minutes() -> None:
    assert fidelity.chosen((), quick=False) == SECTIONS
    numbers = {number for section in fidelity.chosen((), quick=True) for number in section.numbers}
    assert numbers == {1, 3, 4, 5}
    assert fidelity.chosen([7], quick=True) == ()


@pytest.mark.parametrize("text", ["9", "0", "1,x", "", "1,,2", "-1"])
def test_a_section_that_is_not_there_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fidelity.parse([f"--sections={text}"])
    assert "choose from 1,2,3,4,5,6,7,8" in capsys.readouterr().err


def test_the_page_is_written_after_a_full_run_only() -> None:
    assert fidelity.parse(["--page"]).page
    for partial in ("--quick", "--sections=1"):
        with pytest.raises(SystemExit):
            fidelity.parse(["--page", partial])


def test_a_missing_module_is_named_before_anything_runs() -> None:
    with pytest.raises(SystemExit, match=r"section 2 needs bench/fidelity_test_second\.py"):
        fidelity.require_modules([SECOND])


def test_nothing_to_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fidelity", "--quick", "--sections=7"])
    monkeypatch.setattr(fidelity, "prepare_environment", lambda: None)
    with pytest.raises(SystemExit, match="leaves out all of these"):
        fidelity.main()


def test_verdicts_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    _module(monkeypatch, FIRST, MET, MISSED)
    _module(monkeypatch, SECOND, MET)
    found: Found = []
    fidelity.run_sections([FIRST, SECOND], found, lambda _: None, lambda _: None)
    assert found == [(FIRST, MET), (FIRST, MISSED), (SECOND, MET)]


def test_an_interrupt_leaves_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    _module(monkeypatch, FIRST, MET)
    _module(monkeypatch, SECOND, stop=True)
    found: Found = []
    with pytest.raises(KeyboardInterrupt):
        fidelity.run_sections([FIRST, SECOND], found, lambda _: None, lambda _: None)
    assert found == [(FIRST, MET)]


def test_the_command_prints_what_is_known_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _module(monkeypatch, FIRST, MISSED)
    _module(monkeypatch, SECOND, stop=True)
    monkeypatch.setattr(fidelity, "SECTIONS", (FIRST, SECOND))
    monkeypatch.setattr(fidelity, "require_modules", lambda sections: None)
    monkeypatch.setattr(fidelity, "prepare_environment", lambda: None)
    monkeypatch.setattr(sys, "argv", ["fidelity"])
    with pytest.raises(SystemExit) as stopped:
        fidelity.main()
    assert stopped.value.code == 130
    out = capsys.readouterr().out
    assert "MISSED" in out
    assert out.splitlines()[-1] == "0 of 1 targets met; not finished: 2"


def test_the_summary_counts_and_says_what_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "SECTIONS", (FIRST, SECOND))
    lines = fidelity.summary([(FIRST, MET), (FIRST, MISSED)], [FIRST]).splitlines()
    assert lines[-1] == "1 of 2 targets met; not asked for: 2"
    assert [line.split()[-1] for line in lines[:-1] if line.startswith("1 ")] == ["met", "MISSED"]
    assert fidelity.summary([(FIRST, MET), (SECOND, MET)], [FIRST, SECOND]).endswith("\n2 of 2 targets met")


def test_eight_cpu_devices_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    fidelity.prepare_environment()
    fidelity.prepare_environment()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_force_host_platform_device_count=8"
    assert os.environ["JAX_PLATFORMS"] == "cpu"
