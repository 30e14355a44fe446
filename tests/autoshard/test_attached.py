"""The slice that the attached devices form, with devices made up for the test."""

from dataclasses import dataclass
from typing import Any

import jax
import pytest

from autoshard.attached import attached_slice
from autoshard.errors import SliceError


@dataclass(frozen=True)
class Device:
    device_kind: str
    platform: str = "tpu"
    coords: tuple[int, ...] = (0, 0, 0)


def tpus(kind: str, *shape: int, origin: tuple[int, int, int] = (0, 0, 0)) -> list[Device]:
    x, y, z = (*shape, 1, 1)[:3]
    return [
        Device(kind, coords=(origin[0] + i, origin[1] + j, origin[2] + k))
        for k in range(z)
        for j in range(y)
        for i in range(x)
    ]


def attach(monkeypatch: pytest.MonkeyPatch, devices: list[Any]) -> None:
    monkeypatch.setattr(jax, "devices", lambda: devices)


def test_the_cpu_devices_of_this_process() -> None:
    assert attached_slice().name == "cpu:8"


@pytest.mark.parametrize(
    ("devices", "name"),
    [
        (tpus("TPU v4", 4, 4, 4), "v4:4x4x4"),
        (tpus("TPU v4", 2, 2, 1), "v4:2x2x1"),
        (tpus("TPU v5 lite", 4, 4), "v5e:4x4"),
        (tpus("TPU v5e", 2, 4), "v5e:2x4"),
        (tpus("TPU v5", 2, 2, 4), "v5p:2x2x4"),
        (tpus("TPU v5p", 4, 4, 8), "v5p:4x4x8"),
        (tpus("TPU v6 lite", 8, 8), "v6e:8x8"),
        (tpus("TPU v6e", 1, 1), "v6e:1x1"),
        (tpus("TPU v5 lite", 4, 4, origin=(4, 8, 0)), "v5e:4x4"),  # a corner of a larger pod
        ([Device("NVIDIA H100 80GB HBM3", "gpu")] * 8, "h100:8"),
        ([Device("NVIDIA H100 80GB HBM3", "gpu")] * 16, "2*h100:8"),
        ([Device("NVIDIA H200", "gpu")] * 8, "h200:8"),
        ([Device("NVIDIA B200", "gpu")] * 8, "b200:8"),
        ([Device("NVIDIA A100-SXM4-40GB", "gpu")] * 4, "a100:4"),
        ([Device("cpu", "cpu")] * 2, "cpu:2"),
    ],
)
def test_devices(devices: list[Device], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, devices)
    assert attached_slice().name == name


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (tpus("TPU v9", 2, 2), r"`TPU v9`; known kinds: TPU v4, .*--slice CHIP:TOPOLOGY"),
        ([Device("NVIDIA L4", "gpu")], r"`NVIDIA L4`; known GPUs: H100, H200, B200, A100"),
        ([Device("NVIDIA GB200", "gpu")] * 4, r"`NVIDIA GB200`; known GPUs"),
        (tpus("TPU v4", 2, 2, 2)[:-1], r"the 7 attached devices do not fill a box .*\(2, 2, 2\)"),
    ],
)
def test_devices_that_are_no_slice(
    devices: list[Device], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(monkeypatch, devices)
    with pytest.raises(SliceError, match=message):
        attached_slice()
