"""`autoshard tune PREFILL DECODE --share params --handover cache`: phases planned together."""

from __future__ import annotations

import argparse
import os

from autoshard.commands.command import INTERRUPTED, OK
from autoshard.errors import OptionError
from autoshard.plan_file import check_writable
from autoshard.progress import Progress

_LOCAL = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only several targets take."""
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="PATTERN",
        help="arguments that lie in one layout in all phases, may be repeated: params, 'params/layers/*'",
    )
    parser.add_argument(
        "--handover",
        action="append",
        default=[],
        metavar="PATTERN",
        help="arguments that are results of the phase before, may be repeated: cache, or cache=1 to say "
        "where in the result",
    )
    parser.add_argument(
        "--weights",
        type=_weights,
        metavar="N,N",
        help="how often each phase runs (default: the first once, each other 64 times, once for every token "
        "that is generated: 1,64)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Tune the phases, write their plans, print the result."""
    from autoshard.phases.phase import unique_names
    from autoshard.phases.result import plan_paths

    if arguments.trace is not None:
        raise OptionError(
            "--trace is of one target; `autoshard explain PLAN --trace FILE` writes that of a plan"
        )
    if arguments.shardings == "keep":
        raise OptionError(
            "--shardings keep is of one target; phases have the shardings that planning finds, or --pin"
        )
    if arguments.choice:
        raise OptionError(
            "--choice is of one target; phases have the choices that the functions have by default"
        )
    names = unique_names([target.rpartition(":")[2] for target in arguments.target])
    if arguments.output is not None:
        for path in plan_paths(arguments.output, names):
            check_writable(path)
    if arguments.slice != _LOCAL:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process plans; only its children need devices
    progress = Progress(quiet=arguments.quiet)
    try:
        return _tune(arguments, progress)
    finally:
        progress.close()


def require_one(arguments: argparse.Namespace) -> None:
    """Refuse, with one target, what is of several.

    Raises:
        OptionError: such an option is given.
    """
    given = [name for name in ("share", "handover", "weights") if getattr(arguments, name)]
    if given:
        raise OptionError(
            f"--{given[0]} is of phases that are planned together, and there is one target; name the others "
            "too, in the order in which they run"
        )


def _tune(arguments: argparse.Namespace, progress: Progress) -> int:
    from autoshard.phases.text import joint_json, joint_text
    from autoshard.phases.tuning import tune_phase_targets
    from autoshard.tune_options import Options

    joint = tune_phase_targets(
        arguments.target,
        inputs=arguments.inputs or (),
        share=arguments.share,
        handover=arguments.handover,
        weights=arguments.weights,
        options=Options(
            arguments.slice,
            arguments.objective,
            arguments.refine,
            arguments.top_k,
            arguments.mesh,
            arguments.trials,
            arguments.storage,
            time_limit_seconds=arguments.time_limit,
            seed=arguments.seed,
            pins=tuple(arguments.pin),
            profile=arguments.profile,
            compile_options=arguments.compile_options,
            option_trials=arguments.option_trials,
            hbm_limit_bytes=arguments.hbm_limit,
            forbid=tuple(arguments.forbid),
            padding=arguments.padding,
        ),
        progress=progress,
    )
    paths = () if arguments.output is None else joint.save(arguments.output)
    progress.close()
    print(joint_json(joint, paths) if arguments.format == "json" else joint_text(joint, paths))
    return INTERRUPTED if joint.interrupted else OK


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise argparse.ArgumentTypeError(
            f"expected a number above 0 for each phase, such as `1,64`, got `{text}`"
        )
    return weights
