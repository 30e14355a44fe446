"""`autoshard explain PLAN`: where the step's time goes, from the plan file alone.

With `--coverage` instead how much of the function is under decisions; a function without a plan is traced for
that. With `--trace` also the compiled timeline, for which the function is compiled.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from autoshard import coverage_text, explain_text
from autoshard.commands.command import OK, Command, add_format
from autoshard.coverage_records import Coverage
from autoshard.errors import OptionError
from autoshard.explain import explain
from autoshard.plan import Plan, load_plan
from autoshard.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "plan",
        metavar="PLAN",
        help="plan file; with --coverage also a function, as MODULE_OR_FILE:FUNCTION",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="print instead what part of the function is under decisions, and what is not and why",
    )
    parser.add_argument(
        "--inputs", metavar="TARGET", help="function that returns the abstract arguments of a function"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="also write the compiled timeline of the plan as a Chrome trace, for https://ui.perfetto.dev; "
        "FILE.gz is compressed; its function is traced and, unless the compile cache has it, compiled",
    )
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation, or the coverage."""
    as_json = arguments.format == "json"
    _check(arguments)
    if arguments.coverage:
        function, coverage = _coverage(arguments)
        write = coverage_text.to_json if as_json else coverage_text.to_text
        print(write(function, coverage))
    else:
        plan = load_plan(arguments.plan)
        if arguments.trace is not None:
            _trace(plan, arguments.trace)
        explanation = explain(plan)
        print(explain_text.to_json(explanation) if as_json else explain_text.to_text(explanation))
    return OK


def _is_target(text: str) -> bool:
    """Whether a text is MODULE_OR_FILE:FUNCTION rather than the path of a plan file."""
    return ":" in text and not text.endswith(".json") and not Path(text).exists()


def _trace(plan: Plan, path: str) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process plans; only its children need devices
    from autoshard.plan_trace import check_trace_path, write_plan_trace

    check_trace_path(path)
    progress = Progress()
    try:
        write_plan_trace(plan, path, progress)
        progress.note(f"trace written to {path}")
    finally:
        progress.close()


def _check(arguments: argparse.Namespace) -> None:
    if arguments.coverage and arguments.trace is not None:
        raise OptionError(
            "--trace is of a plan's timeline, and --coverage of its decisions: give one of them"
        )
    if not _is_target(arguments.plan):
        if arguments.inputs is not None:
            raise OptionError(
                f"--inputs goes with a function, and `{arguments.plan}` is a plan file: leave --inputs out, "
                "or name the function as MODULE_OR_FILE:FUNCTION"
            )
    elif not arguments.coverage:
        raise OptionError(
            f"`{arguments.plan}` is a function, and what is explained is a plan: make one with `autoshard "
            f"tune {arguments.plan} --slice SLICE -o PLAN`, or give --coverage, which needs no plan"
        )


def _coverage(arguments: argparse.Namespace) -> tuple[str, Coverage]:
    if not _is_target(arguments.plan):
        plan = load_plan(arguments.plan)
        return plan.function.name, plan.coverage
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tracing needs no accelerator, and must not hold one
    from autoshard.target_coverage import coverage_of_target

    progress = Progress()
    try:
        return coverage_of_target(arguments.plan, arguments.inputs, progress)
    finally:
        progress.close()


COMMAND = Command(
    name="explain",
    summary="print each einsum's layout, collectives, time and what bounds it, from the plan file alone",
    examples="""\
  autoshard explain plans/decode.v5e-4x4.json
  autoshard explain plans/decode.v5e-4x4.json --format json
  autoshard explain plans/decode.v5e-4x4.json --trace decode.json.gz
  autoshard explain plans/decode.v5e-4x4.json --coverage
  autoshard explain model.py:decode_step --inputs model.py:decode_inputs --coverage""",
    add_arguments=add_arguments,
    run=run,
)
