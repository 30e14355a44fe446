"""The programs of the published step times under the plans of today, and what the TPU compiler said of them.

A point's plan is the search's own on the slice's mesh, with the paper's layout pinned where the point names
one: the same plan that section 2 prices. It is exported once, with the plan's compiler options; there are no
other candidates to pick from. The answers lie in one file of xz-compressed JSON lines, a line for each
program. The program's hash says whether it has to be compiled anew, a digest of the plan's decisions whether
the answer is of the plan of today.

The figures of the paper time layers only. So a line has two answers: one of the whole step, and one of the
step's loops alone (their bodies times their trips), which leaves out embedding, unembedding and sampling.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec

from autoshard.compiled.timeline import Timeline, estimate_timeline
from autoshard.compiled.worker import CompileResult
from autoshard.cost.torus import TorusMesh
from autoshard.mesh_solving import Solved
from autoshard.planning import make_plan
from autoshard.programs import Program as Exported
from autoshard.refining import export_candidate
from autoshard.trace import trace
from bench.fidelity_cache import Answer, CacheError, answer_of
from bench.fidelity_labels import write_labels
from bench.fixed_plan import Seconds, fix
from bench.published_plans import NO_LIMIT, solve
from bench.published_points import Point, Program, programs_of

FILE = Path(__file__).with_name("data") / "compiled_published.jsonl.xz"
_DIGITS = 16


class ProgramLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One program, and what the compiler said of it.

    Attributes:
        program: Its name (`name_of`).
        id: Hash of what was compiled (`bench.fidelity_plans.program_id`).
        plan: Digest of the plan's decisions.
        libtpu: Version of the compiler.
        answer: Of the whole step.
        layers: Of its loops alone; None where the compiler took no program.
        trips: How often each of these loops runs.
    """

    program: str
    id: str
    plan: str
    libtpu: str
    answer: Answer
    layers: Answer | None = None
    trips: tuple[int, ...] = ()

    def part(self, covers: str) -> Answer | None:
        """The answer of what a published time covers, "step" or "layers"; None where there is none."""
        return self.layers if covers == "layers" else self.answer


Lines = dict[str, ProgramLine]


@dataclass(frozen=True, slots=True)
class Planned:
    """A program under the plan of today, by tier 0.

    Attributes:
        name: The program's.
        count: How often it runs in the published time.
        mesh: The slice's own mesh.
        plan: Digest of the plan's decisions.
        step: Predicted times of the whole.
        layers: Predicted times of its loops alone.
        fits: Whether the model finds that it fits HBM.
    """

    name: str
    count: int
    mesh: TorusMesh
    plan: str
    step: Seconds
    layers: Seconds
    fits: bool

    def predicted(self, covers: str) -> float:
        """Seconds that tier 0 predicts of what a published time covers, for all its runs."""
        return (self.layers if covers == "layers" else self.step).whole * self.count


def name_of(point: Point, program: Program) -> str:
    """The name of a program; points of one program, such as those that two figures have, share it."""
    phase = "decode" if program.donated else "prefill"
    part = phase if phase == point.phase else f"{phase} of {point.phase}"
    layout = point.layout or "free"
    return f"{point.model} {point.weights} {part} {program.slice_name} {point.batch}x{point.length} {layout}"


def distinct_programs(points: Sequence[Point]) -> dict[str, Program]:
    """The programs of some points by name, those of the fewest tokens first."""
    found = [(point, program) for point in points for program in programs_of(point)]
    found.sort(key=lambda each: (_tokens(*each), name_of(*each)))
    return {name_of(*each): each[1] for each in found}


def _tokens(point: Point, program: Program) -> int:
    return point.batch if program.donated else point.batch * point.length


def solve_program(program: Program) -> tuple[Solved, bool]:
    """The plan of a program, and whether it fits HBM by the model; the paper ran those that do not, too."""
    fitting = solve(program)
    solved = fitting or solve(program, NO_LIMIT)
    if solved is None:
        raise RuntimeError(f"no plan of {program} even without a limit of memory")
    return solved, fitting is not None


@cache
def planned_of(point: Point) -> tuple[Planned, ...]:
    """The programs of a published time under the plans of today."""
    return tuple(_planned(name_of(point, program), program) for program in programs_of(point))


def _planned(name: str, program: Program) -> Planned:
    solved, fits = solve_program(program)
    fixed = fix(solved.problem, solved.outcome.candidates[0].labels)
    return Planned(
        name,
        program.count,
        solved.problem.mesh,
        plan_digest(solved),
        fixed.price(),
        fixed.price(layers_only=True),
        fits,
    )


def plan_digest(solved: Solved) -> str:
    """A digest of a plan's decisions, by the names of what they decide."""
    written = write_labels(solved.problem, solved.outcome.candidates[0].labels)
    text = repr((solved.problem.mesh.slice.name, sorted(written.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def exported(program: Program, solved: Solved) -> Exported:
    """The program under its plan, with the plan's compiler options, as the compiler is given it."""
    traced = trace(program.function, program.inputs(), donate_argnames=program.donated)
    outcome = solved.outcome
    plan = make_plan(traced, solved.problem, outcome.candidates[0], outcome, function_name="step")
    return export_candidate(traced, plan, "tpu")


def line_of(
    name: str, program_id: str, plan: str, libtpu: str, result: CompileResult, mesh: TorusMesh
) -> ProgramLine:
    """What is kept of a compiler's result, whose text is needed for the loops' share."""
    line = ProgramLine(program=name, id=program_id, plan=plan, libtpu=libtpu, answer=answer_of(result))
    if result.status != "ok" or result.text is None:
        return line
    loops, trips = loops_of(estimate_timeline(result.text, mesh))
    return msgspec.structs.replace(line, layers=answer_of(loops), trips=trips)


def loops_of(timeline: Timeline) -> tuple[CompileResult, tuple[int, ...]]:
    """The loops of a program's own level as a result of their own, and how often each runs."""
    loops = [
        (event.body, event.trips)
        for event in timeline.events
        if event.body is not None and event.instruction.opcode == "while"
    ]
    result = CompileResult(
        status="ok",
        compute_seconds=sum(body.compute_seconds * trips for body, trips in loops),
        filled_seconds=sum(body.filled_seconds * trips for body, trips in loops),
        exposed_collective_seconds=sum(body.exposed_collective_seconds * trips for body, trips in loops),
        collectives=tuple(
            replace(each, trips=each.trips * trips) for body, trips in loops for each in body.collectives
        ),
    )
    return result, tuple(trips for _, trips in loops)


def load(path: Path = FILE) -> Lines:
    """Read the answers, by program; none where there is no file.

    Raises:
        CacheError: The file is not one of answers.
    """
    if not path.exists():
        return {}
    decoder = msgspec.json.Decoder(ProgramLine)
    try:
        lines = [decoder.decode(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    except (lzma.LZMAError, msgspec.DecodeError) as error:
        raise CacheError(
            f"{path} holds no compiled programs: {error}; delete it and run "
            "`python -m bench.fidelity_estimated --rebuild`"
        ) from error
    return {line.program: line for line in lines}


def save(lines: Lines, path: Path = FILE) -> None:
    """Write the answers, by name; whoever reads meanwhile sees the old file or the new one."""
    text = b"".join(msgspec.json.encode(lines[name]) + b"\n" for name in sorted(lines))
    draft = path.with_suffix(".draft")
    draft.write_bytes(lzma.compress(text, preset=9))
    draft.replace(path)
