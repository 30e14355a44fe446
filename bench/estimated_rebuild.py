"""Compile the programs of the published step times that have no answer yet, and keep the answers.

One program after another is planned, exported and compiled, those of the fewest tokens first. A program is
left alone whose hash and compiler are those of its answer; lost compiles (crashed, timed out) are tried
again. The file is written after every answer, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from autoshard.compiled.worker import compile_all
from bench.estimated_programs import (
    FILE,
    Lines,
    distinct_programs,
    exported,
    line_of,
    load,
    plan_digest,
    save,
    solve_program,
)
from bench.fidelity_plans import program_id
from bench.fidelity_rebuild import libtpu_version
from bench.published_points import Point, Program

_LOST = ("crashed", "timed out", "failed", "skipped")


def rebuild(
    points: Sequence[Point],
    *,
    limit_seconds: float,
    only: Sequence[str] = (),
    path: Path = FILE,
) -> None:
    """Bring the answers up to date.

    Args:
        points: Whose programs.
        limit_seconds: For one compile; one that takes longer is lost.
        only: Texts; only programs with one of them in their names, all when left out.
        path: The file of the answers.

    Raises:
        AutoshardError: There is no compiler.
        KeyboardInterrupt: Ctrl-C; what is known has been saved.
    """
    lines, libtpu = load(path), libtpu_version()
    programs = distinct_programs(points)
    chosen = [name for name in programs if not only or any(text in name for text in only)]
    for number, name in enumerate(chosen, 1):
        status = _settle(name, programs[name], lines, libtpu, limit_seconds)
        save(lines, path)
        print(f"{number}/{len(chosen)} {name}: {status}", file=sys.stderr, flush=True)


def _settle(name: str, program: Program, lines: Lines, libtpu: str, limit_seconds: float) -> str:
    """Put a program's answer among the lines; returns what it is, in a word or two."""
    solved, _ = solve_program(program)
    what = exported(program, solved)
    identity, plan = program_id(what, program.slice_name), plan_digest(solved)
    known = lines.get(name)
    if known and (known.id, known.libtpu) == (identity, libtpu) and known.answer.status not in _LOST:
        lines[name] = msgspec.structs.replace(known, plan=plan)
        return f"{known.answer.status}, known"
    (result,) = compile_all(
        [what], program.slice_name, workers=1, time_limit_seconds=limit_seconds, keep_text=True
    )
    lines[name] = line_of(name, identity, plan, libtpu, result, solved.problem.mesh)
    return result.status
