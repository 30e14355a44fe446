"""What a sub-command is: its words, its arguments, and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

OK, DIFFERENT, ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; a difference was found (`check`, `audit`); an error; stopped by Ctrl-C (128 + SIGINT)."""


def _nothing_kept(arguments: argparse.Namespace) -> str:
    del arguments
    return "nothing was changed"


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command.

    Attributes:
        name: its name on the command line.
        summary: one line for the list of commands.
        examples: command lines that a newcomer can copy.
        add_arguments: declares its arguments.
        run: does the work, prints the result, returns the exit code.
        kept: says what an interrupted run leaves behind.
    """

    name: str
    summary: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    kept: Callable[[argparse.Namespace], str] = _nothing_kept


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare `--format`, which every command with a result has."""
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the result (default: text)"
    )
