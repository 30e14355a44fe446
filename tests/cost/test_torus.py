"""Meshes: axes of the native mesh, factorisations, strides as device order gives them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import chip
from autoshard.cost.errors import SliceError
from autoshard.cost.slices import Slice, parse_slice, slices_of
from autoshard.cost.torus import DCN_DIM, MeshAxis, TorusMesh, mesh_factorisations, native_mesh

SMALL = [one for name in ("v4", "v5e", "h100") for one in slices_of(chip(name)) if one.n_chips <= 256]


def test_native_mesh_has_one_axis_per_torus_dim() -> None:
    mesh = native_mesh(parse_slice("v4:2x4x4"))
    assert mesh.axes == (MeshAxis("x", 2, 0, 1), MeshAxis("y", 4, 1, 1), MeshAxis("z", 4, 2, 1))
    assert (mesh.names, mesh.shape, mesh.n_chips) == (("x", "y", "z"), (2, 4, 4), 32)


def test_dims_of_one_chip_have_no_axis_and_slices_lead() -> None:
    assert native_mesh(parse_slice("v4:2x2x1")).names == ("x", "y")
    assert native_mesh(parse_slice("v5e:1x4")).axes == (MeshAxis("y", 4, 1, 1),)
    several = native_mesh(parse_slice("2*v5e:4x4"))
    assert several.axes[0] == MeshAxis("dcn", 2, DCN_DIM, 1)
    assert several.names == ("dcn", "x", "y")
    assert several.n_chips == 32


def test_single_chip_has_an_axis_of_size_one() -> None:
    assert native_mesh(parse_slice("v5e:1x1")).axes == (MeshAxis("x", 1, 0, 1),)


def test_factorisations_of_a_small_slice_by_hand() -> None:
    meshes = mesh_factorisations(parse_slice("v5e:2x4"))
    assert [mesh.axes for mesh in meshes] == [
        (MeshAxis("x", 2, 0, 1), MeshAxis("y", 4, 1, 1)),
        (MeshAxis("x", 2, 0, 1), MeshAxis("y0", 2, 1, 2), MeshAxis("y1", 2, 1, 1)),
    ]


def test_factorisations_of_eight_are_ordered() -> None:
    shapes = [mesh.shape for mesh in mesh_factorisations(parse_slice("h100:8"))]
    assert shapes[0] == (8,)
    assert sorted(shapes) == [(2, 2, 2), (2, 4), (4, 2), (8,)]


def test_max_axes_limits_all_but_the_native_mesh() -> None:
    one = parse_slice("v4:4x4x4")
    assert [mesh.shape for mesh in mesh_factorisations(one, max_axes=2)] == [(4, 4, 4)]
    assert max(len(mesh.axes) for mesh in mesh_factorisations(one, max_axes=5)) == 5


@given(st.sampled_from(SMALL), st.integers(1, 5))
def test_factorisations_are_distinct_and_begin_with_the_native(one: Slice, max_axes: int) -> None:
    meshes = mesh_factorisations(one, max_axes)
    assert meshes[0] == native_mesh(one)
    assert len(set(meshes)) == len(meshes)
    assert meshes == mesh_factorisations(one, max_axes)


@given(st.data())
def test_strides_are_those_of_the_device_array(data: st.DataObject) -> None:
    one = data.draw(st.sampled_from([s for s in SMALL if s.n_chips > 1]))
    mesh = data.draw(st.sampled_from(mesh_factorisations(one, max_axes=5)))
    extents = (one.num_slices, *one.topology)  # DCN_DIM, -1, comes first
    coords = np.stack(np.meshgrid(*(np.arange(size) for size in extents), indexing="ij"), axis=-1)
    devices = coords.reshape(*mesh.shape, len(extents))
    for index, axis in enumerate(mesh.axes):
        step = np.take(devices, 1, axis=index) - np.take(devices, 0, axis=index)
        expected = np.zeros(len(extents), dtype=int)
        expected[axis.torus_dim - DCN_DIM] = axis.stride
        assert (step == expected).all()


def test_axes_must_multiply_to_the_topology() -> None:
    with pytest.raises(
        SliceError, match=r"on torus dim 0 have sizes \[2\], expected sizes that multiply to 4"
    ):
        TorusMesh(parse_slice("v5e:4x1"), (MeshAxis("x", 2, 0, 1),))
    with pytest.raises(SliceError, match="across slices"):
        TorusMesh(parse_slice("2*v5e:1x1"), (MeshAxis("x", 1, 0, 1),))
