"""What a tuning run can be told, and what it refuses to be told."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

from autoshard.compiled.options import COMPILE_OPTIONS
from autoshard.cost.profiles import read_profile
from autoshard.errors import OptionError
from autoshard.host import available_cores
from autoshard.pin_text import parse_ban, parse_pin
from autoshard.search.planner import DEFAULT_GAP

Refine = Literal["none", "compile", "time", "auto"]
REFINES: tuple[str, ...] = get_args(Refine)
LATENCY, THROUGHPUT = "latency", "throughput"
OBJECTIVES = (LATENCY,)
"""What `tune` minimises. On one slice throughput is the same: chip-seconds are chips times seconds."""
MESHES = ("native", "auto", "search")
SHARDINGS = ("free", "keep")
PADDINGS = ("allow", "never")
LOCAL = "local"
"""The slice text that means the attached devices."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a run can be told; `autoshard.tune` explains each.

    Raises:
        OptionError: a choice is not known, or a number is out of its range.
        PinError: a pin or a ban is not of the form ``PATTERN=SPEC``.
        ProfileError: the profile is not a sound chip profile.
    """

    slice_text: str
    objective: str = "latency"
    refine: str = "auto"
    top_k: int = 5
    mesh: str = "auto"
    trials: int = 16
    storage: str | None = None
    gap: float = DEFAULT_GAP
    time_limit_seconds: float | None = None
    seed: int = 0
    workers: int = field(default_factory=available_cores)
    pins: tuple[str, ...] = ()
    profile: str | None = None
    compile_options: str = "default"
    option_trials: int = 12
    shardings: str = "free"
    hbm_limit_bytes: float | None = None
    forbid: tuple[str, ...] = ()
    padding: str = "allow"

    def __post_init__(self) -> None:
        _require_choice("objective", self.objective, OBJECTIVES)
        _require_choice("refine", self.refine, REFINES)
        _require_choice("mesh", self.mesh, MESHES)
        _require_choice("compile_options", self.compile_options, COMPILE_OPTIONS)
        _require_choice("shardings", self.shardings, SHARDINGS)
        _require_choice("padding", self.padding, PADDINGS)
        if self.compile_options == "search":
            expected = "`compile` or `auto`: the compiler judges the options that are searched"
            _require(self.refine in ("compile", "auto"), "refine", self.refine, expected)
        for name in ("top_k", "trials", "option_trials", "workers"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        _require(self.gap >= 0, "gap", self.gap, "a share of the step time, 0 or more")
        for pin in self.pins:
            parse_pin(pin)
        for ban in self.forbid:
            parse_ban(ban)
        most = self.hbm_limit_bytes
        _require(most is None or 0 < most < math.inf, "hbm_limit_bytes", most, "bytes above 0, or None")
        if self.profile is not None:
            read_profile(self.profile)
        limit = self.time_limit_seconds
        _require(limit is None or limit > 0, "time_limit_seconds", limit, "seconds above 0, or None")


def _require_choice(name: str, value: str, choices: Collection[str]) -> None:
    _require(value in choices, name, value, "one of " + ", ".join(f"`{choice}`" for choice in choices))


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise OptionError(f"`{name}` is `{value}`, expected {expected}")
