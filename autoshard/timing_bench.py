"""Candidates run and timed on the devices of this process, and their outputs compared with unsharded ones.

All candidates run in one process on the same devices, in interleaved rounds (1, 2, .. k, then again), so
that a drift of the machine meets all of them alike. A run's time is that of the compiled executable on
inputs already in place; donated arguments are put in place again before each run, outside of the time
taken, and one run per round is not counted. A candidate whose outputs differ from those of the unsharded
program on one device is a `mismatch`, whatever its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from autoshard.numerics import all_finite, compare, make_inputs, tolerance_of
from autoshard.programs import LoadedProgram, Program, argument_specs, load
from autoshard.topology import in_coordinate_order, mesh_of

if TYPE_CHECKING:
    import jax

Status = Literal["ok", "mismatch", "out of memory", "crashed", "timed out", "failed", "skipped"]

REFERENCE = "reference"
"""Stands in progress reports for the unsharded program, where a candidate has its number."""


class TimingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices say of one candidate.

    Attributes:
        status: `ok`; `mismatch`: its outputs are wrong; else how the candidate was lost.
        detail: the reason where the status is not `ok`, or why an `ok` was not checked; else empty.
        seconds: median over the timed runs.
        spread_seconds: their interquartile range.
        runs: how many runs were timed.
        checked: whether the outputs were compared with the unsharded program's.
        max_error: largest relative error of an output.
        worst_path: path of that output.
        tolerance: what `max_error` may be.
        device_kind: what the devices call themselves.
        device_count: how many were used.
        argument_specs: how the executable expects each flat argument, as in plan files.
    """

    status: Status
    detail: str = ""
    seconds: float | None = None
    spread_seconds: float | None = None
    runs: int = 0
    checked: bool = False
    max_error: float | None = None
    worst_path: str = ""
    tolerance: float | None = None
    device_kind: str = ""
    device_count: int = 0
    argument_specs: tuple[str, ...] = ()


class TimingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the child: candidates to time together, and how."""

    programs: tuple[Program, ...]
    reference: Program | None
    rounds: int = 5
    runs_per_round: int = 3
    seed: int = 0
    integer_bound: int = 2


def time_programs(request: TimingRequest, report: Callable[[str], None]) -> list[TimingResult]:
    """Time the programs of a request on this process's devices.

    Args:
        request: what to run.
        report: called before each step with the number of the candidate at work (or `reference`) and the
            step.
    """
    import jax

    if jax.process_count() > 1:
        reason = "devices of several hosts: run on one host, or time the plan within your own program"
        return [TimingResult(status="skipped", detail=reason) for _ in request.programs]
    bench = _Bench(request, report, jax.devices())
    bench.run_reference()
    candidates = [bench.prepare(number) for number in range(len(request.programs))]
    for round_number in range(request.rounds):
        for candidate in candidates:
            if candidate.lost is None:
                bench.take_turn(candidate, round_number)
    return [bench.result(candidate) for candidate in candidates]


@dataclass(slots=True)
class _Candidate:
    number: int
    lost: TimingResult | None = None
    compiled: Any = None
    loaded: LoadedProgram | None = None
    verdict: TimingResult = field(default_factory=lambda: TimingResult(status="ok"))
    samples: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Bench:
    """The devices, the inputs and the expected outputs, shared by all candidates."""

    request: TimingRequest
    report: Callable[[str], None]
    devices: Sequence[Any]
    inputs: list[Any] = field(default_factory=list)
    expected: list[Any] | None = None
    unchecked: str = "no reference program was given"

    def run_reference(self) -> None:
        """Make the inputs and run the unsharded program; on non-negative ones if its outputs overflow."""
        program = self.request.reference
        loaded = load(program or self.request.programs[0], self._mesh(program or self.request.programs[0]))
        self.inputs = self._make_inputs(loaded, non_negative=False)
        if program is None:
            return
        self.report(f"{REFERENCE}: compile and run")
        try:
            compiled = loaded.jitted.lower(*loaded.arguments).compile()
            self.expected = self._outputs(compiled, loaded)
            if not all_finite(self.expected):
                self.inputs = self._make_inputs(loaded, non_negative=True)
                self.expected = self._outputs(compiled, loaded)
        except Exception as error:  # too large for one device, most often: the candidates can still be timed
            self.unchecked = f"the unsharded program does not run on one device ({_first_line(error)})"

    def prepare(self, number: int) -> _Candidate:
        """Compile a candidate, run it once and compare its outputs."""
        program = self.request.programs[number]
        self.report(f"{number}: compile and check")
        try:
            loaded = load(program, self._mesh(program))
            options = program.compiler_options or None
            compiled = loaded.jitted.lower(*loaded.arguments).compile(compiler_options=options)
            verdict = self._verdict(compiled, loaded, program)
        except Exception as error:  # a candidate that does not run is a result
            return _Candidate(number, lost=_failure(error))
        lost = verdict if verdict.status != "ok" else None
        return _Candidate(number, lost, compiled, loaded, verdict)

    def take_turn(self, candidate: _Candidate, round_number: int) -> None:
        """Run a candidate once uncounted and then `runs_per_round` times."""
        if candidate.loaded is None:
            return
        self.report(f"{candidate.number}: round {round_number + 1} of {self.request.rounds}")
        donated = frozenset(self.request.programs[candidate.number].donated)
        try:
            arguments = self._place(candidate.loaded)
            samples = []
            for run in range(1 + self.request.runs_per_round):
                arguments = arguments if run == 0 else self._place(candidate.loaded, arguments, donated)
                samples.append(_seconds_of(candidate.compiled, arguments))
            candidate.samples += samples[1:]
        except Exception as error:  # for instance out of memory on the device
            candidate.lost = _failure(error)

    def result(self, candidate: _Candidate) -> TimingResult:
        """Return a candidate's result after the last round."""
        if candidate.lost is not None or not candidate.samples:
            return candidate.lost or candidate.verdict
        lower, median, upper = np.percentile(candidate.samples, [25, 50, 75])
        return msgspec.structs.replace(
            candidate.verdict,
            seconds=float(median),
            spread_seconds=float(upper - lower),
            runs=len(candidate.samples),
        )

    def _verdict(self, compiled: Any, loaded: LoadedProgram, program: Program) -> TimingResult:
        base = TimingResult(
            status="ok",
            device_kind=str(self.devices[0].device_kind),
            device_count=self._mesh(program).size,
            argument_specs=argument_specs(compiled, loaded.arguments),
        )
        wrong = _unplanned_shardings(compiled, loaded, program)
        if wrong:
            return msgspec.structs.replace(base, status="failed", detail=wrong)
        actual = self._outputs(compiled, loaded)
        if self.expected is None:
            return msgspec.structs.replace(base, detail=f"outputs not checked: {self.unchecked}")
        tolerance = tolerance_of(array.dtype for array in [*loaded.arguments, *self.expected])
        found = compare(actual, self.expected, program.result_paths, tolerance)
        return msgspec.structs.replace(
            base,
            status="ok" if found.agrees else "mismatch",
            detail=found.detail,
            checked=True,
            max_error=found.max_error,
            worst_path=found.worst_path,
            tolerance=tolerance,
        )

    def _make_inputs(self, loaded: LoadedProgram, *, non_negative: bool) -> list[Any]:
        bound = self.request.integer_bound
        return make_inputs(
            loaded.arguments, self.request.seed, integer_bound=bound, non_negative=non_negative
        )

    def _mesh(self, program: Program) -> jax.sharding.Mesh:
        shape = tuple(axis.size for axis in program.mesh_axes)
        count = int(np.prod(shape, dtype=np.int64))
        return mesh_of(in_coordinate_order(self.devices[:count], shape), program.mesh_axes)

    def _outputs(self, compiled: Any, loaded: LoadedProgram) -> list[Any]:
        return [_on_host(array) for array in compiled(*self._place(loaded))]

    def _place(
        self, loaded: LoadedProgram, placed: Sequence[Any] | None = None, fresh: frozenset[int] | None = None
    ) -> list[Any]:
        """Return the inputs on the devices: all, or `placed` with the `fresh` ones put in place again."""
        import jax

        arrays = [
            jax.device_put(self.inputs[i], argument.sharding, may_alias=False)
            if placed is None or (fresh is not None and i in fresh)
            else placed[i]
            for i, argument in enumerate(loaded.arguments)
        ]
        return list(jax.block_until_ready(arrays))


def _seconds_of(compiled: Any, arguments: Sequence[Any]) -> float:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - start


def _on_host(array: Any) -> Any:
    import jax
    import jax.numpy as jnp

    typed_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if typed_key else array)


def _unplanned_shardings(compiled: Any, loaded: LoadedProgram, program: Program) -> str:
    """Say which argument the executable expects in another sharding than the program asks for."""
    for argument, found, path in zip(
        loaded.arguments, compiled.input_shardings[0], program.argument_paths, strict=True
    ):
        if argument.sharding is not None and not found.is_equivalent_to(
            argument.sharding, len(argument.shape)
        ):
            return f"the compiler wants argument {path} as {found}, the plan has {argument.sharding}"
    return ""


def _failure(error: Exception) -> TimingResult:
    text = _first_line(error)
    exhausted = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return TimingResult(status="out of memory" if exhausted else "failed", detail=text)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
