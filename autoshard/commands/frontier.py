"""`autoshard frontier TARGET --slice A --slice B`: the Pareto front of time, cost and memory."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from autoshard.commands.command import INTERRUPTED, OK, Command, add_format
from autoshard.commands.tune import positive, seconds
from autoshard.commands.wishes import (
    above_zero,
    add_forbid,
    add_hbm_limit,
    add_mesh,
    add_padding,
    add_pin,
    add_profile,
)
from autoshard.errors import InfeasibleError
from autoshard.plan_file import check_writable
from autoshard.progress import Progress

if TYPE_CHECKING:
    from autoshard.frontier import Wish
    from autoshard.frontier_search import Frontier

_LOCAL = "local"
_GAP = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("target", metavar="TARGET", help="the function, as MODULE_OR_FILE:FUNCTION")
    parser.add_argument(
        "--slice",
        action="append",
        required=True,
        help="chips to plan for, may be repeated: v4:4x4x4, v5e:4x4, 2*v5e:16x16, h100:64, cpu:8, local",
    )
    parser.add_argument("--inputs", metavar="TARGET", help="function that returns the abstract arguments")
    parser.add_argument("-o", "--output", metavar="PLAN", help="plan file to write: the plan that is picked")
    parser.add_argument(
        "--objective",
        choices=("latency", "throughput"),
        default="latency",
        help="what to pick: the fastest plan (default), or the one of fewest chip-seconds a step",
    )
    parser.add_argument(
        "--cost-limit",
        type=_chip_seconds,
        metavar="CHIP_SECONDS",
        help="pick the fastest plan of at most so many chip-seconds a step (with --objective latency)",
    )
    parser.add_argument(
        "--latency-limit",
        type=seconds,
        metavar="SECONDS",
        help="pick the cheapest plan whose step takes no longer (with --objective throughput)",
    )
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help="tokens that a step handles: prints the cost of a token"
    )
    parser.add_argument(
        "--points",
        type=positive,
        default=8,
        metavar="N",
        help="most plans of a slice: the fastest, then those in ever less memory, down to the least possible "
        "(default: 8; 1: the fastest alone)",
    )
    add_mesh(parser)
    parser.add_argument(
        "--trials", type=positive, default=16, metavar="N", help="meshes of a slice to try (default: 16)"
    )
    parser.add_argument(
        "--gap",
        type=_gap,
        default=_GAP,
        metavar="SHARE",
        help=f"distance of each plan to its proven optimum that is good enough (default: {_GAP})",
    )
    add_pin(parser)
    add_forbid(parser)
    add_hbm_limit(parser)
    add_padding(parser)
    add_profile(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search the front, write the picked plan, print the front."""
    slices = list(dict.fromkeys(arguments.slice))
    if arguments.output is not None:
        check_writable(arguments.output)
    if _LOCAL not in slices:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the model alone judges: no device is needed
    from autoshard.frontier import Wish

    wish = Wish(arguments.objective, arguments.cost_limit, arguments.latency_limit)
    progress = Progress(quiet=arguments.quiet)
    try:
        found = _search(arguments, slices, wish, progress)
        if arguments.output is not None and found.plan is not None:
            found.plan.save(arguments.output)
    finally:
        progress.close()
    _print(arguments, found, wish)
    if found.interrupted:
        return INTERRUPTED
    if found.picked is None:
        raise InfeasibleError(found.why_none or "no plan is wanted")
    return OK


def _search(arguments: argparse.Namespace, slices: list[str], wish: Wish, progress: Progress) -> Frontier:
    from autoshard.cost.slices import parse_slice
    from autoshard.frontier_search import frontier_of_target
    from autoshard.tune_options import Options

    for text in slices:
        if text != _LOCAL:
            parse_slice(text)  # before a model is loaded, which may take a while
    options = Options(
        slices[0],
        refine="none",
        mesh=arguments.mesh,
        trials=arguments.trials,
        gap=arguments.gap,
        pins=tuple(arguments.pin),
        profile=arguments.profile,
        hbm_limit_bytes=arguments.hbm_limit,
        forbid=tuple(arguments.forbid),
        padding=arguments.padding,
    )
    return frontier_of_target(
        arguments.target,
        slices,
        options,
        wish,
        progress,
        inputs=arguments.inputs,
        tokens=arguments.tokens,
        points=arguments.points,
    )


def _print(arguments: argparse.Namespace, found: Frontier, wish: Wish) -> None:
    from autoshard import frontier_text

    written = arguments.output if found.picked is not None else None
    write = frontier_text.to_json if arguments.format == "json" else frontier_text.to_text
    print(write(found, wish, written))


def _chip_seconds(text: str) -> float:
    return above_zero(text, "chip-seconds")


def _gap(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else above_zero(text, "a share")


COMMAND = Command(
    name="frontier",
    summary="print the Pareto front of step time, cost and memory over slices, and pick a plan of it",
    examples="""\
  autoshard frontier examples/llama.py:decode_8b --slice v5e:2x4 --slice v5e:4x4 --tokens 32
  autoshard frontier model.py:decode_step --inputs model.py:decode_inputs --slice v5e:4x4 --points 1
  autoshard frontier examples/palm.py:decode_540b --slice v4:4x4x4 --slice v4:4x4x8 --cost-limit 6
  autoshard frontier examples/llama.py:decode_8b --slice v5e:2x4 --slice v5e:4x4 --objective throughput \\
      --latency-limit 0.008 --format json

The model alone judges (tier 0); `autoshard tune` takes the best plans of a slice to the compiler and to the
hardware. Chip-seconds of different chips are compared as they are, whatever the chips cost.""",
    add_arguments=add_arguments,
    run=run,
)
