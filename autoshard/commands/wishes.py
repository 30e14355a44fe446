"""What the user allows a search, for several commands: pins, bans, memory, padding, meshes, the chip."""

from __future__ import annotations

import argparse


def add_pin(parser: argparse.ArgumentParser) -> None:
    """Declare `--pin`."""
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="PATTERN=SPEC",
        help="layout that the plan must keep to, may be repeated: of an argument 'params/layers/w=;x;y,z', "
        "of a result 'result:1/keys=;x;;', of what an einsum reads and leaves, `*` being free, "
        "'einsum:layers/w_up=;;x | x;y,z -> *'",
    )


def add_forbid(parser: argparse.ArgumentParser) -> None:
    """Declare `--forbid`."""
    parser.add_argument(
        "--forbid",
        action="append",
        default=[],
        metavar="PATTERN=SPEC",
        help="mesh axes that dims may not be sharded along, may be repeated; PATTERN as in --pin, SPEC the "
        "axes that each dim may not have, `*` being none and `any` all: 'params/*/wq=x;*;*' keeps axis x "
        "off dim 0, 'result:1/keys=*;*;any;*' keeps dim 2 whole, 'einsum:layers/w_up=* | *;y,z -> *' is of "
        "what an einsum reads and leaves",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare `--choice`."""
    parser.add_argument(
        "--choice",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="values of a keyword argument that changes the program but not its meaning, may be repeated: "
        "remat=none,dots,full, microbatches=1,2,4; the plan has the best in the memory of the chips "
        "(default: the choices that the decorator declares)",
    )


def add_hbm_limit(parser: argparse.ArgumentParser) -> None:
    """Declare `--hbm-limit`, which is given in GiB and kept in bytes."""
    parser.add_argument(
        "--hbm-limit",
        type=gib,
        metavar="GIB",
        help="memory per chip that the plan must stay under (default: what a chip has)",
    )


def add_padding(parser: argparse.ArgumentParser) -> None:
    """Declare `--padding`."""
    parser.add_argument(
        "--padding",
        choices=("allow", "never"),
        default="allow",
        help="dims that chips do not divide, such as 25 heads on 8: split padded within the program where "
        "that is faster, arguments and results staying even (default), or never split",
    )


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Declare `--mesh`."""
    parser.add_argument(
        "--mesh",
        choices=("native", "auto", "search"),
        default="auto",
        help="one axis per torus dim; also its factors up to three axes (default); also up to four",
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Declare `--profile`."""
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="chip profile that `autoshard calibrate` wrote (default: $AUTOSHARD_PROFILE, or none)",
    )


def gib(text: str) -> float:
    """Read an amount of memory in GiB, for argparse; bytes."""
    return above_zero(text, "GiB") * 2**30


def above_zero(text: str, what: str) -> float:
    """Read a finite number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of {what} above 0, got `{text}`")
    return number
