"""`autoshard tune TARGET --slice SLICE`: search a plan, refine it as far as this machine can, write it."""

from __future__ import annotations

import argparse
import os

from autoshard.commands import tune_phases
from autoshard.commands.command import INTERRUPTED, OK, Command, add_format
from autoshard.commands.virtual_devices import give_devices
from autoshard.commands.wishes import (
    above_zero,
    add_choice,
    add_forbid,
    add_hbm_limit,
    add_mesh,
    add_padding,
    add_pin,
    add_profile,
)
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.plan_file import check_writable
from autoshard.progress import Progress
from autoshard.tune_result import TuneResult, to_json
from autoshard.units import format_seconds

_LOCAL = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="+",
        help="the function, as MODULE_OR_FILE:FUNCTION; several are phases that are planned together",
    )
    parser.add_argument(
        "--slice",
        required=True,
        help="chips to plan for: v4:4x4x4, v5e:4x4, 2*v5e:16x16, h100:64, cpu:8, local",
    )
    parser.add_argument(
        "--inputs",
        metavar="TARGET",
        action="append",
        help="function that returns the abstract arguments; of several phases once for each, in their order",
    )
    tune_phases.add_arguments(parser)
    parser.add_argument("-o", "--output", metavar="PLAN", help="plan file to write")
    parser.add_argument("--objective", choices=("latency",), default="latency", help="what to minimise")
    parser.add_argument(
        "--refine",
        choices=("none", "compile", "time", "auto"),
        default="auto",
        help="take the best candidates nowhere, to the compiler, to the hardware, or as far as this "
        "machine can (default)",
    )
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="candidates to refine (default: 5)"
    )
    add_mesh(parser)
    parser.add_argument(
        "--trials",
        type=positive,
        default=16,
        metavar="N",
        help="meshes to try, and combinations of choices (default: 16)",
    )
    add_pin(parser)
    add_forbid(parser)
    add_choice(parser)
    add_hbm_limit(parser)
    add_padding(parser)
    parser.add_argument(
        "--shardings",
        choices=("free", "keep"),
        default="free",
        help="shardings of the model, those of its abstract arguments and its sharding constraints: the plan "
        "decides instead (default), or keeps them, on their own mesh, and decides the rest",
    )
    add_profile(parser)
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get("OPTUNA_STORAGE"),
        help="where trials are kept, so that a run resumes and several share the work: sqlite:///tune.db, "
        "journal:///tune.log, postgresql://user@host/db (default: $OPTUNA_STORAGE)",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="SECONDS",
        help="stop the search then, with the best plan so far",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write the compiled timeline of the plan as a Chrome trace, for https://ui.perfetto.dev; "
        "FILE.gz is compressed",
    )
    parser.add_argument(
        "--compile-options",
        choices=("default", "none", "search"),
        default="default",
        help="options of the TPU compiler in the plan: ours (default), none of ours, or the fastest that a "
        "search finds by compiling the best candidate under others",
    )
    parser.add_argument(
        "--option-trials",
        type=positive,
        default=12,
        metavar="N",
        help="sets of compile options to try, each one a compile (default: 12)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the inputs that are timed and of the searches for choices and compile options "
        "(default: 0)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tune, write the plan, print the result."""
    if len(arguments.target) > 1:
        return tune_phases.run(arguments)
    tune_phases.require_one(arguments)
    if arguments.output is not None:
        check_writable(arguments.output)
    if arguments.trace is not None:
        _check_traceable(arguments)
    if arguments.slice != _LOCAL:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process plans; only its children need devices
        if arguments.shardings == "keep":
            give_devices(arguments.slice)
    progress = Progress(quiet=arguments.quiet)
    try:
        result = _tune(arguments, progress)
        if arguments.output is not None:
            result.plan.save(arguments.output)
        if arguments.trace is not None:
            _write_trace(result, arguments, progress)
    finally:
        progress.close()
    print(
        to_json(result, arguments.output) if arguments.format == "json" else _text(result, arguments.output)
    )
    return INTERRUPTED if result.interrupted else OK


def _tune(arguments: argparse.Namespace, progress: Progress) -> TuneResult:
    from autoshard.choices import parse_choices
    from autoshard.tuning import tune_target

    return tune_target(
        arguments.target[0],
        slice=arguments.slice,
        inputs=arguments.inputs[-1] if arguments.inputs else None,
        objective=arguments.objective,
        refine=arguments.refine,
        top_k=arguments.top_k,
        mesh=arguments.mesh,
        trials=arguments.trials,
        storage=arguments.storage,
        time_limit_seconds=arguments.time_limit,
        seed=arguments.seed,
        pins=arguments.pin,
        profile=arguments.profile,
        compile_options=arguments.compile_options,
        option_trials=arguments.option_trials,
        shardings=arguments.shardings,
        hbm_limit_bytes=arguments.hbm_limit,
        forbid=arguments.forbid,
        choices=parse_choices(arguments.choice),
        padding=arguments.padding,
        progress=progress,
    )


def _check_traceable(arguments: argparse.Namespace) -> None:
    """Refuse a trace that cannot be written before the search, not after it."""
    from autoshard.plan_trace import check_trace_path, traceable_slice

    check_trace_path(arguments.trace)
    if arguments.slice != _LOCAL:
        traceable_slice(arguments.slice, arguments.profile, lambda _: None)


def _write_trace(result: TuneResult, arguments: argparse.Namespace, progress: Progress) -> None:
    from autoshard.plan_trace import write_plan_trace

    write_plan_trace(result.plan, arguments.trace, progress, arguments.profile)
    progress.note(f"trace written to {arguments.trace}")


def _text(result: TuneResult, plan_path: str | None) -> str:
    written = f"plan written to {plan_path}" if plan_path else "plan not written: give -o PLAN to keep it"
    return (
        f"{to_text(explain(result.plan))}\n\n{written}; search took {format_seconds(result.search_seconds)}, "
        f"the whole run {format_seconds(result.total_seconds)}"
    )


def _kept(arguments: argparse.Namespace) -> str:
    if arguments.storage:
        return (
            f"no plan was written; finished trials are kept in {arguments.storage}: the same command resumes"
        )
    return (
        "no plan was written and nothing was kept: give --storage sqlite:///tune.db to make a run resumable"
    )


def positive(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got `{text}`")
    return int(text)


def seconds(text: str) -> float:
    """Read a time above 0, for argparse."""
    return above_zero(text, "seconds")


COMMAND = Command(
    name="tune",
    summary="search, refine and write the plan of a function for a slice",
    examples="""\
  autoshard tune model.py:decode_step --slice v5e:4x4 --inputs model.py:decode_inputs -o plans/decode.json
  autoshard tune mypackage.model:step --slice v4:4x4x4 --refine none --format json
  autoshard tune examples/palm.py:decode_540b --slice v4:4x4x4 --refine none --pin 'params/layers/w_*=;x;y,z'
  autoshard tune examples/palm.py:decode_540b --slice v4:4x4x4 --forbid 'params/layers/w_*=*;x;*'
  autoshard tune examples/train.py:train_8b --slice v5p:2x2x2 --choice remat=dots,full -o plans/train.json
  autoshard tune examples/llama.py:decode_8b --slice v5e:2x4 --hbm-limit 4.5 -o plans/lean.json
  autoshard tune model.py:decode_step --slice v5e:4x4 --inputs model.py:decode_inputs --trace step.json.gz
  autoshard tune model.py:decode_step --slice v5e:4x4 --inputs model.py:decode_inputs --compile-options search
  autoshard tune model.py:decode_step --slice local --inputs model.py:decode_inputs -o plans/decode.json
  autoshard tune model.py:prefill model.py:decode --share params --handover cache --slice v4:4x4x4 -o p.json

Compiles are kept in $AUTOSHARD_CACHE (default: ~/.cache/autoshard; `off` keeps none): what is tuned again
compiles nothing.

Several targets are phases in the order in which they run: --share keeps arguments in one layout in all of
them, --handover prices what a phase takes from the one before it, --weights says how often each runs. Each
gets a plan of its own: -o plan.json writes plan.prefill.json and plan.decode.json.""",
    add_arguments=add_arguments,
    run=run,
    kept=_kept,
)
