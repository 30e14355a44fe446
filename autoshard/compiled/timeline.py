"""Step time of a compiled TPU program, read off its schedule.

The compiler counts the cycles of everything that computes and of nothing that communicates, so the schedule
is walked in order with two clocks:

* compute: ``cycles / clock_hz``; the few instructions without cycles are filled in as bytes over HBM
  bandwidth;
* collectives: priced by `autoshard.cost.collectives` on the torus axes that their replica groups span. A
  synchronous one stops the walk; an asynchronous one holds its links (both directions of each torus dim it
  spans; a permute only those it uses) from its start, beside compute, and the walk waits at its done for what
  is left: the exposed part.
* copies between HBM and on-chip memory (`copy-start`, `slice-start`) run beside compute likewise, one after
  another.

A loop's body counts as often as it runs, a conditional as its slowest branch. So
``seconds = compute + filled + exposed collectives``, exactly.

On 56 published step times on TPU v4 (arXiv:2211.05102) this estimate has a mean error of 10 %, small decode
batches more (`python -m bench.fidelity_estimated`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from autoshard.compiled.collectives import HloCollective, collective_of
from autoshard.compiled.hlo import Computation, Instruction, Module, parse_module
from autoshard.compiled.hlo_loops import trip_count
from autoshard.compiled.hlo_traffic import copied_bytes, moved_bytes
from autoshard.compiled.prices import alone_on_links, priced_axes
from autoshard.compiled.timeline_records import CompiledCollective, Event, Lane, Timeline
from autoshard.cost.torus import TorusMesh
from autoshard.permute_routing import Link

__all__ = ["CompiledCollective", "Event", "Timeline", "estimate_timeline", "priced_axes"]

_DMA_STARTS, _DMA_DONES = frozenset({"copy-start", "slice-start"}), frozenset({"copy-done", "slice-done"})
_DMA: Link = (-2, 0)


def estimate_timeline(program: str | Module, mesh: TorusMesh) -> Timeline:
    """Estimate the time of a compiled program.

    Args:
        program: scheduled HLO, as text or parsed.
        mesh: the mesh for whose devices it was compiled; partition k is its k-th place.

    Raises:
        CompileError: the text is not an HLO module, or its replica groups are in an unknown syntax.
    """
    module = parse_module(program) if isinstance(program, str) else program
    return _Walk(module, mesh).of(module.computations[module.entry])


@dataclass(slots=True)
class _Walk:
    """Walks computations; each is walked once and its timeline kept."""

    module: Module
    mesh: TorusMesh
    done: dict[str, Timeline] = field(default_factory=dict)

    def of(self, computation: Computation) -> Timeline:
        if computation.name not in self.done:
            schedule = _Schedule(self, computation)
            for instruction in computation.instructions:
                schedule.step(instruction)
            self.done[computation.name] = schedule.finish()
        return self.done[computation.name]


@dataclass(slots=True)
class _Open:
    """An asynchronous collective or copy that has been started."""

    instruction: Instruction
    end: float
    place: int  # in the schedule's collectives; -1 for a copy


@dataclass(slots=True)
class _Schedule:
    """The clocks while one computation is walked."""

    walk: _Walk
    computation: Computation
    now: float = 0.0
    compute: float = 0.0
    filled: float = 0.0
    exposed: float = 0.0
    collectives: list[CompiledCollective] = field(default_factory=list)
    unknown_loops: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    busy_until: dict[Link, float] = field(default_factory=dict)
    started: dict[str, _Open] = field(default_factory=dict)

    def step(self, instruction: Instruction) -> None:
        """Run one instruction."""
        found = collective_of(instruction, self.computation, self.walk.module)
        if found is not None and found.role == "whole":
            self._synchronous(found, instruction)
        elif found is not None and found.role == "start":
            self._start(found, instruction)
        elif found is not None and found.role == "done":
            self._wait(found.key)
        elif found is not None and found.role == "update":
            return
        elif instruction.opcode in _DMA_STARTS:
            self._start_copy(instruction)
        elif instruction.opcode in _DMA_DONES:
            self._wait(instruction.operands[0])
        elif instruction.opcode in ("while", "call", "conditional"):
            self._nested(instruction)
        else:
            self._compute(instruction)

    def finish(self) -> Timeline:
        """Wait for what is still under way, and sum up."""
        for key in list(self.started):
            self._wait(key)
        return Timeline(
            seconds=self.compute + self.filled + self.exposed,
            compute_seconds=self.compute,
            collective_seconds=sum(each.seconds * each.trips for each in self.collectives),
            exposed_collective_seconds=self.exposed,
            filled_seconds=self.filled,
            collectives=tuple(self.collectives),
            unknown_loops=tuple(self.unknown_loops),
            events=tuple(self.events),
        )

    def _compute(self, instruction: Instruction) -> None:
        if instruction.cycles is not None:
            self._add_compute(instruction)
            return
        nbytes = moved_bytes(instruction, self.computation, self.walk.module)
        seconds = nbytes / self._hbm_bytes_per_second()
        self._happens("core", instruction, self.now, seconds, nbytes=nbytes)
        self.filled += seconds
        self.now += seconds

    def _add_compute(self, instruction: Instruction) -> None:
        seconds = (instruction.cycles or 0) / self.walk.mesh.slice.chip.clock_hz
        self._happens("core", instruction, self.now, seconds)
        self.compute += seconds
        self.now += seconds

    def _synchronous(self, found: HloCollective, instruction: Instruction) -> None:
        seconds, links = alone_on_links(found, self.walk.mesh)
        end = self._earliest(links) + seconds
        if instruction.cycles is not None:  # a fusion that computes while it communicates
            self._add_compute(instruction)
        exposed = max(0.0, end - self.now)
        self._hold(links, end)
        collective = self._record(found, seconds, exposed, asynchronous=False)
        self._happens("links", instruction, end - seconds, seconds, links=links, collective=collective)
        self._happens("wait", instruction, self.now, exposed, collective=collective)
        self._expose(exposed)

    def _start(self, found: HloCollective, instruction: Instruction) -> None:
        seconds, links = alone_on_links(found, self.walk.mesh)
        end = self._earliest(links) + seconds
        self._hold(links, end)
        self.started[found.key] = _Open(instruction, end, len(self.collectives))
        collective = self._record(found, seconds, 0.0, asynchronous=True)
        self._happens("links", instruction, end - seconds, seconds, links=links, collective=collective)

    def _start_copy(self, instruction: Instruction) -> None:
        moved = copied_bytes(instruction)
        seconds = moved / self._hbm_bytes_per_second()
        end = self._earliest([_DMA]) + seconds
        self._hold([_DMA], end)
        self._happens("copy", instruction, end - seconds, seconds, nbytes=moved)
        self.started[instruction.name] = _Open(instruction, end, -1)

    def _wait(self, key: str) -> None:
        opened = self.started.pop(key, None)
        if opened is None:
            return
        waited = max(0.0, opened.end - self.now)
        if opened.place < 0:
            self._happens("wait", opened.instruction, self.now, waited)
            self.filled += waited
            self.now += waited
            return
        collective = self.collectives[opened.place]
        collective = replace(collective, exposed_seconds=collective.exposed_seconds + waited)
        self.collectives[opened.place] = collective
        self._happens("wait", opened.instruction, self.now, waited, collective=collective)
        self._expose(waited)

    def _nested(self, instruction: Instruction) -> None:
        timelines = [self.walk.of(called) for called in self._callees(instruction)]
        if not timelines:
            return
        inner, trips = max(timelines, key=lambda timeline: timeline.seconds), 1
        if instruction.opcode == "while":
            count = trip_count(instruction, self.computation, self.walk.module)
            self.unknown_loops += [] if count is not None else [instruction.name]
            trips = 1 if count is None else count
        self._happens("body", instruction, self.now, inner.seconds * trips, trips=trips, body=inner)
        self.now += inner.seconds * trips
        self.compute += inner.compute_seconds * trips
        self.filled += inner.filled_seconds * trips
        self.exposed += inner.exposed_collective_seconds * trips
        self.collectives += [replace(each, trips=each.trips * trips) for each in inner.collectives]
        self.unknown_loops += inner.unknown_loops

    def _callees(self, instruction: Instruction) -> tuple[Computation, ...]:
        if instruction.opcode != "while":
            return self.walk.module.called_by(instruction)
        return (self.walk.module.computations[instruction.attributes["body"].lstrip("%")],)

    def _record(
        self, found: HloCollective, seconds: float, exposed: float, *, asynchronous: bool
    ) -> CompiledCollective:
        axes, exact = priced_axes(found, self.walk.mesh)
        collective = CompiledCollective(
            name=found.name,
            kind=found.kind.value,
            axes=tuple(self.walk.mesh.axes[axis].name for axis in axes),
            exact=exact,
            bytes_per_chip=found.bytes_per_chip,
            trips=1,
            seconds=seconds,
            exposed_seconds=exposed,
            asynchronous=asynchronous,
            op_name=found.op_name,
        )
        self.collectives.append(collective)
        return collective

    def _happens(
        self, lane: Lane, instruction: Instruction, start: float, seconds: float, **what: Any
    ) -> None:
        if seconds > 0:
            self.events.append(Event(lane, instruction, start, seconds, **what))

    def _earliest(self, links: Iterable[Link]) -> float:
        return max([self.now, *(self.busy_until.get(link, 0.0) for link in links)])

    def _hold(self, links: Iterable[Link], end: float) -> None:
        self.busy_until.update(dict.fromkeys(links, end))

    def _expose(self, seconds: float) -> None:
        self.exposed += seconds
        self.now += seconds

    def _hbm_bytes_per_second(self) -> float:
        chip = self.walk.mesh.slice.chip
        return chip.hbm_bytes_per_second * chip.hbm_streaming_fraction
