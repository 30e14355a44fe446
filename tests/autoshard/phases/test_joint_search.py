"""The search over meshes: what is interrupted, and what fits nowhere."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoshard.cost.torus import TorusMesh
from autoshard.errors import InfeasibleError
from autoshard.phases import joint_search, planning
from autoshard.phases.joint_search import JointSearch, Links
from autoshard.phases.phase import Phase
from autoshard.tune_result import TuneResult
from autoshard.tune_session import Session
from autoshard.tuning import run_session
from tests.autoshard.phases.test_held import session
from tests.autoshard.phases.test_tune_phases import planned

LINKS = Links(("w",), ())


def phases(*pins: tuple[str, ...], mesh: str = "native") -> tuple[Phase, ...]:
    made = [session(own) for own in pins]
    return tuple(
        Phase(f"phase{number}", replace(each, options=replace(each.options, mesh=mesh)), 1.0)
        for number, each in enumerate(made)
    )


def test_pins_of_phases_that_exclude_each_other_fit_nowhere() -> None:
    expected = "`phase0` and `phase1` each fit v5e:4x4 alone, but no mesh that was tried has plans of all"
    with pytest.raises(InfeasibleError, match=re.escape(expected)):
        JointSearch(phases(("w=;x,y",), ("w=x,y;",)), LINKS).run()


def test_without_anything_in_common_they_are_planned_side_by_side() -> None:
    found = JointSearch(phases(("w=;x,y",), ("w=x,y;",)), Links((), ())).run()
    assert not found.interrupted
    assert found.solution.seconds == pytest.approx(sum(found.solution.phase_seconds))


def test_the_best_of_several_meshes_is_taken_and_bounded_by_all() -> None:
    search = JointSearch(phases((), (), mesh="auto"), LINKS)
    tried: list[tuple[float, float]] = []
    score = search.score

    def listening(mesh: TorusMesh) -> tuple[float, float] | None:
        found = score(mesh)
        tried.extend([found] if found else [])
        return found

    search.score = listening  # type: ignore[method-assign]
    found = search.run()
    assert len(tried) > 1
    assert found.solution.seconds == min(seconds for seconds, _ in tried)
    assert found.bound_seconds == min(bound for _, bound in tried)


def test_after_ctrl_c_the_best_so_far_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(meshes: Sequence[TorusMesh], score: Callable[[TorusMesh, float], Any], **_: Any) -> None:
        score(meshes[1], float("inf"))
        raise KeyboardInterrupt

    monkeypatch.setattr(joint_search, "best_meshes", once)
    search = JointSearch(phases((), (), mesh="auto"), LINKS)
    found = search.run()
    assert found.interrupted
    assert found.mesh == search.session.meshes[1]


def test_ctrl_c_before_anything_is_known_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joint_search, "best_meshes", at_once)
    with pytest.raises(KeyboardInterrupt):
        JointSearch(phases((), (), mesh="auto"), LINKS).run()


def test_after_ctrl_c_in_one_phase_the_others_are_planned_by_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def interrupted(own: Session, started: float) -> TuneResult:
        asked.append(own.options.refine)
        cheap = replace(own, options=replace(own.options, refine="none", compile_options="default"))
        return replace(run_session(cheap, started), interrupted=len(asked) == 1)

    monkeypatch.setattr(planning, "run_session", interrupted)
    found = planned(refine="compile", mesh="native")
    assert asked == ["compile", "none"]
    assert found.interrupted


def test_a_phase_that_the_compiler_finds_no_room_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(own: Session, started: float) -> TuneResult:
        raise InfeasibleError(f"no room for {own.target.name} at {started > 0}")

    monkeypatch.setattr(planning, "run_session", no_room)
    with pytest.raises(InfeasibleError, match="`prefill` does not fit with the layouts that the phases"):
        planned(mesh="native")
