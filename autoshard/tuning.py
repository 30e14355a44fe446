"""The whole run: trace, search, compile, time, choose, and write it all into a plan.

Each tier re-ranks the survivors of the one above.  A tier that cannot run here is skipped and the plan says why.  Ctrl-C after the search ends
the run with the best plan known by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from autoshard.attached import attached_slice
from autoshard.cost.slices import Slice, parse_slice, slices_of
from autoshard.cost.torus import TorusMesh, native_mesh
from autoshard.decorator import PlannedFunction
from autoshard.errors import InfeasibleError
from autoshard.mesh_study import best_meshes, mesh_label, meshes_to_try
from autoshard.plan import Plan
from autoshard.plan_records import RunnerUp
from autoshard.planning import make_plan
from autoshard.progress import Progress
from autoshard.refining import Judged, compile_candidates, host_memory_reason, rank, time_candidates
from autoshard.search.errors import BudgetError
from autoshard.search.graph import Graph
from autoshard.search.planner import DEFAULT_GAP, Outcome, search_plans
from autoshard.search.problem import Problem, build_problem
from autoshard.targets import Target, load_target
from autoshard.topology import compiler_skip_reason
from autoshard.trace import Traced, build_graph, trace
from autoshard.tune_result import TuneResult

Refine = Literal["none", "compile", "time", "auto"]
ESTIMATED, MEASURED = "estimated", "measured"
_TRACE_OPTIONS = ("donate_argnums", "donate_argnames", "static_argnums", "static_argnames")
_HEADROOM_RETRIES = 3
_COMPILE_SECONDS = 300.0
_TIMING_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a run can be told; the fields are those of `tune`."""

    slice_text: str
    objective: str = "latency"
    refine: Refine = "auto"
    top_k: int = 5
    mesh: str = "auto"
    trials: int = 16
    storage: str | None = None
    gap: float = DEFAULT_GAP
    time_limit_seconds: float | None = None
    seed: int = 0
    workers: int = 2


def tune(
    fn: Callable[..., Any],
    *abstract_args: Any,
    slice: str,
    objective: str = "latency",
    top_k: int = 5,
    refine: Refine = "auto",
    mesh: str = "auto",
    trials: int = 16,
    storage: str | None = None,
    gap: float = DEFAULT_GAP,
    time_limit_seconds: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **jit_options: Any,
) -> Plan:
    """Find the best sharding plan of a function for a slice.

    Args:
        fn: The function, decorated with `autoshard.jit` or not.
        *abstract_args: Its arguments: pytrees of `jax.ShapeDtypeStruct` or arrays. Left out, the decorator's `inputs` are used.
        slice: "CHIP:TOPOLOGY", such as "v5e:4x4", "cpu:8", or "local" for the attached devices.
        objective: What to minimise: "latency", the time of a step.
        top_k: Candidates that go to the compiler and to the devices.
        refine: "none", "compile" (TPU compiler), "time" (devices), or "auto": as far as this machine can.
        mesh: "native", "auto" or "search": how many factorisations of the torus to try.
        trials: Most meshes to try.
        storage: Optuna storage URL for the mesh study; None keeps it in memory.
        gap: Relative distance to the proven optimum at which the search may stop.
        time_limit_seconds: Limit of each search.
        seed: Of the sampler and of the inputs for timing.
        progress: Where to report; silent by default.
        **jit_options: `donate_argnums`, `donate_argnames`, `static_argnums`, `static_argnames` as in `jax.jit`.

    Returns:
        The winning plan with the evidence for it.

    Raises:
        TraceError: The function cannot be traced.
        InfeasibleError: No plan fits the chips' memory.
        SliceError: The slice does not exist.
    """
    options = Options(slice, objective, refine, top_k, mesh, trials, storage, gap, time_limit_seconds, seed)
    target = _target_of(fn, abstract_args, jit_options)
    return run(target, options, progress or Progress(quiet=True)).plan


def _target_of(fn: Callable[..., Any], args: Sequence[Any], jit_options: dict[str, Any]) -> Target:
    options = dict(jit_options)
    if isinstance(fn, PlannedFunction):
        options = {**fn.jit_options, **options}
        args = args or (fn.inputs() if fn.inputs is not None else ())
        fn = fn.function
    unknown = sorted(set(options) - set(_TRACE_OPTIONS) - {"keep_unused", "inline", "compiler_options"})
    if unknown:
        raise TypeError(f"tune() got unexpected keyword arguments {unknown}; it knows {list(_TRACE_OPTIONS)}")
    name = getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", "function")
    return Target("", None, fn, name, tuple(args), options)


def tune_target(
    target: str,
    *,
    slice: str,
    inputs: str | None = None,
    objective: str = "latency",
    refine: Refine = "auto",
    top_k: int = 5,
    mesh: str = "auto",
    trials: int = 16,
    storage: str | None = None,
    time_limit_seconds: float | None = None,
    gap: float = DEFAULT_GAP,
    seed: int = 0,
    progress: Progress | None = None,
) -> TuneResult:
    """`tune` for a target named on the command line; returns the plan with what finding it took."""
    parse_slice(slice) if slice != "local" else None
    options = Options(slice, objective, refine, top_k, mesh, trials, storage, gap, time_limit_seconds, seed)
    progress = progress or Progress(quiet=True)
    progress.stage(f"load {target}")
    return run(load_target(target, inputs), options, progress)


@dataclass(slots=True)
class _Run:
    """What is known so far."""

    target: Target
    options: Options
    progress: Progress
    slice_: Slice
    traced: Traced
    graph: Graph
    skipped: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run(target: Target, options: Options, progress: Progress) -> TuneResult:
    """Trace, search, refine, choose."""
    started = time.monotonic()
    slice_ = attached_slice() if options.slice_text == "local" else parse_slice(options.slice_text)
    progress.stage(f"trace {target.name}")
    trace_options = {key: target.jit_options[key] for key in _TRACE_OPTIONS if key in target.jit_options}
    traced = trace(target.function, target.arguments, **{k: _sequence(v) for k, v in trace_options.items()})
    state = _Run(target, options, progress, slice_, traced, build_graph(traced))
    searching = time.monotonic()
    candidates = _search(state)
    search_seconds = time.monotonic() - searching
    try:
        candidates = _refine(state, candidates)
    except KeyboardInterrupt:
        state.interrupted = True
        progress.note("interrupted: keeping the best plan known so far")
    plan = _chosen(state, candidates)
    everyone = tuple(_runner_up(c) for c in rank(candidates))
    return TuneResult(plan, search_seconds, time.monotonic() - started, everyone, interrupted=state.interrupted)


def _sequence(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int | str) else tuple(value or ())


# Tier 0.


def _search(state: _Run, headroom_bytes: float = 0.0) -> list[Judged]:
    """Search every mesh that the options allow; candidates of the best ones."""
    meshes = list(meshes_to_try(state.slice_, state.options.mesh))
    if len(meshes) > 1:
        meshes = _study(state, meshes, headroom_bytes)
    candidates: list[Judged] = []
    for place, mesh in enumerate(meshes[:2]):
        found = _search_mesh(state, mesh, state.options.top_k if place == 0 else 1, headroom_bytes)
        if found is not None:
            candidates += _judge(state, *found)
    if not candidates:
        raise _infeasible(state)
    best = sorted(candidates, key=lambda c: c.seconds)
    return _distinct(best)[: state.options.top_k]


def _distinct(candidates: Sequence[Judged]) -> list[Judged]:
    """Drop candidates that predict the same time with the same argument layouts up to names: copies on a finer mesh."""
    seen: set[tuple[float, int]] = set()
    kept = []
    for candidate in candidates:
        key = (float(f"{candidate.seconds:.4g}"), candidate.plan.predicted.hbm_bytes_per_chip)
        if key not in seen:
            seen.add(key)
            kept.append(candidate)
    return kept


def _study(state: _Run, meshes: Sequence[TorusMesh], headroom_bytes: float) -> list[TorusMesh]:
    state.progress.stage("search meshes", total=min(len(meshes), state.options.trials))

    def score(mesh: TorusMesh) -> float | None:
        found = _search_mesh(state, mesh, 1, headroom_bytes)
        return None if found is None else found[1].candidates[0].seconds

    fingerprint = state.traced.fingerprint().removeprefix("sha256:")[:12]
    return best_meshes(
        meshes,
        score,
        study_name=f"autoshard {state.target.name} {state.slice_.name} {fingerprint} {round(headroom_bytes)}",
        trials=state.options.trials,
        storage=state.options.storage,
        seed=state.options.seed,
        on_trial=state.progress.step,
    )


def _search_mesh(state: _Run, mesh: TorusMesh, top_k: int, headroom_bytes: float) -> tuple[Problem, Outcome] | None:
    """Solve one mesh; None when nothing fits."""
    state.progress.stage(f"search {state.slice_.name} on {mesh_label(mesh)}")
    problem = build_problem(state.graph, mesh)
    limit = mesh.slice.chip.hbm_usable_bytes - headroom_bytes
    try:
        outcome = search_plans(
            problem,
            limit,
            top_k=top_k,
            gap=state.options.gap,
            time_limit_seconds=state.options.time_limit_seconds,
            on_step=state.progress.step,
        )
    except BudgetError:
        return None
    return problem, outcome


def _judge(state: _Run, problem: Problem, outcome: Outcome) -> list[Judged]:
    target = state.target
    return [
        Judged(
            make_plan(
                state.traced,
                problem,
                candidate,
                outcome,
                function_name=target.name,
                target=target.text or None,
                inputs=target.inputs_text,
                objective=state.options.objective,
            )
        )
        for candidate in outcome.candidates
    ]


def _infeasible(state: _Run) -> InfeasibleError:
    chip = state.slice_.chip
    nbytes = sum(state.graph.values[v].nbytes for v in state.graph.arguments)
    fits = _smallest_fitting(state)
    advice = (
        f"the smallest {chip.name} slice that fits is {fits.name}"
        if fits is not None
        else f"no {chip.name} slice fits; shrink the batch or context, or use smaller weights (int8)"
    )
    return InfeasibleError(
        f"`{state.target.name}` does not fit {state.slice_.name}: its arguments alone take {nbytes / 2**30:.1f} GiB, and "
        f"{state.slice_.n_chips} chips of {chip.hbm_usable_bytes / 2**30:.2f} GiB hold "
        f"{state.slice_.n_chips * chip.hbm_usable_bytes / 2**30:.1f} GiB in all; {advice}"
    )


def _smallest_fitting(state: _Run) -> Slice | None:
    """The first larger slice of the same chip on which a search finds a plan that fits."""
    chip = state.slice_.chip
    needed = sum(state.graph.values[v].nbytes for v in state.graph.arguments) / chip.hbm_usable_bytes
    quick = replace(state.options, gap=0.5, time_limit_seconds=10.0)
    for slice_ in slices_of(chip):
        if slice_.n_chips <= state.slice_.n_chips or slice_.n_chips < needed:
            continue
        trial = replace_run(state, slice_, quick)
        if _search_mesh(trial, native_mesh(slice_), 1, 0.0) is not None:
            return slice_
    return None


def replace_run(state: _Run, slice_: Slice, options: Options) -> _Run:
    """The same function on another slice."""
    return _Run(state.target, options, state.progress, slice_, state.traced, state.graph)


# Tiers 2 and 3.


def _refine(state: _Run, candidates: list[Judged]) -> list[Judged]:
    """Take the candidates as far as was asked and as this machine can; keeps `candidates` up to date in place."""
    wants_compile = state.options.refine in ("compile", "auto")
    wants_timing = state.options.refine in ("time", "auto")
    reason = compiler_skip_reason(state.slice_) if wants_compile else "not asked for (--refine)"
    if reason is not None:
        _skip(state, ESTIMATED, reason, say=wants_compile)
    else:
        _compile(state, candidates)
    reason = _timing_skip_reason(state, len(candidates)) if wants_timing else "not asked for (--refine)"
    if reason is not None:
        _skip(state, MEASURED, reason, say=wants_timing)
    else:
        _time(state, candidates)
    return candidates


def _skip(state: _Run, tier: str, reason: str, *, say: bool) -> None:
    state.skipped[tier] = reason
    if say:
        name = "tier 2 (TPU compiler)" if tier == ESTIMATED else "tier 3 (timing)"
        state.progress.note(f"{name} skipped: {reason}")


def _compile(state: _Run, candidates: list[Judged]) -> None:
    """Compile; when the compiler finds that none fits, search again with as much less memory as it says."""
    headroom = 0.0
    for _ in range(_HEADROOM_RETRIES + 1):
        _compile_once(state, candidates)
        over = _overshoot_bytes(candidates)
        if over is None:
            return
        headroom += over
        state.progress.note(
            f"the compiler finds no candidate that fits; searching again with {headroom / 2**30:.2f} GiB per chip held back"
        )
        candidates[:0] = _search(state, headroom)


def _compile_once(state: _Run, candidates: list[Judged]) -> None:
    waiting = [i for i, c in enumerate(candidates) if c.compiled is None]
    state.progress.stage("compile", total=len(waiting))

    def note(index: int, judged: Judged) -> None:
        candidates[waiting[index]] = judged
        if judged.status != "ok":
            state.progress.note(f"candidate {waiting[index] + 1} dropped: {judged.status}")

    compile_candidates(
        state.traced,
        [candidates[i] for i in waiting],
        workers=state.options.workers,
        time_limit_seconds=_COMPILE_SECONDS,
        on_start=lambda index: state.progress.step(f"candidate {waiting[index] + 1}"),
        on_result=note,
    )


def _overshoot_bytes(candidates: Sequence[Judged]) -> float | None:
    """How much more than predicted the compiler needs where every candidate is out of memory, None when one is not."""
    sizes = []
    for candidate in candidates:
        compiled = candidate.compiled
        if compiled is None or compiled.status != "out of memory" or compiled.hbm_bytes_per_chip is None:
            return None
        sizes.append(compiled.hbm_bytes_per_chip - candidate.plan.predicted.hbm_bytes_per_chip)
    return float(max(min(sizes), 0) + 2**26)


def _timing_skip_reason(state: _Run, n_candidates: int) -> str | None:
    if state.options.slice_text == "local":
        return None
    if state.slice_.chip.kind != "cpu":
        return f"{state.slice_.name} is not attached to this machine; on the slice itself, use --slice local"
    return host_memory_reason(state.traced, n_candidates)


def _time(state: _Run, candidates: list[Judged]) -> None:
    able = [i for i, c in enumerate(candidates) if c.status == "ok"]
    state.progress.stage("time")
    local = state.options.slice_text == "local"
    judged = time_candidates(
        state.traced,
        [candidates[i] for i in able],
        cpu_devices=None if local else state.slice_.n_chips,
        platform={"tpu": "tpu", "gpu": "cuda", "cpu": "cpu"}[state.slice_.chip.kind],
        seed=state.options.seed,
        time_limit_seconds=_TIMING_SECONDS,
        on_progress=state.progress.step,
    )
    for index, result in zip(able, judged, strict=True):
        candidates[index] = result
        if result.status != "ok":
            state.progress.note(f"candidate {index + 1} disqualified: {result.status}")


# The choice.


def _chosen(state: _Run, candidates: Sequence[Judged]) -> Plan:
    ranked = rank(candidates)
    if ranked[0].status != "ok":
        reasons = "; ".join(dict.fromkeys(c.status for c in ranked))
        raise InfeasibleError(f"no candidate of `{state.target.name}` survived the compiler or the devices: {reasons}")
    if state.interrupted:
        for tier in (ESTIMATED, MEASURED):
            state.skipped.setdefault(tier, "the run was interrupted")
    plan = ranked[0].plan
    skipped = {
        tier: reason
        for tier, reason in state.skipped.items()
        if (plan.estimated if tier == ESTIMATED else plan.measured) is None
    }
    return msgspec.structs.replace(
        plan, skipped=skipped, runners_up=tuple(_runner_up(candidate) for candidate in ranked[1:])
    )


def _runner_up(candidate: Judged) -> RunnerUp:
    plan = candidate.plan
    compiled = candidate.compiled
    nbytes = compiled.hbm_bytes_per_chip if compiled is not None else None
    return RunnerUp(
        summary=_summary(plan),
        predicted_seconds=plan.predicted_seconds,
        estimated_seconds=plan.estimated_seconds,
        measured_seconds=plan.measured_seconds,
        hbm_bytes_per_chip=nbytes if nbytes is not None else plan.hbm_bytes_per_chip,
        status=candidate.status,
    )


def _summary(plan: Plan) -> str:
    """The layouts of the three einsums that take longest."""
    heavy = sorted(plan.einsums, key=lambda e: -e.trips * max(e.compute_seconds, e.hbm_seconds))[:3]
    return "; ".join(f"{e.name} {e.layout}" for e in heavy)

