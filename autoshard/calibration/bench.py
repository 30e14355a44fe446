"""Operations timed on the devices of this process, on all of them at once, as in a real program.

An operation runs in a loop within one program, an even number of times per turn so that no copy of what the
loop carries is needed, and the number of turns is an argument:

    seconds = (time of 1 + n turns - time of 1 turn) / (n * operations per turn)

So the time to launch a program, and for its devices to meet, falls out.  All operations take turns, round by
round, so that a drift of the machine meets all alike; the result is the median over the rounds.  Devices that
share the cores of one host thus each get the share that they have when all are at work.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard.calibration.probes import ITEM_BYTES, ROUNDS, Probe
from autoshard.cost.collectives import Kind
from autoshard.topology import in_coordinate_order, mesh_of

_UNROLL = 2
_KERNEL_UNROLL = 16
_MOST_TURNS = 2**16
_FLOAT8 = "float8_e4m3fn"

Arrays = tuple[jax.Array, ...]
Body = Callable[[Arrays], Arrays]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe took.

    Attributes:
        seconds: Of one operation, the median over the rounds; None where it could not be run.
        spread_seconds: Interquartile range over the rounds.
        problem: Why it could not be run; else empty.
    """

    seconds: float | None
    spread_seconds: float = 0.0
    problem: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured: how often, and how long each loop shall take at least."""

    probes: tuple[Probe, ...]
    rounds: int = ROUNDS
    loop_seconds: float = 0.02


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: one sample per probe, and on what.

    Attributes:
        samples: In the order of the probes.
        device_kind: What the devices call themselves.
        device_count: How many they are.
        host_cores: Cores of the host that this process may use.
        versions: Versions of JAX, by package.
    """

    samples: tuple[Sample, ...]
    device_kind: str
    device_count: int
    host_cores: int
    versions: dict[str, str]


def measure(request: Request, report: Callable[[str], None]) -> Answer:
    """Time the probes on this process's devices.

    Args:
        request: What to time.
        report: Told each step.
    """
    devices = jax.devices()
    runs = []
    for number, probe in enumerate(request.probes):
        report(f"{number + 1} of {len(request.probes)}: {describe(probe)}")
        runs.append(_prepare(probe, devices, request.loop_seconds))
    for round_number in range(request.rounds):
        report(f"round {round_number + 1} of {request.rounds}")
        for run in runs:
            run.take_turn()
    return Answer(
        samples=tuple(run.sample() for run in runs),
        device_kind=str(devices[0].device_kind),
        device_count=len(devices),
        host_cores=_host_cores(),
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
    )


def _host_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(probe: Probe) -> str:
    """A probe in words."""
    if probe.operation == "collective":
        return f"{probe.kind} of {probe.nbytes} bytes over {probe.group} devices"
    if probe.operation in ("stream", "activation"):
        return f"{probe.operation} of {probe.nbytes} bytes"
    return f"{probe.dtype} matmul {probe.rows}x{probe.size}x{probe.size}"


@dataclass(slots=True)
class _Run:
    """A probe's program, ready to run, and the times it took."""

    program: Callable[..., Any] | None
    arguments: Arrays = ()
    turns: int = 1
    per_turn: int = 1
    problem: str = ""
    seconds: list[float] = field(default_factory=list)

    def time(self, turns: int) -> float:
        """Seconds of the program with so many turns."""
        assert self.program is not None
        start = time.perf_counter()
        jax.block_until_ready(self.program(np.int32(turns), *self.arguments))
        return time.perf_counter() - start

    def choose_turns(self, loop_seconds: float) -> None:
        """Find how many turns take long enough."""
        self.time(1)  # the first run sets buffers up
        launch = self.time(1)
        while self.turns < _MOST_TURNS and self.time(1 + self.turns) - launch < loop_seconds:
            self.turns *= 2

    def take_turn(self) -> None:
        """Time one operation once more."""
        if self.program is None:
            return
        short, long = self.time(1), self.time(1 + self.turns)
        self.seconds.append((long - short) / (self.turns * self.per_turn))

    def sample(self) -> Sample:
        """The result, once all rounds are over."""
        if not self.seconds:
            return Sample(seconds=None, problem=self.problem)
        lower, median, upper = np.percentile(self.seconds, [25, 50, 75])
        if median <= 0:
            return Sample(seconds=None, problem="lost in the noise of the machine")
        return Sample(seconds=float(median), spread_seconds=float(upper - lower))


def _prepare(probe: Probe, devices: Sequence[Any], loop_seconds: float) -> _Run:
    mesh = _mesh(probe, devices)
    try:
        body, shapes, per_turn = _body(probe)
        program = _looped(body, mesh, len(shapes))
        arguments = tuple(_array(shape, probe, mesh) for shape in shapes)
        run = _Run(program, arguments, per_turn=per_turn)
        run.choose_turns(loop_seconds)
    except Exception as error:  # a dtype that the devices do not multiply in, or too little memory: a result
        return _Run(None, problem=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
    return run


def _mesh(probe: Probe, devices: Sequence[Any]) -> Mesh:
    if not probe.mesh_axes:
        return Mesh(np.array(devices), ("all",), axis_types=(AxisType.Auto,))
    shape = tuple(axis.size for axis in probe.mesh_axes)
    return mesh_of(in_coordinate_order(devices, shape), probe.mesh_axes)


def _looped(body: Body, mesh: Mesh, n_arrays: int) -> Any:
    """The program that does `body` a given number of times on every device."""
    spread = PartitionSpec(mesh.axis_names)

    def loop(turns: jax.Array, *arrays: jax.Array) -> Arrays:
        carried: Arrays = lax.fori_loop(0, turns, lambda _, before: body(before), arrays)
        return carried

    specs = (PartitionSpec(), *(spread,) * n_arrays)
    return jax.jit(
        jax.shard_map(loop, mesh=mesh, in_specs=specs, out_specs=(spread,) * n_arrays, check_vma=False)
    )


def _array(shape: tuple[int, ...], probe: Probe, mesh: Mesh) -> jax.Array:
    """A device's array of that shape, on every device.

    Matrices hold +-1 / sqrt(size), so that products neither grow nor fade into denormal numbers; collectives
    move zeros, whose sums are zeros.
    """
    if probe.operation == "collective":
        one = np.zeros(shape, np.float32)
    else:
        one = np.random.default_rng(0).choice([-1.0, 1.0], shape).astype(np.float32) * shape[-1] ** -0.5
    values = np.tile(one, (mesh.size, *(1,) * (len(shape) - 1)))
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    array: jax.Array = jax.device_put(jnp.asarray(values, _dtype(probe)), sharding)
    return array


def _dtype(probe: Probe) -> str:
    return _FLOAT8 if probe.dtype == "float8" else probe.dtype


def _body(probe: Probe) -> tuple[Body, list[tuple[int, ...]], int]:
    """One turn of a probe's loop, the shapes of the arrays that it carries, and operations per turn."""
    if probe.operation == "collective":
        return _collective_body(probe)
    if probe.operation in ("stream", "activation"):
        operation = _activation if probe.operation == "activation" else _scale
        return lambda carried: (operation(carried[0]),), [(probe.nbytes // ITEM_BYTES,)], 1
    per_turn = _KERNEL_UNROLL if probe.operation == "kernel" else _UNROLL
    whole = jnp.issubdtype(_dtype(probe), jnp.integer)

    def matmuls(carried: Arrays) -> Arrays:
        x, weights = carried
        for _ in range(per_turn):
            x = jnp.dot(x, weights, preferred_element_type=jnp.int32 if whole else None).astype(x.dtype)
        return x, weights

    return matmuls, [(probe.rows, probe.size), (probe.size, probe.size)], per_turn


def _scale(x: jax.Array) -> jax.Array:
    return x * -0.75 + 0.5


def _activation(x: jax.Array) -> jax.Array:
    """What a feed-forward applies to every element, and a half, so that repeating it does not fade to 0."""
    return x * lax.logistic(x) + 0.5


def _collective_body(probe: Probe) -> tuple[Body, list[tuple[int, ...]], int]:
    """Two collectives on a matrix: over each dim where that makes a difference to how its data lie."""
    names = tuple(probe.mesh_axes[axis].name for axis in probe.axes)
    group, rows = probe.group, probe.rows
    columns = probe.nbytes // ITEM_BYTES // rows
    ring = [(i, (i + 1) % group) for i in range(group)]

    def gathers(carried: Arrays) -> Arrays:
        x, y, _, _ = carried
        whole = lax.all_gather(x, names, axis=0, tiled=True), lax.all_gather(y, names, axis=1, tiled=True)
        return x + whole[1][0, 0], y + whole[0][0, 0], *whole

    def exchanges(carried: Arrays) -> Arrays:
        x = lax.all_to_all(carried[0], names, 0, 1, tiled=True)
        return (lax.all_to_all(x, names, 1, 0, tiled=True),)

    def sums(carried: Arrays) -> Arrays:
        return (lax.psum(lax.psum(carried[0], names), names),)

    def shifts(carried: Arrays) -> Arrays:
        return (lax.ppermute(lax.ppermute(carried[0], names, ring), names, ring),)

    shards = [(rows // group, columns), (rows, columns // group)]
    if probe.kind is Kind.ALL_GATHER:
        return gathers, [*shards, (rows, columns), (rows, columns)], _UNROLL
    bodies = {Kind.ALL_TO_ALL: exchanges, Kind.ALL_REDUCE: sums, Kind.COLLECTIVE_PERMUTE: shifts}
    assert probe.kind is not None
    return bodies[probe.kind], [(rows, columns)], _UNROLL
