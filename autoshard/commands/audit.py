"""`autoshard audit PLAN`: the collectives that the TPU compiler makes against those that the plan predicts.

Without a plan, `autoshard audit TARGET --slice SLICE`: the collectives of a function with its own shardings.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from autoshard.commands.command import DIFFERENT, OK, Command, add_format
from autoshard.commands.virtual_devices import give_devices
from autoshard.errors import OptionError
from autoshard.plan import load_plan
from autoshard.progress import Progress

if TYPE_CHECKING:
    from autoshard.audit.records import Audit

DEFAULT_THRESHOLD = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "plan",
        metavar="PLAN",
        help="plan file; or, with --slice, a function with its own shardings, as MODULE_OR_FILE:FUNCTION",
    )
    parser.add_argument(
        "--threshold",
        type=_fraction,
        default=DEFAULT_THRESHOLD,
        metavar="FRACTION",
        help="exit 1 when the bytes that were not predicted are more than this fraction of all compiled "
        f"collective bytes (default: {DEFAULT_THRESHOLD:g}); with a plan only",
    )
    parser.add_argument("--slice", help="without a plan: chips to compile for, such as v5e:2x4")
    parser.add_argument(
        "--inputs", metavar="TARGET", help="without a plan: function that returns the abstract arguments"
    )
    parser.add_argument(
        "--mesh",
        metavar="AXES",
        help="without a plan: mesh that bare PartitionSpecs are over, outermost axis first, such as "
        "data=2,model=4 (default: that of the function's shardings)",
    )
    parser.add_argument("--all", action="store_true", help="show collectives of next to no bytes, too")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the audit; the exit code says whether too many bytes are unexpected."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process traces; a child compiles
    progress = Progress(quiet=arguments.quiet)
    try:
        audit = _with_plan(arguments, progress) if arguments.slice is None else _without(arguments, progress)
    finally:
        progress.close()
    from autoshard.audit.json_report import to_json
    from autoshard.audit.text import to_text

    if arguments.format == "json":
        print(to_json(audit, arguments.threshold))
    else:
        print(to_text(audit, arguments.threshold, everything=arguments.all))
    return DIFFERENT if audit.has_plan and audit.unexpected_fraction > arguments.threshold else OK


def _with_plan(arguments: argparse.Namespace, progress: Progress) -> Audit:
    text = arguments.plan
    for option in ("inputs", "mesh"):
        if getattr(arguments, option) is not None:
            raise OptionError(f"--{option} goes with a function and --slice; a plan says its own")
    if ":" in text and not Path(text).exists() and not text.endswith(".json"):
        raise OptionError(
            f"`{text}` is a function, and no plan: give --slice to audit the shardings that it has, or "
            f"make a plan with `autoshard tune {text} --slice SLICE -o PLAN`"
        )
    plan = load_plan(text)
    if plan.kept:
        give_devices(plan.slice)
    from autoshard.audit.planned import audit_plan

    return audit_plan(plan, progress.stage)


def _without(arguments: argparse.Namespace, progress: Progress) -> Audit:
    if Path(arguments.plan).exists() or arguments.plan.endswith(".json"):
        raise OptionError(f"--slice goes with a function: the plan `{arguments.plan}` is for a slice already")
    give_devices(arguments.slice)
    from autoshard.audit.authored import audit_authored
    from autoshard.audit.meshes import parse_mesh

    return audit_authored(
        arguments.plan,
        arguments.slice,
        inputs=arguments.inputs,
        mesh=parse_mesh(arguments.mesh) if arguments.mesh is not None else None,
        say=progress.stage,
    )


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise argparse.ArgumentTypeError(f"expected a fraction from 0 to 1, got `{text}`")
    return fraction


COMMAND = Command(
    name="audit",
    summary="lay the collectives that the TPU compiler makes against the predicted ones, by source line",
    examples="""\
  autoshard audit plans/decode.v5e-4x4.json
  autoshard audit plans/decode.v5e-4x4.json --threshold 0.01 --format json
  autoshard audit model.py:step --inputs model.py:inputs --slice v5e:2x4
  autoshard audit model.py:step --inputs model.py:inputs --slice v5e:2x4 --mesh data=2,model=4""",
    add_arguments=add_arguments,
    run=run,
)
