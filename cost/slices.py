"""Slices: a number of chips in a torus, and which of its dims are rings.

A slice is written ``CHIP:TOPOLOGY`` (``v4:4x4x4``, ``v5e:4x4``, ``h100:8``), or ``N*CHIP:TOPOLOGY`` for N
such slices over the data-center network. What can exist and what wraps (Google's TPU pages, the scaling
book):

* ``cube`` chips (v4, v5p, tpu7x; 3-D): each dim is 1, 2 or a multiple of 4. Optical switches join cubes of
  4x4x4, so every dim wraps if all dims are multiples of 4, and none does in a smaller slice.
* ``full-16`` chips (v5e, v6e; 2-D): each dim is 1, 2, 4, 8 or 16; a dim wraps only at 16.
* ``switch`` chips (GPUs of one NVLink domain, CPU devices of one host): any number of chips up to the domain.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoshard.cost.chips import Chip, chip
from autoshard.cost.errors import SliceError

_SLICE = re.compile(r"(?:(\d+)\*)?([A-Za-z0-9_]+):(\d+(?:x\d+)*)")
_PLANE_DIMS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Slice:
    """Chips that share an interconnect, possibly several such groups.

    Attributes:
        chip: The chip.
        topology: Chips along each torus dim, x first.
        num_slices: How many of them, joined by the data-center network.

    Raises:
        SliceError: If such a slice cannot exist.
    """

    chip: Chip
    topology: tuple[int, ...]
    num_slices: int = 1

    def __post_init__(self) -> None:
        problem = _problem(self.chip, self.topology, self.num_slices)
        if problem:
            example = f"{self.chip.name}:{_shape(self.chip.topologies[len(self.chip.topologies) // 2])}"
            raise SliceError(f"slice {self.name!r} cannot exist: {problem}; for example {example!r}")

    @property
    def name(self) -> str:
        """The slice as written, such as ``"v4:4x4x4"`` or ``"2*v5e:16x16"``."""
        name = f"{self.chip.name}:{_shape(self.topology)}"
        return name if self.num_slices == 1 else f"{self.num_slices}*{name}"

    @property
    def n_chips(self) -> int:
        """Chips in all slices together."""
        return self.num_slices * math.prod(self.topology)

    @property
    def wraps(self) -> tuple[bool, ...]:
        """For each torus dim, whether it closes into a ring."""
        if self.chip.wrap_rule == "cube":
            return (all(size % 4 == 0 for size in self.topology),) * len(self.topology)
        if self.chip.wrap_rule == "full-16":
            return tuple(size == 16 for size in self.topology)
        return (False,) * len(self.topology)


def parse_slice(text: str) -> Slice:
    """Read a slice such as ``"v4:4x4x4"`` or ``"2*v5e:16x16"``.

    Raises:
        SliceError: If the text is not a slice, or no such slice can exist.
        UnknownChipError: If the chip is not known.
    """
    match = _SLICE.fullmatch(text.strip())
    if match is None:
        raise SliceError(
            f"{text!r} is not a slice: expected CHIP:TOPOLOGY, such as 'v5e:4x4', 'v4:4x4x4', 'h100:8', "
            "or '2*v5e:16x16' for two slices"
        )
    count, name, shape = match.groups()
    return Slice(chip(name), tuple(int(size) for size in shape.split("x")), int(count or 1))


def slices_of(chip: Chip) -> Iterator[Slice]:
    """The chip's usual slices, in growing number of chips."""
    for topology in chip.topologies:
        yield Slice(chip, topology)


def _shape(topology: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in topology)


def _problem(chip: Chip, topology: tuple[int, ...], num_slices: int) -> str | None:
    """The first rule that a slice breaks, in words."""
    if len(topology) != chip.torus_rank:
        return f"{chip.name} topologies have {chip.torus_rank} dims, this one has {len(topology)}"
    if num_slices < 1:
        return f"expected at least 1 slice, got {num_slices}"
    if min(topology) < 1:
        return "each dim must be at least 1"
    if chip.wrap_rule == "cube" and any(size not in (1, 2) and size % 4 for size in topology):
        return f"each dim of a {chip.name} topology must be 1, 2 or a multiple of 4"
    if chip.wrap_rule == "full-16" and any(size not in _PLANE_DIMS for size in topology):
        return f"each dim of a {chip.name} topology must be 1, 2, 4, 8 or 16"
    if math.prod(topology) > chip.max_chips:
        return _too_many(chip, math.prod(topology))
    return None


def _too_many(chip: Chip, n_chips: int) -> str:
    limit = f"{chip.name} slices have at most {chip.max_chips} chips, this one has {n_chips}"
    if chip.wrap_rule != "switch":
        return limit
    several = f"2*{chip.name}:{chip.max_chips}"
    return f"{limit}: a larger switched domain is not supported, write {several!r} for two domains"
