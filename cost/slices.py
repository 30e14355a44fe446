"""Slices: a number of chips in a torus, and which of its dims are rings.

A slice is written ``CHIP:TOPOLOGY`` (``v4:4x4x4``, ``v5e:4x4``, ``h100:8``), or ``N*CHIP:TOPOLOGY`` for N
such slices over the data-center network. What can exist and what wraps (Google's TPU pages, the scaling
book):

* ``cube`` chips (v4, v5p, tpu7x; 3-D): each dim is 1, 2 or a multiple of 4. Optical switches join cubes of
  4x4x4, so every dim wraps if all dims are multiples of 4, and none does in a smaller slice.
* ``full-16`` chips (v2, v5e, v6e; 2-D): each dim is 1, 2, 4, 8 or 16; a dim wraps only at 16. ``full-32``
  chips (v3) likewise up to 32, where smaller slices are said to wrap in part, which is not modelled.
* ``switch`` chips (GPUs of one NVLink domain, CPU devices of one host): any number of chips up to the domain.

GPUs beyond one NVLink domain are whole domains over the network between nodes, which is to them what the
data-center network is to slices: ``h100:64`` is ``8*h100:8``. Each GPU has a network card of its own there
(``dcn_bytes_per_second``), in a network without oversubscription (the scaling book's gpus.md).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoshard.cost.chips import Chip, chip
from autoshard.cost.errors import SliceError

_SLICE = re.compile(r"(?:(\d+)\*)?([A-Za-z0-9_]+):(\d+(?:x\d+)*)")
_PLANE_DIMS = {"full-16": (1, 2, 4, 8, 16), "full-32": (1, 2, 4, 8, 16, 32)}
_MOST_DOMAINS = 128
"""NVLink domains of a DGX H100 SuperPOD of 1024 GPUs, the largest that `slices_of` names."""


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
        dims = _PLANE_DIMS.get(self.chip.wrap_rule)
        return tuple(dims is not None and size == dims[-1] for size in self.topology)


def parse_slice(text: str) -> Slice:
    """Read a slice such as ``"v4:4x4x4"`` or ``"2*v5e:16x16"``.

    GPUs beyond one NVLink domain come back as several: ``"h100:64"`` as ``8*h100:8``.

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
    topology = tuple(int(size) for size in shape.split("x"))
    return _in_domains(chip(name), topology, 1 if count is None else int(count))


def slices_of(chip: Chip) -> Iterator[Slice]:
    """The chip's usual slices, in growing number of chips; of GPUs also several NVLink domains."""
    for topology in chip.topologies:
        yield Slice(chip, topology)
    n_domains = 2
    while chip.kind == "gpu" and n_domains <= _MOST_DOMAINS:
        yield Slice(chip, (chip.max_chips,), n_domains)
        n_domains *= 2


def _in_domains(chip: Chip, topology: tuple[int, ...], count: int) -> Slice:
    """A slice, with whole NVLink domains of GPUs as slices of their own."""
    n_domains, rest = divmod(math.prod(topology), chip.max_chips)
    if chip.kind == "gpu" and len(topology) == 1 and n_domains > 1 and rest == 0:
        return Slice(chip, (chip.max_chips,), count * n_domains)
    return Slice(chip, topology, count)


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
    dims = _PLANE_DIMS.get(chip.wrap_rule)
    if dims is not None and any(size not in dims for size in topology):
        allowed = ", ".join(str(size) for size in dims[:-1])
        return f"each dim of a {chip.name} topology must be {allowed} or {dims[-1]}"
    if math.prod(topology) > chip.max_chips:
        return _too_many(chip, math.prod(topology))
    return None


def _too_many(chip: Chip, n_chips: int) -> str:
    if chip.kind != "gpu":
        return f"{chip.name} slices have at most {chip.max_chips} chips, this one has {n_chips}"
    return (
        f"an NVLink domain of {chip.name} has at most {chip.max_chips} chips, this one has {n_chips}: larger "
        f"slices are whole domains, such as '{chip.name}:{2 * chip.max_chips}'"
    )
