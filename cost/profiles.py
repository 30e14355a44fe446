"""Chip profiles: files with numbers of a chip that were measured on devices, put in place of the table's.

A profile is a JSON object. ``quantities`` goes by the names of the chip table (`Chip.quantities`)::

    {"format": "autoshard chip profile", "version": 1, "chip": "cpu", "slice": "cpu:8",
     "device_kind": "cpu",
     "quantities": {"hbm_bytes_per_second": {"value": 1.2e10, "unit": "byte/s", "how": "array of 64 MiB"}},
     "versions": {"jax": "0.10.2"}}

Numbers that a profile does not have stay the table's. A file is written the same way every time: no date,
values held to 4 significant digits, more than any measurement is worth.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Literal

import msgspec

from autoshard.cost.chips import Chip, chip
from autoshard.cost.errors import ProfileError, UnknownChipError

_DIGITS = 4
_MADE_BY = "`autoshard calibrate -o FILE` makes a sound one"
_MAY_BE_ZERO = frozenset({"s"})
"""Units of numbers that may be 0: a delay may be too short to be measured, a rate or a size may not be 0."""


class MeasuredQuantity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of a chip, measured.

    Attributes:
        value: The number, in the unit of the chip table.
        unit: That unit.
        how: What was measured.
    """

    value: float
    unit: str
    how: str


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile file holds.

    Attributes:
        format: What kind of file it is.
        version: Form of the file.
        chip: Name of the chip in the chip table.
        slice: The slice that was measured: devices that share a host or a link are measured together.
        device_kind: What the devices call themselves.
        quantities: The numbers, by the names of the chip table.
        versions: Versions of the programs that measured, by name.
    """

    format: Literal["autoshard chip profile"] = "autoshard chip profile"
    version: Literal[1] = 1
    chip: str
    slice: str
    device_kind: str
    quantities: dict[str, MeasuredQuantity]
    versions: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Hash of the numbers: profiles with equal digests give equal predictions."""
        values = sorted((name, quantity.value) for name, quantity in self.quantities.items())
        return hashlib.sha256(repr((self.chip, values)).encode()).hexdigest()[:12]


def load_profile(path: str | os.PathLike[str]) -> Chip:
    """The table's chip with the numbers of a profile file.

    Raises:
        ProfileError: The file cannot be read, is no profile, or holds a number that cannot be.
    """
    return calibrated_chip(read_profile(path), os.fspath(path))


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile file and check it; raises `ProfileError` as `load_profile` does."""
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ProfileError(f"{name}: there is no such chip profile; {_MADE_BY}") from None
    except OSError as error:
        raise ProfileError(f"{name}: cannot be read: {error.strerror}") from None
    return parse_profile(content, name)


def parse_profile(content: str | bytes, name: str) -> Profile:
    """Read the text of a profile file, called `name` in errors; raises `ProfileError`."""
    try:
        profile = msgspec.json.decode(content, type=Profile)
    except msgspec.DecodeError as error:
        raise ProfileError(f"{name}: not a chip profile: {error}; {_MADE_BY}") from None
    _check(profile, name)
    return profile


def format_profile(profile: Profile) -> str:
    """The text of a profile file; raises `ProfileError` where it could not be read back."""
    held = {
        name: msgspec.structs.replace(quantity, value=_rounded(quantity.value))
        for name, quantity in sorted(profile.quantities.items())
    }
    rounded = msgspec.structs.replace(profile, quantities=held)
    _check(rounded, "the measured profile")
    return msgspec.json.format(msgspec.json.encode(rounded), indent=2).decode() + "\n"


def save_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a profile file, making its directory; raises `ProfileError` where it cannot be written."""
    text, target = format_profile(profile), Path(path)
    scratch = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text, encoding="utf-8", newline="\n")
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ProfileError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise `ProfileError` where no profile can be written to `path`: ask before measuring, not after it."""
    target = Path(path).absolute()
    existing = next(parent for parent in target.parents if parent.exists())
    if target.is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ProfileError(
            f"{os.fspath(path)}: cannot be written: expected the name of a file in a directory that you may "
            "write to"
        )


def calibrated_chip(profile: Profile, name: str) -> Chip:
    """The table's chip with the numbers of a profile, whose source then is the profile called `name`."""
    calibrated = chip(profile.chip)
    for field, quantity in profile.quantities.items():
        source = f"{name}: {quantity.how}"
        calibrated = calibrated.with_values("measured", source, **{_keyword(field): quantity.value})
    return calibrated


def _keyword(name: str) -> str:
    """The name by which `Chip.with_values` knows a number."""
    return name.replace("peak_flops_per_second.", "peak_")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _check(profile: Profile, name: str) -> None:
    try:
        known = chip(profile.chip).quantities
    except UnknownChipError as error:
        raise ProfileError(f"{name}: {error}") from None
    for field, quantity in profile.quantities.items():
        if field not in known:
            raise ProfileError(
                f"{name}: chip {profile.chip} has no number {field!r}; it has {', '.join(sorted(known))}"
            )
        problem = _problem(quantity, known[field].unit, is_share=field.endswith("_fraction"))
        if problem:
            raise ProfileError(f"{name}: `{field}` {problem}; {_MADE_BY}")


def _problem(quantity: MeasuredQuantity, unit: str, *, is_share: bool) -> str:
    """What is wrong with a number, in words; empty where nothing is."""
    value = quantity.value
    if quantity.unit != unit:
        return f"is in {quantity.unit!r}, expected {unit!r}"
    if not math.isfinite(value) or value < 0:
        return f"is {value}, expected a finite number above 0"
    if value == 0 and unit not in _MAY_BE_ZERO:
        return f"is 0, expected a number of {unit!r} above 0"
    if is_share and value > 1:
        return f"is {value}, expected a share of at most 1"
    return ""
