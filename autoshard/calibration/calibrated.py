"""A slice with the chip that a profile describes: `--profile`, `profile=` and ``AUTOSHARD_PROFILE``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable

from autoshard.cost.chips import Chip, chip
from autoshard.cost.profiles import calibrated_chip, read_profile
from autoshard.cost.slices import Slice
from autoshard.errors import ProfileError

ENVIRONMENT = "AUTOSHARD_PROFILE"
"""Names the profile where none is given; one of another chip is passed over."""


def calibrated_slice(slice_: Slice, profile: str | None, note: Callable[[str], None]) -> Slice:
    """The slice with the numbers of a profile file, or of that which the environment names.

    Args:
        slice_: A slice with the table's chip.
        profile: Path of the file; None: the one that ``AUTOSHARD_PROFILE`` names, if any.
        note: Told what is used, or why a profile of the environment is not.

    Raises:
        ProfileError: The file is no sound profile, or `profile` is one of another chip.
    """
    path = profile or os.environ.get(ENVIRONMENT)
    if not path:
        return slice_
    found = read_profile(path)
    if found.chip != slice_.chip.name:
        if profile is None:
            note(f"{ENVIRONMENT}={path} describes {found.chip}: not used for {slice_.name}")
            return slice_
        raise ProfileError(
            f"{path} describes chip {found.chip}, and the slice is {slice_.name}: give a profile of "
            f"{slice_.chip.name}, or leave it out to use the numbers of the table"
        )
    if slice_.chip.kind == "cpu" and found.slice != slice_.name:
        note(
            f"{path} was measured on {found.slice}, and CPU devices share their host: for {slice_.name} run "
            f"`autoshard calibrate --slice {slice_.name}`"
        )
    note(f"chip numbers of {path} ({len(found.quantities)} measured, hash {found.digest})")
    return dataclasses.replace(slice_, chip=calibrated_chip(found, os.fspath(path)))


def numbers_label(known: Chip) -> str:
    """What tells a chip from the table's of its name: empty where all numbers are the table's."""
    table = chip(known.name).quantities
    changed = {n: q.value for n, q in sorted(known.quantities.items()) if q.value != table[n].value}
    return f" {hashlib.sha256(repr(changed).encode()).hexdigest()[:12]}" if changed else ""
