"""The table of chips: every hardware number once, with unit, provenance and source.

Sizes are in bytes, rates per second, SI (1 TB/s = 1e12); HBM limits that a vendor prints in "GB" and the
compiler enforces in GiB stand in GiB. One row is one *chip*: TPU v4, v5p and tpu7x have two cores and their
numbers are the sum of both. A tpu7x chip shows itself to JAX as two devices; the row is still the whole chip.
"""

from dataclasses import dataclass
from typing import Literal

from autoshard.cost.quantities import Quantity, assumed, compiler, fitted, measured, spec

Kind = Literal["tpu", "gpu", "cpu"]
WrapRule = Literal["cube", "full-16", "switch"]
Topologies = tuple[tuple[int, ...], ...]

GIB = float(2**30)
MIB = float(2**20)

_PAPER = "arXiv:2211.05102 sec. 4"
_BOOK = "jax-ml/scaling-book tpus.md"
_DOCS = "docs.cloud.google.com/tpu/docs/"
_JAX_INFO = "jax-ml/jax jax/_src/tpu_info.py"
_LIBTPU = "libtpu 0.0.51, ahead-of-time compile: "
_AICONF = "ai-dynamo/aiconfigurator systems/"
_F32 = "jax.lax.Precision.DEFAULT multiplies float32 in one bfloat16 pass on TPU"
_RECIPES = "AI-Hypercomputer/tpu-recipes microbenchmarks: "
_PERMUTE = "marin-community/marin issue 6736, one-hop ppermute slope in one program: "
_FIT = "22 published PaLM step times on v4 (arXiv:2211.05102), best of 6 latency pairs"
_HIDE = "named overlap assumption: no interconnect time is hidden behind compute"

_CUBE_SMALL: Topologies = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_CUBES: Topologies = ((4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16))
_PLANES: Topologies = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_POWERS: Topologies = ((1,), (2,), (4,), (8,))


@dataclass(frozen=True, slots=True)
class ChipRow:
    """One row of the table.

    Attributes:
        kind: ``"tpu"``, ``"gpu"`` or ``"cpu"``.
        torus_rank: Number of torus dims; 1 for chips behind a switch.
        wrap_rule: Which torus dims close into a ring, see `autoshard.cost.slices`.
        max_chips: Largest slice.
        topologies: Slices that can be rented, in growing size.
        quantities: The numbers, by field of `autoshard.cost.chips.Chip`.
        devices_per_chip: JAX devices that one chip shows.
    """

    kind: Kind
    torus_rank: int
    wrap_rule: WrapRule
    max_chips: int
    topologies: Topologies
    quantities: dict[str, Quantity]
    devices_per_chip: int = 1


def _peaks(**by_dtype: Quantity) -> dict[str, Quantity]:
    return {f"peak_flops_per_second.{dtype}": quantity for dtype, quantity in by_dtype.items()}


_ON_CHIP = "about what the scaling book gives for VMEM over HBM of v5e; not checked on any other chip"
_JOINT = (
    "published collectives over two and more ring dims, each as the share reached of the links beyond one "
    "ring: all-reduce on v6e 16x16 at 236e9 of 360e9 byte/s: 0.31; FSDP all-gather on tpu7x 4x8x8 at 230e9 "
    "byte/s over dims of 200e9: 0.08 to 0.15; its reduce-scatter at 366e9: 0.42 to 0.83; weight gathering on "
    "v4 4x4x4 (arXiv:2211.05102 fig. 7, 235 ms per layer for 9.4 GB, 40e9 byte/s): 0. The mean, rounded; the "
    "spread is wide"
)

_TPU_LATENCY = {
    "hop_seconds": fitted(0.25e-6, "s", _FIT),
    "collective_base_seconds": fitted(0.5e-6, "s", _FIT),
    "dcn_base_seconds": assumed(1e-5, "s", "of the order of a host-to-host round trip"),
    "exposed_ici_fraction": assumed(1.0, "1", _HIDE),
    "on_chip_bandwidth_ratio": assumed(22.0, "1", _ON_CHIP),
    "joint_dim_fraction": fitted(0.25, "1", _JOINT),
    "mxu_sublanes": spec(8, "row", "jax-ml/jax docs/pallas/tpu: native tile is 8 x 128"),
}

_V4 = (
    _TPU_LATENCY
    | _peaks(
        bfloat16=spec(275e12, "flop/s", _PAPER),
        int8=spec(275e12, "flop/s", _DOCS + "v4"),
        float32=spec(275e12, "flop/s", _F32),
    )
    | {
        "hbm_bytes": spec(32 * GIB, "byte", _PAPER),
        "hbm_usable_bytes": compiler(30.75 * GIB, "byte", _LIBTPU + "out-of-memory limit, megacore"),
        "hbm_bytes_per_second": spec(1200e9, "byte/s", _PAPER),
        "hbm_streaming_fraction": compiler(
            0.763, "1", _LIBTPU + "872 byte/cycle of a weight-streaming matmul"
        ),
        "on_chip_bytes": spec(160 * MIB, "byte", _DOCS + "v4: 128 MiB CMEM and 2 x 16 MiB VMEM"),
        "mxu_fraction": compiler(0.91, "1", _LIBTPU + "large matmuls at 89-94% of peak"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "clock_hz": compiler(1.05e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(45e9, "byte/s", _BOOK + ": 6 links, the paper's 270e9 in total"),
        "dcn_bytes_per_second": spec(6.25e9, "byte/s", _BOOK),
    }
)

_V5E = (
    _TPU_LATENCY
    | _peaks(
        bfloat16=spec(197e12, "flop/s", _DOCS + "v5e"),
        int8=spec(393e12, "flop/s", _DOCS + "v5e"),
        float32=spec(197e12, "flop/s", _F32),
    )
    | {
        "hbm_bytes": spec(16 * GIB, "byte", _DOCS + "v5e"),
        "hbm_usable_bytes": compiler(15.75 * GIB, "byte", _LIBTPU + "out-of-memory limit"),
        "hbm_bytes_per_second": spec(819e9, "byte/s", _DOCS + "v5e"),
        "hbm_streaming_fraction": compiler(0.75, "1", _LIBTPU + "613e9 byte/s of a weight-streaming matmul"),
        "on_chip_bytes": spec(128 * MIB, "byte", _JAX_INFO),
        "mxu_fraction": measured(0.92, "1", "jax-ml/jax docs/pallas/tpu/matmul.ipynb: 8192^3 at 181.8e12"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "clock_hz": compiler(1.5e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(45e9, "byte/s", _BOOK),
        "dcn_bytes_per_second": spec(3.125e9, "byte/s", _DOCS + "v5e: 2 x 100 Gbit/s for 8 chips"),
    }
)

_V5P = (
    _TPU_LATENCY
    | _peaks(
        bfloat16=spec(459e12, "flop/s", _DOCS + "v5p"),
        int8=spec(918e12, "flop/s", _DOCS + "v5p"),
        float8=spec(459e12, "flop/s", _DOCS + "v5p"),
        float32=spec(459e12, "flop/s", _F32),
    )
    | {
        "hbm_bytes": assumed(96 * GIB, "byte", "six 16 GiB stacks; the vendor prints 95 GB"),
        "hbm_usable_bytes": compiler(95.73 * GIB, "byte", _LIBTPU + "out-of-memory limit"),
        "hbm_bytes_per_second": spec(2765e9, "byte/s", _DOCS + "v5p"),
        "hbm_streaming_fraction": compiler(
            0.647, "1", _LIBTPU + "1788e9 byte/s of a weight-streaming matmul"
        ),
        "on_chip_bytes": spec(128 * MIB, "byte", _JAX_INFO + ": 2 x 64 MiB VMEM"),
        "mxu_fraction": assumed(0.91, "1", "as v4, whose MXUs it has"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "clock_hz": compiler(1.75e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(90e9, "byte/s", _BOOK + "; 86.3e9 measured"),
        "collective_base_seconds": measured(4.3e-6, "s", _PERMUTE + "4.55 us, less one hop"),
        "dcn_bytes_per_second": spec(6.25e9, "byte/s", _BOOK),
    }
)

_V6E = (
    _TPU_LATENCY
    | _peaks(
        bfloat16=spec(918e12, "flop/s", _DOCS + "v6e"),
        int8=spec(1836e12, "flop/s", _DOCS + "v6e"),
        float8=spec(918e12, "flop/s", _JAX_INFO),
        float32=spec(918e12, "flop/s", _F32),
    )
    | {
        "hbm_bytes": spec(32 * GIB, "byte", _DOCS + "v6e"),
        "hbm_usable_bytes": compiler(31.24 * GIB, "byte", _LIBTPU + "out-of-memory limit"),
        "hbm_bytes_per_second": spec(1638e9, "byte/s", _DOCS + "v6e"),
        "hbm_streaming_fraction": compiler(0.87, "1", _LIBTPU + "1428e9 byte/s of a weight-streaming matmul"),
        "on_chip_bytes": spec(128 * MIB, "byte", _JAX_INFO),
        "mxu_fraction": measured(0.90, "1", _RECIPES + "8192^3 at 827e12"),
        "mxu_tile": spec(256, "row", _JAX_INFO),
        "clock_hz": compiler(1.75e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(90e9, "byte/s", _BOOK + "; 86.8e9 measured"),
        "collective_base_seconds": measured(2.04e-6, "s", _PERMUTE + "2.29 us, less one hop"),
        "dcn_bytes_per_second": spec(12.5e9, "byte/s", _BOOK),
    }
)

_TPU7X = (
    _TPU_LATENCY
    | _peaks(
        bfloat16=spec(2307e12, "flop/s", _DOCS + "tpu7x"),
        float8=spec(4614e12, "flop/s", _DOCS + "tpu7x"),
        float32=spec(2307e12, "flop/s", _F32),
    )
    | {
        "hbm_bytes": spec(192 * GIB, "byte", _DOCS + "tpu7x"),
        "hbm_usable_bytes": compiler(2 * 94.74 * GIB, "byte", _LIBTPU + "out-of-memory limit, two devices"),
        "hbm_bytes_per_second": spec(7380e9, "byte/s", _DOCS + "tpu7x"),
        "hbm_streaming_fraction": measured(0.87, "1", _RECIPES + "ironwood HBM copy at 6421e9 byte/s"),
        "on_chip_bytes": spec(128 * MIB, "byte", _JAX_INFO + ": 2 x 64 MiB VMEM"),
        "mxu_fraction": measured(0.83, "1", _RECIPES + "ironwood 32768^3 at 956e12 per core"),
        "mxu_tile": spec(256, "row", _JAX_INFO),
        "clock_hz": compiler(1.9e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(100e9, "byte/s", _DOCS + "tpu7x: 1200e9 over 6 links both ways"),
        "dcn_bytes_per_second": spec(12.5e9, "byte/s", "jax-ml/scaling-book pull request 124"),
    }
)

_GPU = {
    "hop_seconds": assumed(0.0, "s", "one switch between any two; its delay is part of the base"),
    "dcn_base_seconds": assumed(1e-5, "s", "as the point-to-point latency inside a node"),
    "exposed_ici_fraction": assumed(1.0, "1", _HIDE),
    "on_chip_bandwidth_ratio": assumed(22.0, "1", _ON_CHIP),
    "joint_dim_fraction": assumed(1.0, "1", "one dim only"),
    "mxu_tile": assumed(16, "row", "one tensor-core tile"),
    "mxu_sublanes": assumed(8, "row", "one tensor-core tile"),
}

_H100 = (
    _GPU
    | _peaks(
        bfloat16=spec(989e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        int8=spec(1978e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        float8=spec(1978e12, "flop/s", _AICONF + "h100_sxm.yaml"),
        float32=spec(494.5e12, "flop/s", "NVIDIA H100 datasheet, TF32 dense"),
    )
    | {
        "hbm_bytes": spec(80e9, "byte", _AICONF + "h100_sxm.yaml"),
        "hbm_usable_bytes": assumed(72e9, "byte", "nine tenths: room for the runtime and its buffers"),
        "hbm_bytes_per_second": spec(3350e9, "byte/s", _AICONF + "h100_sxm.yaml"),
        "hbm_streaming_fraction": measured(0.8, "1", _AICONF + "h100_sxm.yaml, achievable share"),
        "on_chip_bytes": spec(50e6, "byte", "NVIDIA H100 datasheet, L2 cache"),
        "mxu_fraction": assumed(0.75, "1", "large dense matmuls under the power limit"),
        "clock_hz": spec(1.83e9, "Hz", "the clock at which 528 tensor cores reach 989e12 flop/s"),
        "link_bytes_per_second": spec(450e9, "byte/s", _AICONF + "h100_sxm.yaml, NVLink one way per GPU"),
        "collective_base_seconds": assumed(1e-5, "s", "as a100"),
        "dcn_bytes_per_second": spec(50e9, "byte/s", _AICONF + "h100_sxm.yaml, between nodes"),
    }
)

_A100 = (
    _GPU
    | _peaks(
        bfloat16=spec(312e12, "flop/s", _AICONF + "a100_sxm.yaml"),
        int8=spec(624e12, "flop/s", _AICONF + "a100_sxm.yaml"),
        float32=spec(156e12, "flop/s", "NVIDIA A100 datasheet, TF32 dense"),
    )
    | {
        "hbm_bytes": spec(80e9, "byte", _AICONF + "a100_sxm.yaml"),
        "hbm_usable_bytes": assumed(72e9, "byte", "nine tenths: room for the runtime and its buffers"),
        "hbm_bytes_per_second": spec(2039e9, "byte/s", _AICONF + "a100_sxm.yaml"),
        "hbm_streaming_fraction": assumed(0.8, "1", "as h100"),
        "on_chip_bytes": spec(40e6, "byte", "NVIDIA A100 datasheet, L2 cache"),
        "mxu_fraction": assumed(0.8, "1", "large dense matmuls under the power limit"),
        "clock_hz": spec(1.41e9, "Hz", "NVIDIA FasterTransformer gpt_guide: pclk 1410 MHz"),
        "link_bytes_per_second": spec(300e9, "byte/s", _AICONF + "a100_sxm.yaml, NVLink one way per GPU"),
        "collective_base_seconds": spec(1e-5, "s", _AICONF + "a100_sxm.yaml, point-to-point latency"),
        "dcn_bytes_per_second": spec(25e9, "byte/s", _AICONF + "a100_sxm.yaml, between nodes"),
    }
)

_HOST = "a modest share of one host; measure yours with `autoshard calibrate`"
_CPU = _peaks(
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
    "exposed_ici_fraction": assumed(1.0, "1", _HIDE),
    "on_chip_bandwidth_ratio": assumed(22.0, "1", _ON_CHIP),
    "joint_dim_fraction": assumed(1.0, "1", "one dim only"),
}

TABLE: dict[str, ChipRow] = {
    "v4": ChipRow("tpu", 3, "cube", 4096, _CUBE_SMALL + _CUBES, _V4),
    "v5e": ChipRow("tpu", 2, "full-16", 256, _PLANES, _V5E),
    "v5p": ChipRow("tpu", 3, "cube", 8960, (*_CUBE_SMALL, *_CUBES, (16, 16, 24)), _V5P),
    "v6e": ChipRow("tpu", 2, "full-16", 256, _PLANES, _V6E),
    "tpu7x": ChipRow("tpu", 3, "cube", 9216, (*_CUBE_SMALL, *_CUBES, (16, 16, 24), (16, 24, 24)), _TPU7X, 2),
    "h100": ChipRow("gpu", 1, "switch", 8, _POWERS, _H100),
    "a100": ChipRow("gpu", 1, "switch", 8, _POWERS, _A100),
    "cpu": ChipRow("cpu", 1, "switch", 1024, (*_POWERS, (16,), (32,), (64,)), _CPU),
}
