"""The compiler's report of a program that does not fit."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.compiled.largest_buffers import allocations, buffers_text
from autoshard.compiled.worker import compile_all
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis
from autoshard.programs import abstract_mesh, export_program
from autoshard.topology import compiler_skip_reason

needs_compiler = pytest.mark.skipif(
    compiler_skip_reason(parse_slice("v5e:2x2")) is not None, reason="needs the TPU compiler"
)

REPORT = """\
Memory Space: default (color=0)
Total bytes: 58143582720 (54.15GiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
   36.00GiB( 80%);   36.00GiB;            0;                2; bf16[1,1152,18432], 2×bf16[512,2048,18432]
   36.56GiB( 99%);  576.00MiB;  38654705664;                1; bf16[32,512,18432]
   36.56GiB(100%);       512B;  39258685440;                1; (f32[512,128], /*index=5*/s32[])

  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
    4.50GiB(100%);    4.50GiB;            0;                1; bf16[118,1152,18432]

  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
    4.50GiB(100%);    4.50GiB;            0;                1; bf16[118,1152,18432]

Memory Space: color_6 (color=6)
Total bytes: 2560 (2.5KiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
     2.5KiB(100%);     2.5KiB;            0;                1; s32[640]
"""


def test_allocations_in_hbm_go_by_their_largest_array() -> None:
    assert allocations(REPORT) == [
        (36 * 2**30, "bf16[512,2048,18432]"),
        (576 * 2**20, "bf16[32,512,18432]"),
        (512, "f32[512,128]"),
        (round(4.5 * 2**30), "bf16[118,1152,18432]"),
        (round(4.5 * 2**30), "bf16[118,1152,18432]"),
    ]


def test_equal_ones_stand_together() -> None:
    text = buffers_text(REPORT)
    assert text.startswith(
        "largest buffers: 36.0 GiB bf16[512,2048,18432], 2 x 4.50 GiB bf16[118,1152,18432], 576 MiB bf16"
    )


def test_without_rows_there_is_nothing_to_say() -> None:
    assert buffers_text("Memory Space: default (color=0)\nTotal bytes: 0 (0B)\n") == ""


@needs_compiler
def test_a_program_that_does_not_fit_names_what_fills_the_memory() -> None:
    axes = (MeshAxis("x", 4, 0, 1),)
    mesh = abstract_mesh(axes)
    whole = jax.ShapeDtypeStruct(
        (2**17, 2**17), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("x"))
    )

    def gathered(a: jax.Array) -> jax.Array:
        return jnp.square(jax.lax.with_sharding_constraint(a, NamedSharding(mesh, PartitionSpec())) @ a)

    program = export_program(gathered, [whole], platform="tpu", mesh_axes=axes)
    (result,) = compile_all([program], "v5e:2x2")
    assert result.status == "out of memory"
    assert "largest buffers: " in result.detail
    assert "bf16[131072,131072]" in result.detail
