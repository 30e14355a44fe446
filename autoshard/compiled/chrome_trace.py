"""A compiled program's estimated timeline as a Chrome trace, to be opened in https://ui.perfetto.dev.

All chips run the same program, so there is one process, which stands for each of them. Its threads are the
core (what computes, and its waits), the copies between HBM and on-chip memory, and every direction of every
torus dim over which collectives run. Slices have the names of the HLO instructions, which are those of the
`XLA Ops` line of a profile, so an estimate can be laid beside a measured trace::

    with jax.profiler.trace("profile", create_perfetto_trace=True):
        jax.block_until_ready(step(*arguments))

writes `perfetto_trace.json.gz`, in the same format. Open both in two windows, or in one: they are lists of
`traceEvents`, and the estimate's process number collides with none of the profiler's, so they can be joined::

    jq -s '{traceEvents: map(.traceEvents) | add}' step.json <(zcat perfetto_trace.json.gz) > both.json

A loop whose trips are too many to be drawn shows the first one, and one slice for the rest.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from autoshard.audit.attribution_source import own_lines
from autoshard.compiled.hlo import Instruction, Module, parse_module
from autoshard.compiled.hlo_metadata import stack_of
from autoshard.compiled.timeline import Event, Timeline, estimate_timeline
from autoshard.cost.torus import DCN_DIM, TorusMesh
from autoshard.marks import without_marks
from autoshard.permute_routing import Link

DRAWN_EVENTS = 50_000
"""A loop of more events than that, all trips together, is drawn once."""
PROCESS = 1_000_000
"""Number of the process in the trace, larger than those of a profiler."""

_CORE, _COPIES, _FIRST_LINK = 1, 2, 3
_SHORTEST_NANOSECONDS = 1
_EINSUM = re.compile(r"(?:^|/)([a-zA-Z.]+(?:,[a-zA-Z.]+)*->[a-zA-Z.]*)(?=/|$)")


def chrome_trace(text: str, mesh: TorusMesh, title: str) -> dict[str, Any]:
    """Return the trace of a compiled program as a JSON object.

    Args:
        text: its scheduled HLO.
        mesh: the mesh for whose devices it was compiled.
        title: what it is a trace of.

    Raises:
        CompileError: the text cannot be read, see `autoshard.compiled.timeline.estimate_timeline`.
    """
    module = parse_module(text)
    timeline = estimate_timeline(module, mesh)
    threads = _link_threads(timeline, mesh)
    drawing = _Drawing(module, mesh, {link: number for number, (link, _) in threads.items()})
    end = _nanoseconds(timeline.seconds)
    names = {_CORE: "core", _COPIES: "copies between HBM and on-chip memory"}
    names.update({number: name for number, (_, name) in threads.items()})
    chips = f"each of {mesh.n_chips} chips" if mesh.n_chips > 1 else "the chip"
    process = f"{title} on {mesh.slice.name}: {chips}, estimated from the compiler's schedule"
    return {
        "displayTimeUnit": "ns",
        "traceEvents": [
            _metadata("process_name", 0, process),
            *(_metadata("thread_name", number, name) for number, name in sorted(names.items())),
            *(_metadata("thread_sort_index", number, number) for number in sorted(names)),
            *drawing.of(timeline, 0.0, end),
        ],
    }


@dataclass(slots=True)
class _Drawing:
    """Puts the events of a timeline, and of the loops in it, at their places."""

    module: Module
    mesh: TorusMesh
    link_threads: dict[Link, int]
    sizes: dict[int, int] = field(default_factory=dict)

    def of(self, timeline: Timeline, start: float, until: int) -> Iterator[dict[str, Any]]:
        """Yield the slices of a timeline that starts at some second; none reaches beyond `until` ns."""
        for event in timeline.events:
            begin = start + event.start_seconds
            end = start + (event.start_seconds + event.seconds)
            first, last = _nanoseconds(begin), min(_nanoseconds(end), until)
            if last - first < _SHORTEST_NANOSECONDS:
                continue
            for thread in self.threads(event):
                yield _slice(_name(event), event.lane, thread, first, last, self.arguments(event))
            if event.body is not None:
                yield from self.trips(event, event.body, begin, last)

    def trips(self, event: Event, body: Timeline, begin: float, until: int) -> Iterator[dict[str, Any]]:
        """Yield the slices of a loop's trips, or of the first one and the rest."""
        drawn = event.trips if event.trips * self.size(body) <= DRAWN_EVENTS else min(event.trips, 1)
        for trip in range(drawn):
            trip_end = min(until, _nanoseconds(begin + (trip + 1) * body.seconds))
            yield from self.of(body, begin + trip * body.seconds, trip_end)
        if drawn < event.trips:
            first = min(until, _nanoseconds(begin + drawn * body.seconds))
            name = f"{event.trips - drawn} more trips, as the first"
            yield _slice(name, event.lane, _CORE, first, until, {})

    def size(self, timeline: Timeline) -> int:
        """Return how many events a timeline has, those of all trips of its loops included."""
        if id(timeline) not in self.sizes:
            bodies = ((event.trips, event.body) for event in timeline.events if event.body is not None)
            inner = sum(trips * self.size(body) for trips, body in bodies)
            self.sizes[id(timeline)] = len(timeline.events) + inner
        return self.sizes[id(timeline)]

    def threads(self, event: Event) -> list[int]:
        """Return the threads on which an event is shown."""
        if event.lane == "links":
            return sorted(self.link_threads[link] for link in event.links)
        return [_COPIES if event.lane == "copy" else _CORE]

    def arguments(self, event: Event) -> dict[str, Any]:
        """Return what is known of an event; what is unknown is left out."""
        instruction, collective = event.instruction, event.collective
        op_name = collective.op_name if collective is not None else instruction.op_name
        einsum = _EINSUM.findall(op_name)
        facts: dict[str, Any] = {
            "opcode": instruction.opcode,
            "op_name": without_marks(op_name),
            "einsum": einsum[-1] if einsum else "",
            "source": self.source(instruction),
            "cycles": instruction.cycles if event.lane == "core" else None,
            "bytes": event.nbytes,
        }
        if collective is not None:
            facts |= {
                "collective": collective.kind,
                "axes": ",".join(collective.axes),
                "bytes": collective.bytes_per_chip,
                "asynchronous": collective.asynchronous,
                "priced as whole axes": None if collective.exact else True,
            }
        if event.body is not None:
            facts |= {"trips": event.trips, "seconds of one": event.body.seconds}
        return {name: value for name, value in facts.items() if value not in (None, "")}

    def source(self, instruction: Instruction) -> str:
        """Return the innermost line of Python that is the user's, empty where unknown."""
        own = own_lines(stack_of(instruction.metadata, self.module.frames))
        return f"{own[0].file}:{own[0].line}" if own else ""


def _link_threads(timeline: Timeline, mesh: TorusMesh) -> dict[int, tuple[Link, str]]:
    """Return the threads of links that are used, by number: a torus dim with its mesh axes, and a sign."""
    links = sorted(_links(timeline), key=lambda link: (link[0] == DCN_DIM, link[0], -link[1]))
    return {number: (link, _link_name(link, mesh)) for number, link in enumerate(links, start=_FIRST_LINK)}


def _links(timeline: Timeline) -> set[Link]:
    found = {link for event in timeline.events for link in event.links}
    return found.union(*(_links(event.body) for event in timeline.events if event.body is not None))


def _link_name(link: Link, mesh: TorusMesh) -> str:
    dim, sign = link
    axes = ", ".join(axis.name for axis in mesh.axes if axis.torus_dim == dim)
    return f"{'DCN' if dim == DCN_DIM else 'ICI'} {axes} {'+' if sign > 0 else '-'}"


def _name(event: Event) -> str:
    return f"wait for {event.instruction.name}" if event.lane == "wait" else event.instruction.name


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _slice(
    name: str, category: str, thread: int, first: int, last: int, arguments: dict[str, Any]
) -> dict[str, Any]:
    """A complete event; its times are microseconds, here of whole nanoseconds."""
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": PROCESS,
        "tid": thread,
        "ts": first / 1000,
        "dur": (last - first) / 1000,
        "args": arguments,
    }


def _metadata(kind: str, thread: int, value: str | int) -> dict[str, Any]:
    key = "sort_index" if kind.endswith("sort_index") else "name"
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": thread, "args": {key: value}}
