"""The slice that this process has: what `--slice local` means."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.slices import Slice, parse_slice
from autoshard.errors import SliceError

_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def attached_slice() -> Slice:
    """Return the slice that the attached devices form.

    Raises:
        SliceError: The devices are of a kind that the chip table does not know, or do not fill a box of the
            torus.
    """
    devices = jax.devices()
    kind, platform = devices[0].device_kind, devices[0].platform
    if platform == "cpu":
        return parse_slice(f"cpu:{len(devices)}")
    if platform == "gpu":
        return parse_slice(f"{_gpu_name(kind)}:{len(devices)}")
    if kind not in _KINDS:
        raise SliceError(
            f"attached devices are `{kind}`; known kinds: {', '.join(_KINDS)}. Name the slice: "
            "--slice CHIP:TOPOLOGY"
        )
    name = _KINDS[kind]
    return parse_slice(f"{name}:{'x'.join(map(str, _extent(devices, chip(name).torus_rank)))}")


def _gpu_name(kind: str) -> str:
    gpus = [name for name, one in CHIPS.items() if one.kind == "gpu"]
    for name in gpus:
        if re.search(rf"\b{name}\b", kind.lower()):
            return name
    raise SliceError(
        f"attached devices are `{kind}`; known GPUs: {', '.join(gpus).upper()}. Name the slice: "
        "--slice CHIP:TOPOLOGY"
    )


def _extent(devices: Sequence[Any], rank: int) -> tuple[int, ...]:
    coordinates = [tuple(device.coords)[:rank] for device in devices]
    low = [min(c[d] for c in coordinates) for d in range(rank)]
    high = [max(c[d] for c in coordinates) for d in range(rank)]
    extent = tuple(b - a + 1 for a, b in zip(low, high, strict=True))
    if math.prod(extent) != len(devices):
        raise SliceError(
            f"the {len(devices)} attached devices do not fill a box of the torus (they span {extent})"
        )
    return extent
