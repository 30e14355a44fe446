"""TPUs: one row per generation.

A row is one *chip*. v2, v3, v4, v5p and tpu7x have two cores, and their numbers are the sum of both. v4 and
v5p show their cores to JAX as one device, v2, v3 and tpu7x as two, each with half of the memory.
"""

from autoshard.cost.chip_row import (
    AS_FAST_HIDDEN,
    GIB,
    HIDES_NO_GATHER,
    HIDES_NOTHING,
    MIB,
    ChipRow,
    Topologies,
    peaks,
)
from autoshard.cost.quantities import assumed, compiler, fitted, measured, spec

_PAPER = "arXiv:2211.05102 sec. 4"
_BOOK = "jax-ml/scaling-book tpus.md"
_DOCS = "docs.cloud.google.com/tpu/docs/"
_JAX_INFO = "jax-ml/jax jax/_src/tpu_info.py"
_HARDWARE = "docs.jax.dev/en/latest/pallas/tpu/hardware.html: VMEM of a core"
_LIBTPU = "libtpu 0.0.51, ahead-of-time compile: "
_LIBTPU_42 = "libtpu 0.0.42.1, ahead-of-time compile: "
_F32 = "jax.lax.Precision.DEFAULT multiplies float32 in one bfloat16 pass on TPU"
_RECIPES = "AI-Hypercomputer/tpu-recipes microbenchmarks: "
_PSUM = "; a psum of 303 MB over two 16x16 reached 4.11e9: AI-Hypercomputer/tpu-recipes, trillium collectives"
_SMALL_GATHER = _RECIPES + "v5p all-gathers of 4 KB to 622 MB on 4 chips, least squares"
_PERMUTE = "marin-community/marin issue 6736, one-hop ppermute slope in one program: "
_FIT = "72 published step times on v4 (arXiv:2211.05102, bench/data/published_times.csv), with the other two"
_BETWEEN = "between what was fitted for v4 and what was measured on v5p, v5e and v6e"

_CUBE_SMALL: Topologies = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_CUBES: Topologies = ((4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16))
_PLANES: Topologies = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_LARGE_PLANES: Topologies = (*_PLANES, (16, 32), (32, 32))

_ON_CHIP = "about what the scaling book gives for VMEM over HBM of v5e; not checked on any other chip"
_SERIAL = _LIBTPU_42 + "cycles of fusions with one matmul against their MXU and HBM times"
_SUM_7X = _RECIPES + "ironwood matmuls of 128 to 32768, one core: launch + MXU + HBM, within 9%"
_SMALL_KERNEL = _LIBTPU_42 + "cycles of fusions of under 64 KiB in PaLM and Llama steps: "
_PASS = _LIBTPU_42 + "cycles per 1024 elements of elementwise and reducing fusions in PaLM and Llama steps: "
_ROW = (
    _LIBTPU_42 + "cycles per 1024 elements of bfloat16 einsums with one row, of caches and of weights alike: "
)
_ROW_ALIKE = "{} elements a cycle for each core, as on {}; not checked"
_BOOK_GATHER = "jax-ml/scaling-book sharding.md: a small all-gather over 4 chips takes 8 us; less 3 hops"
_GATHER_7X = _RECIPES + "ironwood all-gathers of 2 to 537 MB on 4 chips, within 2%; the spec is 100e9"
_PASS_7X = "107 elements a cycle for each core, as on v6e; not checked"
_PASS_ALIKE = "51 elements a cycle for each core, as on {}; not checked"
_JOINT = (
    "published collectives over two and more ring dims, each as the share reached of the links beyond one "
    "ring: all-reduce on v6e 16x16 at 236e9 of 360e9 byte/s: 0.31; FSDP all-gather on tpu7x 4x8x8 at 230e9 "
    "byte/s over dims of 200e9: 0.08 to 0.15; its reduce-scatter at 366e9: 0.42 to 0.83; weight gathering on "
    "v4 4x4x4 (arXiv:2211.05102 fig. 7, 235 ms per layer for 9.4 GB, 40e9 byte/s): 0. The mean, rounded; the "
    "spread is wide"
)

_HIDDEN = (
    "share of the weight gathers hidden in the schedule of fully sharded Llama 3 prefills of 8 layers, 16 x "
    "2048 tokens, compiled on 16 chips with the options of autoshard.compiled.options (libtpu 0.0.42.1): {}"
)
_LOOPED = (
    "the 4 weight-gathered prefills of PaLM 540B in arXiv:2211.05102 fig. 7, which take the longer of "
    "compute and 28 s, 2.7 times what the gathers take over both directions of three rings"
)
_OFFLOADED = "as v6e, whose SparseCores gather as its own do by default; not checked"
_WAITED_FOR = "the compiler gathers synchronously, and takes no option that changes that for the better"

_TPU_LATENCY = {
    "hop_seconds": assumed(1.5e-6, "s", _BETWEEN),
    "collective_base_seconds": assumed(1.0e-6, "s", _BETWEEN),
    "dcn_base_seconds": assumed(1e-5, "s", "of the order of a host-to-host round trip"),
    "exposed_ici_fraction": HIDES_NOTHING,
    "hidden_gather_fraction": HIDES_NO_GATHER,
    "hidden_gather_slowdown": AS_FAST_HIDDEN,
    "on_chip_bandwidth_ratio": assumed(22.0, "1", _ON_CHIP),
    "kernel_seconds": compiler(1.2e-6, "s", _SMALL_KERNEL + "1824 (v5e), 2122 (v5p), 2116 (v6e)"),
    "joint_dim_fraction": fitted(0.25, "1", _JOINT),
    "mxu_sublanes": spec(8, "row", "jax-ml/jax docs/pallas/tpu: native tile is 8 x 128"),
}
_FOUR = {"chips_per_host": spec(4, "chip", _BOOK + ": one tray of 2x2 to a host")}
_EIGHT = {
    "chips_per_host": spec(8, "chip", _BOOK + ": 2x4 to a host; its two trays may be two virtual hosts")
}
_HOST_DCN = "the scaling book's typical 25e9 byte/s of a host, over 4 chips; nothing is published for {}"

_V2 = (
    _TPU_LATENCY
    | _FOUR
    | peaks(bfloat16=spec(46e12, "flop/s", _JAX_INFO), float32=spec(46e12, "flop/s", _F32))
    | {
        "hbm_bytes": spec(16 * GIB, "byte", _DOCS + "v2"),
        "hbm_usable_bytes": compiler(2 * 7.48 * GIB, "byte", _LIBTPU + "out-of-memory limit, two devices"),
        "hbm_bytes_per_second": spec(700e9, "byte/s", _DOCS + "v2"),
        "hbm_streaming_fraction": compiler(
            0.49, "1", _LIBTPU_42 + "247 byte/cycle of a weight-streaming matmul"
        ),
        "on_chip_bytes": spec(32 * MIB, "byte", _JAX_INFO + ": 2 x 16 MiB VMEM"),
        "vmem_bytes": spec(16 * MIB, "byte", _JAX_INFO),
        "mxu_fraction": compiler(0.97, "1", _LIBTPU_42 + "4096^3 at 22.4e12 of 23e12 per core"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "vector_elements_per_second": assumed(2 * 51 * 0.7e9, "element/s", _PASS_ALIKE.format("v4")),
        "row_elements_per_second": assumed(2 * 36 * 0.7e9, "element/s", _ROW_ALIKE.format(36, "v4")),
        "serial_fraction": assumed(0.3, "1", "as v4"),
        "clock_hz": spec(0.7e9, "Hz", "46e12 flop/s over 2 x 32768 flop/cycle"),
        "link_bytes_per_second": assumed(
            62e9, "byte/s", "496 Gbit/s, recalled from doi:10.1109/MM.2021.3058217"
        ),
        "dcn_bytes_per_second": assumed(6.25e9, "byte/s", _HOST_DCN.format("v2")),
    }
)

_V3 = (
    _TPU_LATENCY
    | _FOUR
    | peaks(bfloat16=spec(123e12, "flop/s", _DOCS + "v3"), float32=spec(123e12, "flop/s", _F32))
    | {
        "hbm_bytes": spec(32 * GIB, "byte", _DOCS + "v3"),
        "hbm_usable_bytes": compiler(2 * 15.48 * GIB, "byte", _LIBTPU + "out-of-memory limit, two devices"),
        "hbm_bytes_per_second": spec(900e9, "byte/s", _DOCS + "v3"),
        "hbm_streaming_fraction": compiler(
            0.87, "1", _LIBTPU_42 + "417 byte/cycle of a weight-streaming matmul"
        ),
        "on_chip_bytes": spec(32 * MIB, "byte", _JAX_INFO + ": 2 x 16 MiB VMEM"),
        "vmem_bytes": spec(16 * MIB, "byte", _JAX_INFO),
        "mxu_fraction": compiler(0.95, "1", _LIBTPU_42 + "4096^3 at 58.7e12 of 61.5e12 per core"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "vector_elements_per_second": assumed(2 * 51 * 0.94e9, "element/s", _PASS_ALIKE.format("v4")),
        "row_elements_per_second": assumed(2 * 36 * 0.94e9, "element/s", _ROW_ALIKE.format(36, "v4")),
        "serial_fraction": assumed(0.3, "1", "as v4"),
        "clock_hz": spec(0.94e9, "Hz", "123e12 flop/s over 2 x 65536 flop/cycle"),
        "link_bytes_per_second": spec(
            100e9, "byte/s", _BOOK + "; so does the 6.4e12 byte/s bisection of 32x32 in " + _DOCS + "v3"
        ),
        "dcn_bytes_per_second": assumed(6.25e9, "byte/s", _HOST_DCN.format("v3")),
    }
)

_V4 = (
    _TPU_LATENCY
    | _FOUR
    | peaks(
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
        "vmem_bytes": spec(16 * MIB, "byte", _HARDWARE),
        "mxu_fraction": compiler(0.91, "1", _LIBTPU + "large matmuls at 89-94% of peak"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "vector_elements_per_second": compiler(105e9, "element/s", _PASS + "10"),
        "row_elements_per_second": compiler(75e9, "element/s", _ROW + "14.3"),
        "kernel_seconds": compiler(0.58e-6, "s", _SMALL_KERNEL + "613"),
        "hidden_gather_fraction": fitted(1.0, "1", _LOOPED + "; the compiler hides 25.1 of 33.0 ms"),
        "hidden_gather_slowdown": fitted(2.7, "1", _LOOPED),
        "hop_seconds": fitted(2.5e-6, "s", _FIT),
        "collective_base_seconds": fitted(0.1e-6, "s", _FIT),
        "joint_dim_fraction": fitted(0.15, "1", _FIT),
        "serial_fraction": compiler(0.3, "1", _SERIAL),
        "clock_hz": compiler(1.05e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": spec(45e9, "byte/s", _BOOK + ": 6 links, the paper's 270e9 in total"),
        "dcn_bytes_per_second": spec(6.25e9, "byte/s", _BOOK),
    }
)

_V5E = (
    _TPU_LATENCY
    | _EIGHT
    | peaks(
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
        "vmem_bytes": spec(128 * MIB, "byte", _HARDWARE),
        "mxu_fraction": measured(0.92, "1", "jax-ml/jax docs/pallas/tpu/matmul.ipynb: 8192^3 at 181.8e12"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "vector_elements_per_second": compiler(77e9, "element/s", _PASS + "20"),
        "row_elements_per_second": compiler(105e9, "element/s", _ROW + "14.6"),
        "hidden_gather_fraction": compiler(1.0, "1", _HIDDEN.format("all")),
        "serial_fraction": compiler(0.3, "1", _SERIAL),
        "clock_hz": compiler(1.5e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "collective_base_seconds": measured(3.5e-6, "s", _BOOK_GATHER),
        "link_bytes_per_second": spec(45e9, "byte/s", _BOOK),
        "dcn_bytes_per_second": spec(3.125e9, "byte/s", _DOCS + "v5e: 2 x 100 Gbit/s for 8 chips"),
    }
)

_V5P = (
    _TPU_LATENCY
    | _FOUR
    | peaks(
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
        "vmem_bytes": spec(64 * MIB, "byte", _HARDWARE),
        "mxu_fraction": assumed(0.91, "1", "as v4, whose MXUs it has"),
        "mxu_tile": spec(128, "row", _JAX_INFO),
        "vector_elements_per_second": assumed(2 * 51 * 1.75e9, "element/s", _PASS_ALIKE.format("v4 and v5e")),
        "row_elements_per_second": compiler(310e9, "element/s", _ROW + "5.8"),
        "serial_fraction": compiler(0.1, "1", _SERIAL),
        "hidden_gather_fraction": compiler(0.0, "1", _WAITED_FOR),
        "clock_hz": compiler(1.75e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": measured(86.7e9, "byte/s", _PERMUTE + "64 MiB; the spec is 90e9"),
        "hop_seconds": measured(0.25e-6, "s", _SMALL_GATHER),
        "collective_base_seconds": measured(4.2e-6, "s", _SMALL_GATHER),
        "dcn_bytes_per_second": spec(6.25e9, "byte/s", _BOOK),
    }
)

_V6E = (
    _TPU_LATENCY
    | _EIGHT
    | peaks(
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
        "vmem_bytes": spec(128 * MIB, "byte", _HARDWARE),
        "mxu_fraction": measured(0.90, "1", _RECIPES + "8192^3 at 827e12"),
        "mxu_tile": spec(256, "row", _JAX_INFO),
        "vector_elements_per_second": compiler(187e9, "element/s", _PASS + "9.6"),
        "row_elements_per_second": compiler(203e9, "element/s", _ROW + "8.8"),
        "hidden_gather_fraction": compiler(0.76, "1", _HIDDEN.format("13.9 of 18.2 ms")),
        "serial_fraction": compiler(0.7, "1", _SERIAL),
        "clock_hz": compiler(1.75e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": measured(87.7e9, "byte/s", _PERMUTE + "64 MiB; the spec is 90e9"),
        "hop_seconds": assumed(0.25e-6, "s", "as v5p"),
        "collective_base_seconds": measured(5.4e-6, "s", _PERMUTE + "5.68 us, less one hop"),
        "dcn_bytes_per_second": spec(12.5e9, "byte/s", _BOOK + _PSUM),
    }
)

_TPU7X = (
    _TPU_LATENCY
    | _FOUR
    | peaks(
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
        "vmem_bytes": assumed(0.0, "byte", "not looked up for this core"),
        "hidden_gather_fraction": assumed(0.76, "1", _OFFLOADED),
        "mxu_fraction": measured(0.83, "1", _RECIPES + "ironwood 32768^3 at 956e12 per core"),
        "mxu_tile": spec(256, "row", _JAX_INFO),
        "vector_elements_per_second": assumed(2 * 107 * 1.9e9, "element/s", _PASS_7X),
        "row_elements_per_second": assumed(2 * 116 * 1.9e9, "element/s", _ROW_ALIKE.format(116, "v6e")),
        "serial_fraction": measured(1.0, "1", _SUM_7X),
        "clock_hz": compiler(1.9e9, "Hz", _LIBTPU + "cycles_per_microsecond"),
        "link_bytes_per_second": measured(89.3e9, "byte/s", _GATHER_7X),
        "hop_seconds": assumed(0.25e-6, "s", "as v5p"),
        "collective_base_seconds": measured(13.2e-6, "s", _GATHER_7X),
        "dcn_bytes_per_second": spec(12.5e9, "byte/s", "jax-ml/scaling-book pull request 124"),
    }
)

TPUS: dict[str, ChipRow] = {
    "v2": ChipRow("tpu", 2, "full-16", 256, _PLANES, _V2, 2),
    "v3": ChipRow("tpu", 2, "full-32", 1024, _LARGE_PLANES, _V3, 2),
    "v4": ChipRow("tpu", 3, "cube", 4096, _CUBE_SMALL + _CUBES, _V4),
    "v5e": ChipRow("tpu", 2, "full-16", 256, _PLANES, _V5E),
    "v5p": ChipRow("tpu", 3, "cube", 8960, (*_CUBE_SMALL, *_CUBES, (16, 16, 24)), _V5P),
    "v6e": ChipRow("tpu", 2, "full-16", 256, _PLANES, _V6E),
    "tpu7x": ChipRow("tpu", 3, "cube", 9216, (*_CUBE_SMALL, *_CUBES, (16, 16, 24), (16, 24, 24)), _TPU7X, 2),
}
