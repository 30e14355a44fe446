"""The cache is filled by and by: nothing is compiled twice, and what is known survives an interruption."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from autoshard.compiled.worker import CompileResult
from autoshard.programs import Program
from autoshard.search.planner import search_plans
from bench import fidelity_cache, fidelity_rebuild
from bench.fidelity_cache import Cache
from bench.fidelity_cases import Case, Study
from bench.fidelity_plans import Proposal, export, program_id
from examples import palm

CASE = Case(
    "palm_tiny", "decode", "v5e:2x2", 8, 32, lambda: (*palm.decode_target(palm.TINY, 8, 32), ("cache",))
)


class Compiler:
    """Stands for `compile_all`: answers in order, until it is interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compiled: list[Program] = []
        self.stop_after = 99
        self.status = "ok"

    def __call__(
        self,
        programs: Sequence[Program],
        slice_: str,
        *,
        workers: int,
        time_limit_seconds: float,
        on_result: Callable[[int, CompileResult], None],
    ) -> None:
        for index, program in enumerate(programs):
            if len(self.compiled) == self.stop_after:
                raise KeyboardInterrupt
            self.compiled.append(program)
            on_result(index, CompileResult(status=self.status, hbm_bytes_per_chip=7))  # type: ignore[arg-type]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """Two plans a case, a cache in a folder of its own, and no real compiler."""
    path = tmp_path / "plans.jsonl.xz"
    fake = Compiler(path)
    monkeypatch.setattr(fidelity_rebuild, "compile_all", fake)
    monkeypatch.setattr(fidelity_rebuild, "libtpu_version", lambda: "1.0")
    monkeypatch.setattr(fidelity_rebuild, "proposals", _two_plans)
    return fake


def _two_plans(study: Study) -> list[Proposal]:
    found = search_plans(study.problem, study.limit_bytes, top_k=2).candidates
    assert len(found) == 2
    return [Proposal("search", found[0]), Proposal("hand", found[1], "a rule"), Proposal("random", found[1])]


def _rebuild(compiler: Compiler, *, fresh: bool = False) -> Cache:
    fidelity_rebuild.rebuild((CASE,), fresh=fresh, workers=1, limit_seconds=1.0, path=compiler.path)
    return fidelity_cache.load(compiler.path)


def test_nothing_is_compiled_twice(compiler: Compiler) -> None:
    cache = _rebuild(compiler)
    assert [(plan.origin, plan.rule, plan.libtpu) for plan in cache.of_case(CASE.name)] == [
        ("search", "", "1.0"),
        ("hand", "a rule", "1.0"),
    ]
    assert len(compiler.compiled) == 2
    assert _rebuild(compiler) == cache
    assert _rebuild(compiler, fresh=True) == cache
    assert len(compiler.compiled) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(compiler: Compiler) -> None:
    compiler.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        _rebuild(compiler)
    assert [plan.answer is None for plan in fidelity_cache.load(compiler.path).of_case(CASE.name)] == [
        False,
        True,
    ]
    compiler.stop_after = 99
    assert all(plan.answer for plan in _rebuild(compiler).of_case(CASE.name))
    assert len(compiler.compiled) == 2


def test_a_plan_whose_program_changes_is_compiled_again_in_its_place(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _rebuild(compiler).of_case(CASE.name)
    monkeypatch.setattr(fidelity_rebuild, "program_id", lambda program, slice_name: _other_id(program))
    compiler.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        _rebuild(compiler)
    after = fidelity_cache.load(compiler.path).of_case(CASE.name)
    assert [plan.origin for plan in after] == [plan.origin for plan in before]
    assert not {plan.id for plan in after} & {plan.id for plan in before}
    assert [plan.answer is None for plan in after] == [False, True]


def _other_id(program: Program) -> str:
    return "other " + program_id(program, "v5e:2x2")


def test_another_compiler_is_asked_again(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    _rebuild(compiler)
    monkeypatch.setattr(fidelity_rebuild, "libtpu_version", lambda: "2.0")
    assert {plan.libtpu for plan in _rebuild(compiler).of_case(CASE.name)} == {"2.0"}
    assert len(compiler.compiled) == 4


def test_lost_compiles_are_tried_again_and_refusals_are_not(compiler: Compiler) -> None:
    compiler.status = "timed out"
    _rebuild(compiler)
    compiler.status = "out of memory"
    _rebuild(compiler)
    assert len(compiler.compiled) == 4
    _rebuild(compiler)
    assert len(compiler.compiled) == 4


def test_an_id_is_that_of_the_program() -> None:
    study = Study(CASE)
    first, second = search_plans(study.problem, study.limit_bytes, top_k=2).candidates
    program = export(study, first)
    assert program_id(program, "v5e:2x2") == program_id(export(study, first), "v5e:2x2")
    others = (
        program_id(export(study, second), "v5e:2x2"),
        program_id(program, "v5e:1x4"),
        program_id(msgspec.structs.replace(program, donated=()), "v5e:2x2"),
    )
    assert program_id(program, "v5e:2x2") not in others
