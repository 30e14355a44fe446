"""What all parts of a plan have in common: they are frozen, and hold exactly what the plan file holds.

A record never changes its file: field order is the order in the file, floats are held to 6 significant
digits, and numbers that JSON cannot express are refused. So a plan equals the plan that is loaded back, and
writing it again gives the same bytes.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import force_setattr

from autoshard.errors import PlanError

SIGNIFICANT_DIGITS = 6
"""Floats of a plan are held to this many significant digits: the last bits must not change a file."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a plan whose floats are rounded to what the plan file holds."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value, name = getattr(self, field), f"{type(self).__name__}.{field}"
            if isinstance(value, float):
                force_setattr(self, field, _rounded(value, name))
            elif isinstance(value, dict) and any(isinstance(each, float) for each in value.values()):
                force_setattr(self, field, {key: _rounded(each, name) for key, each in value.items()})


def _rounded(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise PlanError(f"`{name}` is {value}, which a plan file cannot hold: expected a finite number.")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
