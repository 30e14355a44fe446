"""The command line: results on stdout, progress and errors on stderr, and an exit code that means something.

Exit codes: 0 done, 1 a difference was found (`check`, `audit`), 2 an error, 130 stopped by Ctrl-C. An error
that autoshard raises on purpose is a message without a traceback; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

import autoshard
from autoshard.commands import audit, calibrate, check, explain, frontier, tune
from autoshard.commands.command import ERROR, INTERRUPTED, Command
from autoshard.errors import AutoshardError

COMMANDS = (tune.COMMAND, frontier.COMMAND, explain.COMMAND, check.COMMAND, audit.COMMAND, calibrate.COMMAND)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `argv` is `sys.argv[1:]` when left out."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        code = command.run(arguments)
        sys.stdout.flush()
    except AutoshardError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"autoshard: error: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print(f"autoshard: interrupted: {command.kept(arguments)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return ERROR
    except Exception:
        traceback.print_exc()  # and not Python's own exit code 1, which says "stale" here
        print("autoshard: internal error: please report it with the lines above", file=sys.stderr)
        return ERROR
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoshard",
        description="Choose, prove and commit the shardings of any JAX Transformer.",
        epilog="autoshard COMMAND --help gives the arguments and examples of a command.",
    )
    parser.add_argument("--version", action="version", version=f"autoshard {autoshard.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub_parser = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub_parser)
        sub_parser.set_defaults(command=command)
    return parser


def _discard_stdout() -> None:
    """Let the interpreter's last flush succeed though the reader has gone, as in `explain | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
