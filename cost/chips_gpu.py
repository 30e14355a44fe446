"""GPUs: one row per model, of eight in one NVLink domain."""

from autoshard.cost.chip_row import (
    ALL_BESIDE,
    AS_FAST_HIDDEN,
    HIDES_NO_GATHER,
    HIDES_NOTHING,
    NO_KERNEL_TIME,
    NO_VECTOR_LIMIT,
    NO_VMEM,
    ChipRow,
    Topologies,
    peaks,
)
from autoshard.cost.quantities import assumed, measured, spec

_AICONF = "ai-dynamo/aiconfigurator systems/"
_BOOK = "jax-ml/scaling-book gpus.md"
_NINE_TENTHS = "nine tenths: room for the runtime and its buffers"

_POWERS: Topologies = ((1,), (2,), (4,), (8,))

_GPU = {
    "hop_seconds": assumed(0.0, "s", "one switch between any two; its delay is part of the base"),
    "collective_base_seconds": assumed(1e-5, "s", "as a100"),
    "chips_per_host": spec(8, "chip", _BOOK + ": a node, with one network card per GPU"),
    "dcn_base_seconds": assumed(1e-5, "s", "as the point-to-point latency inside a node"),
    "exposed_ici_fraction": HIDES_NOTHING,
    "vmem_bytes": NO_VMEM,
    "hidden_gather_fraction": HIDES_NO_GATHER,
    "hidden_gather_slowdown": AS_FAST_HIDDEN,
    "kernel_seconds": NO_KERNEL_TIME,
    "vector_elements_per_second": NO_VECTOR_LIMIT,
    "row_elements_per_second": NO_VECTOR_LIMIT,
    "serial_fraction": ALL_BESIDE,
    "joint_dim_fraction": assumed(1.0, "1", "one dim only"),
    "mxu_tile": assumed(16, "row", "one tensor-core tile"),
    "mxu_sublanes": assumed(8, "row", "one tensor-core tile"),
}

_H100 = (
    _GPU
    | peaks(
        bfloat16=spec(989e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        int8=spec(1978e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        float8=spec(1978e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        float32=spec(494.5e12, "flop/s", "NVIDIA H100 datasheet, TF32 dense"),
    )
    | {
        "hbm_bytes": spec(80e9, "byte", _AICONF + "h100_sxm.yaml"),
        "hbm_usable_bytes": assumed(72e9, "byte", _NINE_TENTHS),
        "hbm_bytes_per_second": spec(3350e9, "byte/s", _AICONF + "h100_sxm.yaml"),
        "hbm_streaming_fraction": measured(0.8, "1", _AICONF + "h100_sxm.yaml, achievable share"),
        "on_chip_bytes": spec(50e6, "byte", "NVIDIA H100 datasheet, L2 cache"),
        "on_chip_bandwidth_ratio": measured(1.6, "1", _BOOK + ": L2 cache at 5.5e12 byte/s"),
        "mxu_fraction": assumed(0.75, "1", "large dense matmuls under the power limit"),
        "clock_hz": spec(1.83e9, "Hz", "the clock at which 528 tensor cores reach 989e12 flop/s"),
        "link_bytes_per_second": spec(450e9, "byte/s", _AICONF + "h100_sxm.yaml, NVLink one way per GPU"),
        "dcn_bytes_per_second": spec(50e9, "byte/s", _AICONF + "h100_sxm.yaml, between nodes"),
    }
)

_A100 = (
    _GPU
    | peaks(
        bfloat16=spec(312e12, "flop/s", _AICONF + "a100_sxm.yaml"),
        int8=spec(624e12, "flop/s", _AICONF + "a100_sxm.yaml"),
        float32=spec(156e12, "flop/s", "NVIDIA A100 datasheet, TF32 dense"),
    )
    | {
        "hbm_bytes": spec(80e9, "byte", _AICONF + "a100_sxm.yaml"),
        "hbm_usable_bytes": assumed(72e9, "byte", _NINE_TENTHS),
        "hbm_bytes_per_second": spec(2039e9, "byte/s", _AICONF + "a100_sxm.yaml"),
        "hbm_streaming_fraction": assumed(0.8, "1", "as h100"),
        "on_chip_bytes": spec(40e6, "byte", "NVIDIA A100 datasheet, L2 cache"),
        "on_chip_bandwidth_ratio": assumed(1.6, "1", "as h100"),
        "mxu_fraction": assumed(0.8, "1", "large dense matmuls under the power limit"),
        "clock_hz": spec(1.41e9, "Hz", "NVIDIA FasterTransformer gpt_guide: pclk 1410 MHz"),
        "link_bytes_per_second": spec(300e9, "byte/s", _AICONF + "a100_sxm.yaml, NVLink one way per GPU"),
        "collective_base_seconds": spec(1e-5, "s", _AICONF + "a100_sxm.yaml, point-to-point latency"),
        "dcn_bytes_per_second": spec(25e9, "byte/s", _AICONF + "a100_sxm.yaml, between nodes"),
    }
)

_H200 = _H100 | {
    "hbm_bytes": spec(141e9, "byte", _AICONF + "h200_sxm.yaml"),
    "hbm_usable_bytes": assumed(126.9e9, "byte", _NINE_TENTHS),
    "hbm_bytes_per_second": spec(4800e9, "byte/s", _AICONF + "h200_sxm.yaml"),
    "hbm_streaming_fraction": assumed(0.8, "1", "as h100"),
    "on_chip_bandwidth_ratio": assumed(1.15, "1", "the L2 cache of h100 at 5.5e12 byte/s over more HBM"),
}

_B200 = (
    _GPU
    | peaks(
        bfloat16=spec(2250e12, "flop/s", _AICONF + "b200_sxm.yaml"),
        int8=spec(4500e12, "flop/s", _AICONF + "b200_sxm.yaml"),
        float8=spec(4500e12, "flop/s", _AICONF + "b200_sxm.yaml"),
        float32=assumed(1125e12, "flop/s", "TF32 at half of bfloat16, as on a100 and h100"),
    )
    | {
        "hbm_bytes": spec(180e9, "byte", _AICONF + "b200_sxm.yaml"),
        "hbm_usable_bytes": assumed(162e9, "byte", _NINE_TENTHS),
        "hbm_bytes_per_second": spec(7700e9, "byte/s", _AICONF + "b200_sxm.yaml"),
        "hbm_streaming_fraction": assumed(0.8, "1", "as h100"),
        "on_chip_bytes": spec(126e6, "byte", _BOOK + ", L2 cache"),
        "on_chip_bandwidth_ratio": assumed(1.6, "1", "as h100"),
        "mxu_fraction": assumed(0.75, "1", "as h100"),
        "clock_hz": spec(1.86e9, "Hz", _BOOK + ": at which 592 tensor cores reach 2250e12 flop/s"),
        "link_bytes_per_second": spec(900e9, "byte/s", _BOOK + ", NVLink one way per GPU"),
        "dcn_bytes_per_second": spec(50e9, "byte/s", _BOOK + ", 400e9 between nodes of 8"),
    }
)

GPUS: dict[str, ChipRow] = {
    "h100": ChipRow("gpu", 1, "switch", 8, _POWERS, _H100),
    "h200": ChipRow("gpu", 1, "switch", 8, _POWERS, _H200),
    "b200": ChipRow("gpu", 1, "switch", 8, _POWERS, _B200),
    "a100": ChipRow("gpu", 1, "switch", 8, _POWERS, _A100),
}
