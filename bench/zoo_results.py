"""What the zoo's benchmark finds: a record for each stage of each case, one JSON object a line.

A record is written as soon as its stage ends, so that a run that is killed loses one stage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

STAGES = ("trace", "plan", "compile", "numerics")
NEEDS = {"plan": "trace", "compile": "plan"}
"""Stages that make no sense where another one failed."""

TRACE_FACTOR, TRACE_SECONDS = 3.0, 3.0
MOST_BYTES = 6e9
LEAST_FLOPS_FRACTION, LEAST_BYTES_FRACTION = 0.99, 0.98


class Traffic(msgspec.Struct, frozen=True):
    """Collectives of one kind in one step: how many run, and their bytes per chip."""

    count: int
    bytes_per_chip: float


class _Stage(msgspec.Struct, frozen=True, kw_only=True, tag_field="stage"):
    """What all records have: the case, and the seconds that the stage took, all in."""

    case: str
    seconds: float


class Tracing(_Stage, frozen=True, kw_only=True, tag="trace"):
    """From the function to the graph with rules.

    Attributes:
        equations: Equations, nested ones included.
        einsums: How many of them are contractions.
        make_jaxpr_seconds: `jax.make_jaxpr` alone, with JAX's caches cleared.
        trace_seconds: `autoshard.trace.trace`, which calls it, likewise.
        graph_seconds: `build_graph`.
        peak_bytes: The most memory that the process has had by then, imports and `make_jaxpr` included.
        flops_fraction: Part of the flops under decisions.
        bytes_fraction: Part of the bytes under decisions.
        arguments: Arrays of the arguments.
        argument_bytes: Their bytes.
    """

    equations: int
    einsums: int
    make_jaxpr_seconds: float
    trace_seconds: float
    graph_seconds: float
    peak_bytes: float
    flops_fraction: float
    bytes_fraction: float
    arguments: int
    argument_bytes: float

    @property
    def ours_seconds(self) -> float:
        """From the function to the graph, `make_jaxpr` included."""
        return self.trace_seconds + self.graph_seconds

    @property
    def ratio(self) -> float:
        """Those seconds over the seconds of `make_jaxpr` alone."""
        return self.ours_seconds / self.make_jaxpr_seconds

    @property
    def is_quick(self) -> bool:
        """Whether time and memory are what is promised."""
        most = TRACE_FACTOR * self.make_jaxpr_seconds + TRACE_SECONDS
        return self.ours_seconds <= most and self.peak_bytes <= MOST_BYTES

    @property
    def is_covered(self) -> bool:
        """Whether as much is under decisions as is promised."""
        return self.flops_fraction >= LEAST_FLOPS_FRACTION and self.bytes_fraction >= LEAST_BYTES_FRACTION


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What the analytical model says of a plan; `lines` are those of its file, `mesh` such as "x=4 y=4"."""

    mesh: str
    seconds: float
    gap: float
    hbm_bytes_per_chip: int
    lines: int
    collectives: dict[str, Traffic]


class Planning(_Stage, frozen=True, kw_only=True, tag="plan"):
    """The search on the smallest slice that fits.

    Attributes:
        slice: That slice.
        refused: Why the smaller ones do not do.
        search_seconds: The search on that slice, after tracing.
        predicted: The best plan.
        peak_bytes: As in `Tracing`, after the search.
    """

    slice: str
    refused: dict[str, str]
    search_seconds: float
    predicted: Predicted
    peak_bytes: float


class Compiling(_Stage, frozen=True, kw_only=True, tag="compile"):
    """What the TPU compiler says of the best plan.

    Where the compiler finds no room, the search is repeated with memory held back, then on larger slices.

    Attributes:
        status: "ok", or how the candidate was lost.
        detail: The reason, where the status is not "ok".
        slice: What it was compiled for.
        refused: Why smaller slices did not do.
        predicted: The plan that was compiled.
        attempts: Plans compiled on the last slice.
        effort: What the compiler spent on fast code; below 0 its schedule is not what would run.
        compile_seconds: The last of these, with its export and the start of the compiler's process.
        estimated_seconds: Step time read off the compiler's schedule; None at less than full effort.
        hbm_bytes_per_chip: By the compiler's count.
        collectives: What the compiled program has.
        rematerialisations: Reshards that the partitioner could only do by replicating the tensor.
    """

    status: str
    detail: str
    slice: str
    refused: dict[str, str]
    predicted: Predicted
    attempts: int
    compile_seconds: float
    effort: float = 0.0
    estimated_seconds: float | None = None
    hbm_bytes_per_chip: int | None = None
    collectives: dict[str, Traffic] = {}
    rematerialisations: int = 0


class Fared(msgspec.Struct, frozen=True, kw_only=True):
    """How the reduced case fared under one plan; see `autoshard.numerics.Comparison`.

    `max_error` is None where there was nothing to compare: what the detail says.
    """

    plan: str
    agrees: bool
    max_error: float | None
    worst_path: str
    detail: str


class Numerics(_Stage, frozen=True, kw_only=True, tag="numerics"):
    """How the reduced case fared under the chosen plan and random ones."""

    tolerance: float
    plans: tuple[Fared, ...]

    @property
    def agrees(self) -> bool:
        """Whether it agreed under all of them."""
        return all(plan.agrees for plan in self.plans)

    @property
    def worst_error(self) -> float:
        """The largest error, infinite where there was nothing to compare."""
        return max(math.inf if plan.max_error is None else plan.max_error for plan in self.plans)


class Failure(_Stage, frozen=True, kw_only=True, tag="failed"):
    """A stage (`of`) that came to nothing, and why."""

    of: str
    error: str


Record: TypeAlias = Tracing | Planning | Compiling | Numerics | Failure
Key: TypeAlias = tuple[str, str]
"""Case and stage."""


def key_of(record: Record) -> Key:
    """What a record is found by."""
    tag = record.__struct_config__.tag
    return record.case, record.of if isinstance(record, Failure) else str(tag)


def is_failed(record: Record | None) -> bool:
    """Whether a stage came to nothing, the compiler refused the program, or the numerics disagree."""
    if isinstance(record, Compiling):
        return record.status != "ok"
    return isinstance(record, Failure) or (isinstance(record, Numerics) and not record.agrees)


def append(path: Path, record: Record) -> None:
    """Add a record to a file."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def load(path: Path) -> dict[Key, Record]:
    """The records of a file, the last where a stage has several; none where there is no file."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    records: Iterable[Record] = (msgspec.json.decode(line, type=Record) for line in lines)
    return {key_of(record): record for record in records}


def forget(path: Path, keys: Collection[Key]) -> None:
    """Remove records from a file."""
    kept = [record for key, record in load(path).items() if key not in keys]
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in kept))
    os.replace(scratch, path)
