"""CPU devices of one host: placeholders that a measurement replaces."""

from autoshard.cost.chip_row import (
    AS_FAST_HIDDEN,
    GIB,
    HIDES_NO_GATHER,
    HIDES_NOTHING,
    MIB,
    NO_KERNEL_TIME,
    NO_VECTOR_LIMIT,
    NO_VMEM,
    ChipRow,
    Topologies,
    peaks,
)
from autoshard.cost.quantities import assumed

_HOST = "a modest share of one host; measure yours with `autoshard calibrate`"
_CPU = peaks(
    bfloat16=assumed(5e10, "flop/s", _HOST),
    float32=assumed(5e10, "flop/s", _HOST),
) | {
    "hbm_bytes": assumed(4 * GIB, "byte", _HOST),
    "hbm_usable_bytes": assumed(4 * GIB, "byte", _HOST),
    "hbm_bytes_per_second": assumed(1e10, "byte/s", _HOST),
    "hbm_streaming_fraction": assumed(1.0, "1", _HOST),
    "on_chip_bytes": assumed(1 * MIB, "byte", _HOST),
    "mxu_fraction": assumed(1.0, "1", _HOST),
    "mxu_tile": assumed(1, "row", "no matrix unit, nothing is padded"),
    "mxu_sublanes": assumed(1, "row", "no matrix unit, nothing is padded"),
    "clock_hz": assumed(2.5e9, "Hz", _HOST),
    "link_bytes_per_second": assumed(5e9, "byte/s", "a copy through host memory"),
    "hop_seconds": assumed(0.0, "s", "all devices share one memory"),
    "collective_base_seconds": assumed(2e-5, "s", "the devices' threads meet once"),
    "dcn_bytes_per_second": assumed(1e9, "byte/s", _HOST),
    "dcn_base_seconds": assumed(1e-4, "s", _HOST),
    "exposed_ici_fraction": HIDES_NOTHING,
    "vmem_bytes": NO_VMEM,
    "hidden_gather_fraction": HIDES_NO_GATHER,
    "hidden_gather_slowdown": AS_FAST_HIDDEN,
    "kernel_seconds": NO_KERNEL_TIME,
    "vector_elements_per_second": NO_VECTOR_LIMIT,
    "row_elements_per_second": NO_VECTOR_LIMIT,
    "serial_fraction": assumed(1.0, "1", "a core that moves data does not multiply meanwhile"),
    "on_chip_bandwidth_ratio": assumed(22.0, "1", "a cache over main memory; not measured"),
    "chips_per_host": assumed(8, "device", "all of a usual slice"),
    "joint_dim_fraction": assumed(1.0, "1", "one dim only"),
}

_SIZES: Topologies = ((1,), (2,), (4,), (8,), (16,), (32,), (64,))

CPUS: dict[str, ChipRow] = {"cpu": ChipRow("cpu", 1, "switch", 1024, _SIZES, _CPU)}
