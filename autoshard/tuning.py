"""The whole run: trace, search, compile, time, choose, and write it all into a plan.

Each tier re-ranks the survivors of the one above. A tier that cannot run here is skipped and the plan says
why. Ctrl-C ends the run with the best plan known by then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoshard.candidate_search import CandidateSearch, SessionSearch
from autoshard.choice_search import ChoiceSearch
from autoshard.choices import Choices
from autoshard.choosing import choose, runner_up
from autoshard.compiled.options import CompileOptions
from autoshard.cost.layouts import fits
from autoshard.cost.slices import parse_slice
from autoshard.errors import InfeasibleError
from autoshard.judged import rank
from autoshard.option_refinement import with_first_options
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.refinement import Refinement
from autoshard.search.planner import DEFAULT_GAP
from autoshard.targets import Target, load_target, target_of
from autoshard.tune_options import LOCAL, Options, Refine
from autoshard.tune_result import TuneResult
from autoshard.tune_session import Session, open_session

_INTERRUPTED = "interrupted: keeping the best plan known so far"


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
    pins: Sequence[str] = (),
    profile: str | os.PathLike[str] | None = None,
    compile_options: CompileOptions = "default",
    option_trials: int = 12,
    shardings: str = "free",
    hbm_limit_bytes: float | None = None,
    forbid: Sequence[str] = (),
    choices: Choices | None = None,
    padding: str = "allow",
    progress: Progress | None = None,
    **jit_options: Any,
) -> Plan:
    """Find the best sharding plan of a function for a slice.

    Args:
        fn: The function, decorated with `autoshard.jit` or not.
        *abstract_args: Its arguments: pytrees of `jax.ShapeDtypeStruct` or arrays. Left out, the decorator's
            `inputs` are used.
        slice: "CHIP:TOPOLOGY", such as "v5e:4x4", "cpu:8", or "local" for the attached devices.
        objective: What to minimise: "latency", the time of a step.
        top_k: Candidates that go to the compiler and to the devices.
        refine: "none", "compile" (TPU compiler), "time" (devices), or "auto": as far as this machine can.
        mesh: "native", "auto" or "search": how many factorisations of the torus to try.
        trials: Most meshes to try, and most combinations of choices.
        storage: URL (`autoshard.studies`) of where the studies of meshes, choices and compile options are,
            such as "sqlite:///tune.db" or "journal:///tune.log"; None keeps them in memory.
        gap: Relative distance to the proven optimum at which the search may stop.
        time_limit_seconds: Limit of each search.
        seed: Of the inputs for timing, and of the searches for choices and compile options.
        pins: Layouts that the plan must keep to, each "PATTERN=SPEC" (`autoshard.pin_text`): of an argument
            ("params/layers/w_*=;x;y,z"), of a result ("result:1/keys=;x;;") or of an einsum
            ("einsum:layers/w_up=;;x | x;y,z -> ;;y,z").
        profile: Chip profile with numbers measured by `autoshard calibrate`; left out, the one that
            `AUTOSHARD_PROFILE` names, or else the chip table.
        compile_options: Options of the TPU compiler in the plan: "default" (`autoshard.compiled.options`),
            "none" of ours, or "search": the fastest by the compiler's estimate, the default ones included.
        option_trials: Most sets of compile options to try, each one a compile.
        shardings: What becomes of the shardings of the model itself: "free", the plan decides instead, or
            "keep", it keeps them, on their mesh, and decides the rest (`autoshard.kept_shardings`).
        hbm_limit_bytes: HBM per chip that the plan must stay under; left out, what a chip has.
        forbid: Mesh axes that dims may not be sharded along, each "PATTERN=SPEC" like a pin, the spec naming
            the forbidden axes of each dim, "*" none and "any" all: "params/*/wq=x;*;*".
        choices: Values of keyword arguments that change the program but not its meaning
            (`autoshard.choices`), such as ``{"remat": ("none", "full")}``: the plan has one of each. They
            override those of the same names that the decorator declares.
        padding: Whether dims that chips do not divide may be split padded: "allow" it within the program,
            arguments and results staying even (`autoshard.cost.padding`), or "never".
        progress: Where to report; silent by default.
        **jit_options: `donate_argnums`, `donate_argnames`, `static_argnums`, `static_argnames` as in
            `jax.jit`.

    Returns:
        The winning plan with the evidence for it. After Ctrl-C, once a plan is known, the best one so far.

    Raises:
        TraceError: The function cannot be traced.
        InfeasibleError: No plan fits the chips' memory, or the limit.
        SliceError: The slice does not exist.
        OptionError: An option is not known, or a number is out of its range; or shardings to keep are over
            several meshes, or over one that cannot lie on the slice.
        PinError: A pin or a ban is malformed, matches nothing, or asks for what is not possible; or a
            sharding cannot be kept.
        ProfileError: The profile is not a sound one of the slice's chip.
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
        shardings=shardings,
        hbm_limit_bytes=hbm_limit_bytes,
        forbid=tuple(forbid),
        padding=padding,
    )
    target = target_of(fn, abstract_args, jit_options).choosing(choices or {})
    return run(target, options, progress or Progress(quiet=True)).plan


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
    pins: Sequence[str] = (),
    profile: str | os.PathLike[str] | None = None,
    compile_options: CompileOptions = "default",
    option_trials: int = 12,
    shardings: str = "free",
    hbm_limit_bytes: float | None = None,
    forbid: Sequence[str] = (),
    choices: Choices | None = None,
    padding: str = "allow",
    progress: Progress | None = None,
) -> TuneResult:
    """`tune` for a target named on the command line; returns the plan with what finding it took."""
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
        shardings=shardings,
        hbm_limit_bytes=hbm_limit_bytes,
        forbid=tuple(forbid),
        padding=padding,
    )
    if slice != LOCAL:
        parse_slice(slice)  # before a model is loaded, which may take a while
    progress = progress or Progress(quiet=True)
    progress.stage(f"load {target}")
    return run(load_target(target, inputs).choosing(choices or {}), options, progress)


def run(target: Target, options: Options, progress: Progress) -> TuneResult:
    """Trace, search, refine, choose."""
    started = time.monotonic()
    if target.choices:
        return _run_search(ChoiceSearch(target, options, progress), started)
    return run_session(open_session(target, options, progress), started)


def run_session(session: Session, started: float) -> TuneResult:
    """Search, refine, choose; `started` is when the run began, by `time.monotonic`."""
    return _run_search(SessionSearch(session), started)


def _run_search(search: CandidateSearch, started: float) -> TuneResult:
    session = search.session
    searching = time.monotonic()
    found = search.candidates()
    search_seconds = time.monotonic() - searching
    if not found.candidates:
        raise _with_wishes(search.does_not_fit(), session.options)
    note_replicated(session)
    candidates = with_first_options(session, found.candidates)
    refinement = Refinement(session, candidates, search.candidates)
    interrupted = found.interrupted or not _finishes(refinement)
    if interrupted:
        session.progress.note(_INTERRUPTED)
    plan = choose(refinement, interrupted=interrupted)
    everyone = tuple(runner_up(candidate) for candidate in rank(refinement.candidates))
    return TuneResult(plan, search_seconds, time.monotonic() - started, everyone, interrupted)


def _with_wishes(error: InfeasibleError, options: Options) -> InfeasibleError:
    """The error, with a word on pins and bans: without them it might fit."""
    count = len(options.pins) + len(options.forbid)
    if not count:
        return error
    kind = "ban" if not options.pins else "pin or ban" if options.forbid else "pin"
    kinds = kind.replace(" or ", "s and ") + "s"
    held = f"1 {kind} holds: without it" if count == 1 else f"{count} {kinds} hold: with fewer of them"
    return InfeasibleError(f"{error}; {held} there is more room")


def _finishes(refinement: Refinement) -> bool:
    """Refine; False when Ctrl-C ended it."""
    try:
        refinement.run()
    except KeyboardInterrupt:
        return False
    return True


def note_replicated(session: Session) -> None:
    """Say so when no mesh axis can split any dim of an einsum: every chip then does the whole work."""
    sizes = [axis.size for mesh in session.meshes for axis in mesh.axes if axis.size > 1]
    factors = {factor.size for op in session.graph.einsums for factor in op.factors}
    chips = np.array(sizes, dtype=np.int64)[:, None]
    padded = session.options.padding == "allow"
    if sizes and not any(fits(chips, [factor], padded=padded).any() for factor in factors):
        session.progress.note(
            f"no mesh axis of {session.slice_.name} divides a dim of any einsum of `{session.target.name}`: "
            "they are replicated, and every chip does all of the work; choose another slice"
            f"{'' if padded else ', or allow padding'}"
        )
