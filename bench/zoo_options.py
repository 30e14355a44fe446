"""Options of the zoo's benchmark that say what is done with each case."""

from __future__ import annotations

import argparse

from bench.zoo_results import STAGES

SLICES = ("v5e:4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8", "v5p:8x8x16")
"""Slices to plan on, the smallest first."""
COMPILE_SECONDS = 300.0
"""Limit of a compile: that of `autoshard tune`."""
FULL_EFFORT = 0.0
"""What the compiler spends on fast code (`jax_exec_time_optimization_effort`). At -1 it takes a fifth of the
time and finds nearly the same memory, but its schedule says nothing of step times."""


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
    parser.add_argument(
        "--compile-effort",
        type=float,
        default=FULL_EFFORT,
        help="from -1, a quick verdict without an estimated step time, to 0, the usual compile (default)",
    )
