"""Tier 2 against the published times: what is compared, what counts as compiled, and that nothing is lost."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from autoshard.compiled.hlo import Instruction
from autoshard.compiled.timeline import CompiledCollective, Event, Timeline
from autoshard.compiled.worker import CompileResult
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.mesh_study import meshes_to_try
from autoshard.programs import Program as Exported
from bench import estimated_programs, estimated_rebuild, fidelity_estimated
from bench.estimated_programs import Lines, Planned, ProgramLine, distinct_programs, loops_of, name_of
from bench.fidelity_cache import Answer, CacheError
from bench.fidelity_estimated import compare_point, error_verdict, families_table, points_table
from bench.fixed_plan import Seconds
from bench.published_points import Point, Program, config_of, programs_of, read_points
from examples import palm

POINTS = read_points()
MESH: TorusMesh = meshes_to_try(parse_slice("v4:2x2x1"), "native")[0]


def points(source: str, **wanted: object) -> list[Point]:
    return [
        point
        for point in POINTS
        if point.source == source and all(getattr(point, name) == value for name, value in wanted.items())
    ]


# ---- which program a point is of


def test_one_program_is_compiled_once_for_all_its_points() -> None:
    # 512 bf16 decode sequences on 64 chips stand in table 2, figure 1 and figure 6.
    same = [
        *points("table 2", phase="decode", weights="bfloat16"),
        *points("figure 1 left", batch=512, weights="bfloat16"),
        *points("figure 6", chips=64, layout="WS 2D"),
    ]
    assert len({name_of(point, *programs_of(point)) for point in same}) == 1
    assert [point.covers for point in same] == ["step", "layers", "layers"]


def test_other_programs_have_other_names() -> None:
    names = {
        (point.model, point.weights, point.phase, point.chips, point.batch, point.length, point.layout, n)
        for point in POINTS
        for n, _ in enumerate(programs_of(point))
    }
    assert len(distinct_programs(POINTS)) == len(names)


def test_those_of_the_fewest_tokens_come_first() -> None:
    names = list(distinct_programs(POINTS))
    few = names.index("MT-NLG 530B bfloat16 decode of total v4:4x4x4 4x28 WS 2D")
    more = names.index("MT-NLG 530B bfloat16 prefill of total v4:4x4x4 4x28 WS 2D")
    most = names.index("PaLM 540B bfloat16 prefill v4:4x4x4 512x2048 WG XYZ")
    assert few < more < most


# ---- what is kept of a schedule


def instruction(name: str, opcode: str) -> Instruction:
    return Instruction(name, opcode, (), (), {}, "", None, "", "", False)


def timeline(seconds: float, *events: Event, collectives: tuple[CompiledCollective, ...] = ()) -> Timeline:
    exposed = sum(each.exposed_seconds * each.trips for each in collectives)
    moved = sum(each.seconds * each.trips for each in collectives)
    return Timeline(seconds, seconds - exposed - 0.25, moved, exposed, 0.25, collectives, events=events)


def test_loops_alone_leave_out_what_stands_before_and_after() -> None:
    gather = CompiledCollective("g", "all-gather", ("x",), True, 8.0, 2, 0.5, 0.25, True, "")
    body = timeline(2.0, collectives=(gather,))
    loop = Event("body", instruction("while.1", "while"), 3.0, 20.0, trips=10, body=body)
    called = Event("body", instruction("call.1", "call"), 23.0, 7.0, body=timeline(7.0))
    before = Event("core", instruction("embed", "fusion"), 0.0, 3.0)
    loops, trips = loops_of(timeline(30.0, before, loop, called))
    assert trips == (10,)
    assert (loops.compute_seconds, loops.filled_seconds, loops.exposed_collective_seconds) == (12.5, 2.5, 5.0)
    assert [each.trips for each in loops.collectives] == [20]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = {"b": line("b", Answer(status="ok", compute=1.5)), "a": line("a", Answer(status="timed out"))}
    path = tmp_path / "lines.jsonl.xz"
    estimated_programs.save(lines, path)
    assert estimated_programs.load(path) == lines
    assert list(estimated_programs.load(path)) == ["a", "b"]
    path.write_bytes(b"something else")
    with pytest.raises(CacheError, match="--rebuild"):
        estimated_programs.load(path)


def test_the_kept_answers_are_of_published_points_and_their_layers() -> None:
    layers = {
        name_of(point, program): config_of(point).layers for point in POINTS for program in programs_of(point)
    }
    kept = estimated_programs.load()
    assert kept
    assert set(kept) <= set(layers)
    assert [
        each.program for each in kept.values() if each.answer.ok and layers[each.program] not in each.trips
    ] == []


# ---- what is compared


def line(
    name: str, answer: Answer, layers: Answer | None = None, plan: str = "p", trips: tuple[int, ...] = (118,)
) -> ProgramLine:
    return ProgramLine(program=name, id="0", plan=plan, libtpu="1", answer=answer, layers=layers, trips=trips)


def planned(name: str, count: int = 1, *, fits: bool = True) -> Planned:
    return Planned(name, count, MESH, "p", Seconds(3.0, 0, 0, 0), Seconds(2.0, 0, 0, 0), fits)


def test_a_step_and_its_layers_are_held_against_what_they_cover() -> None:
    answer, layers = (
        Answer(status="ok", compute=1.0, filled=0.5, exposed=0.25),
        Answer(status="ok", compute=1.0),
    )
    lines = {"a": line("a", answer, layers)}
    (step,), (figure, *_) = points("table 2", batch=64), points("figure 1 left")
    whole = compare_point(step, [planned("a", 64)], lines)
    assert (whole.estimated, whole.predicted, whole.compute) == (64 * 1.75, 64 * 3.0, 64.0)
    part = compare_point(figure, [planned("a")], lines)
    assert (part.estimated, part.predicted) == (1.0, 2.0)


def test_a_prefill_and_its_decode_steps_add_up() -> None:
    (total,) = points("table D.2", phase="total", batch=4)
    lines = {
        "p": line("p", Answer(status="ok", compute=0.5)),
        "d": line("d", Answer(status="ok", compute=0.25)),
    }
    compared = compare_point(total, [planned("p"), planned("d", 8)], lines)
    assert compared.estimated == 2.5
    assert compared.error == pytest.approx(2.5 / 0.289 - 1)
    assert compare_point(total, [planned("p"), planned("d", 8)], {"p": lines["p"]}).gap == "not compiled"


@pytest.mark.parametrize(
    ("known", "gap"),
    [
        ({}, "not compiled"),
        ({"a": line("a", Answer(status="ok"), plan="q")}, "not compiled: another plan was"),
        ({"a": line("a", Answer(status="out of memory"))}, "not compiled: out of memory"),
        ({"a": line("a", Answer(status="ok"), trips=())}, "no loop in the compiled program"),
    ],
)
def test_a_point_that_cannot_be_compared_is_in_no_mean(known: Lines, gap: str) -> None:
    point = points("figure 1 left")[0]
    exact = {"b": line("b", Answer(status="ok"), Answer(status="ok", compute=point.seconds))}
    missing = compare_point(point, [planned("a", fits=False)], known)
    compared = [compare_point(point, [planned("b")], exact), missing]
    assert missing.gap == gap
    table = points_table(compared).splitlines()
    assert table[2].endswith(f"{gap}; too large by the model")
    assert families_table(compared).splitlines()[-1].split() == ["all", "2", "1", "0.0%", "+0.0%"]
    verdict = error_verdict(compared)
    assert (verdict.figure, verdict.met) == ("0.0% over 1 points, 1 not compiled", False)


def test_the_target_is_met_by_all_points_together() -> None:
    point = points("figure 1 left")[0]

    def off(ratio: float) -> fidelity_estimated.Compared:
        answer = Answer(status="ok", compute=ratio * point.seconds)
        return compare_point(point, [planned("a")], {"a": line("a", answer, answer)})

    met = error_verdict([off(0.9), off(1.12)])
    assert (met.figure, met.met) == ("11.0% over 2 points", True)
    assert not error_verdict([off(0.8), off(1.12)]).met
    nothing = error_verdict([compare_point(point, [planned("a")], {})])
    assert (nothing.figure, nothing.met) == ("none of 1 points compiled", False)


# ---- what is compiled


class Compiler:
    """Stands for `compile_all`: one answer after another, until it is interrupted."""

    def __init__(self, path: Path) -> None:
        self.path, self.calls, self.stop_after, self.status = path, 0, 99, "out of memory"

    def __call__(self, programs: Sequence[Exported], slice_: str, **options: object) -> list[CompileResult]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += len(programs)
        assert programs[0].compiler_options
        return [CompileResult(status=self.status) for _ in programs]  # type: ignore[arg-type]

    def rebuild(self, *only: str) -> Lines:
        estimated_rebuild.rebuild((), limit_seconds=1.0, only=only, path=self.path)
        return estimated_programs.load(self.path)


def _tiny(batch: int) -> Program:
    function, inputs = palm.decode_target(palm.TINY, batch, 32)
    return Program(function, inputs, ("cache",), "v4:2x2x1", (), 1)


def _two_programs(points: Sequence[Point]) -> dict[str, Program]:
    return {"a": _tiny(4), "b": _tiny(8)}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """Two small programs, a file of their own, and no real compiler."""
    fake = Compiler(tmp_path / "lines.jsonl.xz")
    monkeypatch.setattr(estimated_rebuild, "distinct_programs", _two_programs)
    monkeypatch.setattr(estimated_rebuild, "compile_all", fake)
    monkeypatch.setattr(estimated_rebuild, "libtpu_version", lambda: "1.0")
    return fake


def test_nothing_is_compiled_twice_and_lost_compiles_are_tried_again(compiler: Compiler) -> None:
    compiler.status = "timed out"
    compiler.rebuild()
    compiler.status = "out of memory"
    lines = compiler.rebuild()
    assert [(each.program, each.answer.status, each.libtpu) for each in lines.values()] == [
        ("a", "out of memory", "1.0"),
        ("b", "out of memory", "1.0"),
    ]
    assert lines["a"].id != lines["b"].id
    assert compiler.rebuild() == lines
    assert compiler.calls == 4


def test_an_interrupted_run_goes_on_where_it_stopped(compiler: Compiler) -> None:
    compiler.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        compiler.rebuild()
    assert list(estimated_programs.load(compiler.path)) == ["a"]
    compiler.stop_after = 99
    assert list(compiler.rebuild()) == ["a", "b"]
    assert compiler.calls == 2


def test_another_compiler_or_program_is_asked_again(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(compiler.rebuild("b")) == ["b"]
    monkeypatch.setattr(estimated_rebuild, "libtpu_version", lambda: "2.0")
    assert [each.libtpu for each in compiler.rebuild().values()] == ["2.0", "2.0"]
    stale = {
        name: msgspec.structs.replace(each, id="other")
        for name, each in estimated_programs.load(compiler.path).items()
    }
    estimated_programs.save(stale, compiler.path)
    assert "other" not in {each.id for each in compiler.rebuild().values()}
    assert compiler.calls == 5
