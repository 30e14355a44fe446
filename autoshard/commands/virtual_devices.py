"""CPU devices that stand for the chips of a slice: a model that builds its own mesh wants as many."""

from __future__ import annotations

import os

from autoshard.cost.slices import parse_slice

_HOST_DEVICES = "--xla_force_host_platform_device_count"


def give_devices(slice_text: str) -> None:
    """Have JAX start with as many CPU devices as a slice has chips, unless `XLA_FLAGS` says how many.

    Raises:
        SliceError: there is no such slice.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _HOST_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_HOST_DEVICES}={parse_slice(slice_text).n_chips}".strip()
