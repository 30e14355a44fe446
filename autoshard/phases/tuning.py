"""`autoshard.tune_phases`: plans of several functions that share arrays, such as prefill and decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from autoshard.compiled.options import CompileOptions
from autoshard.cost.slices import parse_slice
from autoshard.errors import OptionError
from autoshard.phases.planning import run_phases
from autoshard.phases.result import JointPlans
from autoshard.progress import Progress
from autoshard.search.planner import DEFAULT_GAP
from autoshard.targets import load_target, target_of
from autoshard.tune_options import LOCAL, Options, Refine

Function = Callable[..., Any]


def tune_phases(
    *phases: Function | tuple[Function, Sequence[Any]],
    share: str | Sequence[str] = (),
    handover: str | Sequence[str] = (),
    weights: Sequence[float] | None = None,
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
    pins: Sequence[str] = (),
    profile: str | os.PathLike[str] | None = None,
    compile_options: CompileOptions = "default",
    option_trials: int = 12,
    hbm_limit_bytes: float | None = None,
    forbid: Sequence[str] = (),
    padding: str = "allow",
    progress: Progress | None = None,
) -> JointPlans:
    """Find the best sharding plans of several functions together, with what they share in one layout.

    The time of all runs of all phases is minimised, and of the hand-overs between them, on one mesh. Each
    phase may gather or reshard what it likes while it runs.

    Args:
        *phases: The functions in the order in which they run: each decorated with `autoshard.jit` and
            `inputs`, or a pair of a function and its abstract arguments. What is donated or static is said to
            the decorator.
        share: Patterns of the arguments that lie alike in all phases: "params", "params/layers/*".
        handover: Patterns of the arguments that are results of the phase before: "cache"; "cache=1" says
            where in the result.
        weights: How often each phase runs, such as (1, 64); left out, the first runs once and each other 64
            times, once for every token generated.
        slice: As for `autoshard.tune`, and so are all the others; pins and bans count in every phase in which
            they match something.
        objective: As for `autoshard.tune`.
        top_k: As for `autoshard.tune`, for each phase.
        refine: As for `autoshard.tune`.
        mesh: As for `autoshard.tune`.
        trials: As for `autoshard.tune`.
        storage: As for `autoshard.tune`.
        gap: As for `autoshard.tune`.
        time_limit_seconds: As for `autoshard.tune`.
        seed: As for `autoshard.tune`.
        pins: As for `autoshard.tune`.
        profile: As for `autoshard.tune`.
        compile_options: As for `autoshard.tune`.
        option_trials: As for `autoshard.tune`.
        hbm_limit_bytes: As for `autoshard.tune`, for each phase.
        forbid: As for `autoshard.tune`.
        padding: As for `autoshard.tune`.
        progress: As for `autoshard.tune`.

    Returns:
        A plan for each phase, with what planning them together costs. What is shared is placed once, by
        `jax.device_put(params, plan.in_formats(mesh)[0])`; what is handed over is brought to the next phase
        by `jax.device_put(cache, plan.in_formats(mesh)[1])`, which moves nothing where it lies so already.

    Raises:
        InfeasibleError: A phase fits in no plan, or not with what is shared in one layout.
        OptionError: A pattern matches nothing, what is shared or handed over differs in shape or dtype, or an
            option is not known; otherwise as `autoshard.tune`.
    """
    options = Options(
        slice,
        objective,
        refine,
        top_k,
        mesh,
        trials,
        storage,
        gap,
        time_limit_seconds,
        seed,
        pins=tuple(pins),
        profile=None if profile is None else os.fspath(profile),
        compile_options=compile_options,
        option_trials=option_trials,
        hbm_limit_bytes=hbm_limit_bytes,
        forbid=tuple(forbid),
        padding=padding,
    )
    pairs = [phase if isinstance(phase, tuple) else (phase, ()) for phase in phases]
    targets = [target_of(function, tuple(arguments), {}) for function, arguments in pairs]
    return run_phases(
        targets, _patterns(share), _patterns(handover), weights, options, progress or Progress(quiet=True)
    )


def tune_phase_targets(
    targets: Sequence[str],
    *,
    inputs: Sequence[str],
    share: Sequence[str],
    handover: Sequence[str],
    weights: Sequence[float] | None,
    options: Options,
    progress: Progress,
) -> JointPlans:
    """`tune_phases` for targets named on the command line, with an inputs function for each or for none."""
    if inputs and len(inputs) != len(targets):
        raise OptionError(
            f"--inputs is given {len(inputs)} times for {len(targets)} targets; give it once for each, in "
            "their order, or decorate the functions with @autoshard.jit(inputs=...)"
        )
    if options.slice_text != LOCAL:
        parse_slice(options.slice_text)  # before models are loaded, which may take a while
    loaded = []
    for number, target in enumerate(targets):
        progress.stage(f"load {target}")
        loaded.append(load_target(target, inputs[number] if inputs else None))
    return run_phases(loaded, share, handover, weights, options, progress)


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
