"""`autoshard calibrate`: measure the devices of this machine, and write a chip profile."""

from __future__ import annotations

import argparse
import os

from autoshard.calibration.probes import ROUNDS
from autoshard.commands.command import OK, Command, add_format
from autoshard.commands.tune import positive
from autoshard.cost.profiles import require_writable, save_profile
from autoshard.progress import Progress

_LOCAL = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--slice",
        default=_LOCAL,
        help="local: the attached devices (default); cpu:N: N virtual CPU devices of this host",
    )
    parser.add_argument("-o", "--output", metavar="PROFILE", help="chip profile to write")
    parser.add_argument(
        "--rounds",
        type=positive,
        default=ROUNDS,
        metavar="N",
        help=f"how often each operation is timed, the median counts (default: {ROUNDS})",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the profile, print what was found."""
    if arguments.output is not None:
        require_writable(arguments.output)
    if arguments.slice != _LOCAL:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the child has the devices that are measured
    from autoshard.calibration import text
    from autoshard.calibration.calibrate import calibrate

    progress = Progress(quiet=arguments.quiet)

    def report(step: str) -> None:
        progress.stage(f"calibrate {arguments.slice}: {step}")

    try:
        found = calibrate(arguments.slice, rounds=arguments.rounds, on_step=report)
    finally:
        progress.close()
    if arguments.output is not None:
        save_profile(found.profile, arguments.output)
    if arguments.format == "json":
        print(text.to_json(found, arguments.output))
        return OK
    print(text.to_text(found))
    print(f"\n{_written(arguments.output)}")
    return OK


def _written(path: str | None) -> str:
    if path is None:
        return "profile not written: give -o PROFILE to keep it"
    return f"profile written to {path}: `autoshard tune --profile {path}` or AUTOSHARD_PROFILE={path} use it"


COMMAND = Command(
    name="calibrate",
    summary="measure the devices of this machine against the chip table, and write a chip profile",
    examples="""\
  autoshard calibrate -o chip.json
  autoshard calibrate --slice cpu:8 -o cpu8.json
  autoshard calibrate --slice cpu:8 --format json --quiet
  autoshard tune model.py:decode_step --slice cpu:8 --profile cpu8.json -o plans/decode.json""",
    add_arguments=add_arguments,
    run=run,
)
