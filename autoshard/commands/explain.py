"""`autoshard explain PLAN`: where the step's time goes, from the plan file alone."""

from __future__ import annotations

import argparse

from autoshard.commands.command import OK, Command, add_format
from autoshard.explain import explain
from autoshard.explain_text import to_json, to_text
from autoshard.plan import load_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("plan", metavar="PLAN", help="plan file")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    explanation = explain(load_plan(arguments.plan))
    print(to_json(explanation) if arguments.format == "json" else to_text(explanation))
    return OK


COMMAND = Command(
    name="explain",
    summary="print each einsum's layout, collectives, time and what bounds it, from the plan file alone",
    examples="""\
  autoshard explain plans/decode.v5e-4x4.json
  autoshard explain plans/decode.v5e-4x4.json --format json""",
    add_arguments=add_arguments,
    run=run,
)
