"""Options of the zoo's benchmark that say what is done with each case."""

from __future__ import annotations

import argparse

from bench.zoo_results import STAGES

SLICES = ("v5e:4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8", "v5p:8x8x16")
"""Slices to plan on, the smallest first."""
COMPILE_SECONDS = 300.0
"""Limit of a compile: that of `autoshard tune`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the options of a command."""
    parser.add_argument("--stages", default=",".join(STAGES), help=f"default: {','.join(STAGES)}")
    parser.add_argument(
        "--slices", default=",".join(SLICES), help=f"to plan on (default: {','.join(SLICES)})"
    )
    parser.add_argument("--mesh", default="auto", help="as for `autoshard tune` (default: auto)")
    parser.add_argument(
        "--compile-seconds", type=float, default=COMPILE_SECONDS, help="limit of a compile (default: 300)"
    )
