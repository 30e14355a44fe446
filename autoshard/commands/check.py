"""`autoshard check PLAN ...`: do plans still fit their functions? For CI and hooks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from autoshard.commands.command import DIFFERENT, ERROR, OK, Command, add_format
from autoshard.commands.virtual_devices import give_devices
from autoshard.errors import AutoshardError
from autoshard.mending import mend_command
from autoshard.plan import load_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("plans", metavar="PLAN", nargs="+", help="plan file")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a verdict per plan; the exit code is that of the worst."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tracing needs no accelerator, and must not hold one
    _give_devices(arguments.plans)
    verdicts = [_check(path) for path in arguments.plans]
    if arguments.format == "json":
        print(json.dumps([verdict for verdict, _ in verdicts], indent=2, ensure_ascii=False))
    else:
        for verdict, _ in verdicts:
            _print(verdict)
    return max(code for _, code in verdicts)


def _give_devices(paths: Sequence[str]) -> None:
    """Have as many devices as the largest plan wants that keeps shardings: its model may build their mesh."""
    kept: dict[int, str] = {}
    for path in paths:
        with suppress(AutoshardError):  # told when it is checked
            plan = load_plan(path)
            if plan.kept:
                kept[plan.n_chips] = plan.slice
    if kept:
        give_devices(kept[max(kept)])


def _check(path: str) -> tuple[dict[str, object], int]:
    from autoshard.checking import check_plan

    try:
        plan = load_plan(path)
        differences: Sequence[str] = [str(difference) for difference in check_plan(plan)]
    except AutoshardError as error:
        message = str(error)
        named = message if message.startswith(path) else f"{path}: {message}"
        return {"plan": path, "state": "error", "error": named}, ERROR
    if differences:
        mend = mend_command(plan, path)
        return {"plan": path, "state": "stale", "differences": differences, "mend": mend}, DIFFERENT
    return {"plan": path, "state": "fresh"}, OK


def _print(verdict: dict[str, object]) -> None:
    if "error" in verdict:
        print(f"autoshard: error: {verdict['error']}", file=sys.stderr)
        return
    print(f"{verdict['plan']}: {verdict['state']}")
    differences = verdict.get("differences", ())
    for difference in differences if isinstance(differences, list) else ():
        print(f"    {difference}")
    if "mend" in verdict:
        print(f"    make it again with: {verdict['mend']}")


COMMAND = Command(
    name="check",
    summary="tell whether plans still fit their functions: exit 0 fresh, 1 stale, 2 error",
    examples="""\
  autoshard check plans/*.json
  autoshard check plans/decode.v5e-4x4.json --format json""",
    add_arguments=add_arguments,
    run=run,
)
