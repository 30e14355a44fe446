"""Which lines of a stack are the user's own code."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import jax

import autoshard
from autoshard.compiled.hlo_metadata import Position

_JAX, _OWN = (f"{Path(module.__file__ or '').parent}/" for module in (jax, autoshard))
_LIBRARIES = tuple(f"{folder}/" for folder in sysconfig.get_paths().values())
"""Folders whose lines are the user's only where there are no others."""


def own_lines(stack: Sequence[Position]) -> tuple[Position, ...]:
    """Return the user's lines of a stack, in its order, none of them twice.

    What lies outside of autoshard's first frame asked for the compile: it is no part of the model. Lines of
    libraries (a model's, say) are left where nothing else is.
    """
    inside = takewhile(lambda each: not each.file.startswith(_OWN), stack)
    foreign = [each for each in inside if each.file and not each.file.startswith((_JAX, "<"))]
    own = [each for each in foreign if not each.file.startswith(_LIBRARIES)] or foreign
    return tuple(dict.fromkeys(own))


def short(position: Position) -> str:
    """Return a line as plans write it: ``model.py:27``."""
    return f"{os.path.basename(position.file)}:{position.line}"
