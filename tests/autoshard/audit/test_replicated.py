import pytest

from autoshard.audit.replicated import replicated, spec_text
from autoshard.compiled.hlo import parse_module
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh

MESH: TorusMesh = native_mesh(parse_slice("v5p:2x2x2"))  # x, y and z of 2 chips
MODULE = parse_module(
    """FileNames
1 "/home/me/model.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=20}

StackFrames
1 {file_location_id=1 parent_frame_id=0}

ENTRY %main (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}
"""
)


@pytest.mark.parametrize(
    ("sharding", "spec"),
    [
        ("{devices=[2,1,4]<=[2,2,2]T(1,0,2) last_tile_dim_replicate}", "[y;]"),
        ("{devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate}", "[;y,z]"),
        ("{devices=[8,1]<=[8]}", "[x,y,z;]"),
        ("{devices=[2,2,2]<=[2,2,2]T(2,0,1)}", "[z;x;y]"),
        ("{replicated}", "{replicated}"),
        ("{devices=[2,1,4]<=[8] last_tile_dims={manual}}", "{devices=[2,1,4]<=[8] last_tile_dims={manual}}"),
    ],
)
def test_a_sharding_is_told_as_a_spec_over_the_mesh(sharding: str, spec: str) -> None:
    assert spec_text(sharding, MESH) == spec


def test_a_warning_is_told_with_its_operation_and_line() -> None:
    text = (
        "Involuntary full rematerialization. The compiler cannot go from sharding {devices=[2,1,4]<=[2,2,2]"
        "T(1,0,2) last_tile_dim_replicate} to {devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate} "
        "efficiently for HLO operation %a = f32[94,784]{1,0} copy(%b), sharding={devices=[2,1,4]<=[8]}, "
        'metadata={op_name="jit(f)/here/sharding_constraint" stack_frame_id=1}.'
    )
    (found,) = replicated([text], MODULE, MESH)
    assert (found.op, found.source) == ("here/sharding_constraint", "model.py:20")
    assert (found.tensor, found.held, found.wanted) == ("f32[94,784]", "[y;]", "[;y,z]")
    assert found.warning == text


def test_a_warning_that_says_nothing_is_kept() -> None:
    (found,) = replicated(["Involuntary full rematerialization. ..."], MODULE, MESH)
    assert (found.op, found.held, found.warning) == ("", "", "Involuntary full rematerialization. ...")
