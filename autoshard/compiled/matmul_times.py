"""How long the compiled program multiplies matrices for each equation of the plan.

The core's time in every instruction that multiplies (a convolution or a dot, by itself or within a fusion)
goes to the equation whose mark (`autoshard.marks`) the multiplication carries, times the trips of the loops
around it. What else the compiler fuses with it is in that time. A fusion of several multiplications is shared
out evenly among them.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoshard.compiled.hlo import Instruction, Module
from autoshard.compiled.timeline import Timeline
from autoshard.marks import mark_in

_MULTIPLIES = frozenset({"convolution", "dot"})


def matmul_seconds(module: Module, timeline: Timeline) -> dict[str, float]:
    """Return seconds of one run by mark, see `autoshard.marks.mark_in`.

    Args:
        module: the program.
        timeline: its timeline, with events.
    """
    found: dict[str, float] = {}
    for instruction, seconds in _at_work(timeline, 1):
        marks = list(_marks(module, instruction))
        for mark in marks:
            found[mark] = found.get(mark, 0.0) + seconds / len(marks)
    return found


def _at_work(timeline: Timeline, trips: int) -> Iterator[tuple[Instruction, float]]:
    """The core's instructions with their time, those of loops all trips together."""
    for event in timeline.events:
        if event.body is not None:
            yield from _at_work(event.body, trips * event.trips)
        elif event.lane == "core":
            yield event.instruction, trips * event.seconds


def _marks(module: Module, instruction: Instruction) -> Iterator[str]:
    """The marks of the multiplications that an instruction does."""
    if instruction.opcode in _MULTIPLIES:
        mark = mark_in(instruction.op_name)
        if mark is not None:
            yield mark
    for computation in module.called_by(instruction):
        for inner in computation.instructions:
            yield from _marks(module, inner)
