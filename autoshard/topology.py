"""Devices of a slice in coordinate order: described ones for the compiler, or the attached ones.

The TPU compiler runs on a host without a TPU: `jax.experimental.topologies` describes the chips of any
slice, and a mesh over those descriptions compiles like one over real chips. Devices are ordered by slice,
then by coordinates with x slowest, so that the array of a slice has the shape `[num_slices?, *topology]`;
a mesh axis of size n and stride s on a torus dim then steps s chips along that dim. Under
`compiler_environment()` the compiler needs no metadata server and writes nothing to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from autoshard.cost.slices import Slice
from autoshard.cost.torus import MeshAxis
from autoshard.errors import CompileError

if TYPE_CHECKING:
    import jax

_COMPILER_CHIPS = frozenset({"v4", "v5e", "v5p", "v6e"})
_TORUS_DIMS = 3


def libtpu_available() -> bool:
    """Say whether the package `libtpu`, which holds the TPU compiler, is installed; imports nothing."""
    return find_spec("libtpu") is not None


def compiler_skip_reason(slice_: Slice) -> str | None:
    """Return why the TPU compiler cannot judge programs for a slice, None when it can."""
    name = slice_.chip.name
    if slice_.chip.kind != "tpu":
        return f"{name} is not a TPU: the ahead-of-time compiler knows TPUs only"
    if slice_.chip.devices_per_chip == 2:
        return f"{name} shows the compiler two devices per chip, and a plan describes one per chip"
    if name not in _COMPILER_CHIPS:
        return (
            f"the compiler has no description of {name} chips: it knows {', '.join(sorted(_COMPILER_CHIPS))}"
        )
    if not libtpu_available():
        return "the package `libtpu` is not installed: run `pip install 'jax[tpu]'` or `pip install libtpu`"
    return None


def compiler_environment() -> dict[str, str]:
    """Return the variables under which a child compiles for TPUs, quietly and beside other processes."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # it writes such entries, but cannot read them
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5e-8",  # any legal value: it only stops the search for a metadata server
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_LOG_DIR": "disabled",
        "TPU_STDERR_LOG_LEVEL": "1",  # warnings: the compiler names involuntary rematerialisations there
    }


def aot_devices(slice_: Slice) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Return compiler devices of a slice, shaped `[*topology]`, or `[num_slices, *topology]` for several.

    Raises:
        CompileError: the compiler cannot describe this slice; the message says why.
    """
    from jax.experimental import topologies

    reason = compiler_skip_reason(slice_)
    if reason is not None:
        raise CompileError(f"`{slice_.name}` cannot be compiled for: {reason}.")
    name, options = topology_request(slice_)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # the compiler raises bare runtime errors for a topology it refuses
        raise CompileError(f"The TPU compiler cannot describe `{slice_.name}`: {error}") from error
    shape = slice_.topology if slice_.num_slices == 1 else (slice_.num_slices, *slice_.topology)
    return in_coordinate_order(described.devices, shape)


def in_coordinate_order(
    devices: Sequence[Any], shape: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Return devices as an array, sorted by slice and coordinates; devices without coordinates by id.

    Raises:
        CompileError: there are not as many devices as the shape holds.
    """
    if len(devices) != prod(shape):
        raise CompileError(
            f"A mesh of shape {tuple(shape)} needs {prod(shape)} devices, but there are {len(devices)}: "
            "choose a slice of that many chips."
        )
    array = np.empty(len(devices), dtype=object)
    array[:] = sorted(devices, key=_place)
    return array.reshape(tuple(shape))


def arrange(
    devices: np.ndarray[Any, np.dtype[np.object_]], mesh_axes: Sequence[MeshAxis]
) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Return devices in the order of a mesh.

    Args:
        devices: the slice's devices in coordinate order, of any shape.
        mesh_axes: axes, outermost first; their order need not be that of the torus dims.

    Returns:
        An array of shape `[axis.size for axis in mesh_axes]`.
    """
    flat = devices.reshape(-1)
    return flat[chip_indices(mesh_axes)] if mesh_axes else flat.reshape(())


def chip_indices(mesh_axes: Sequence[MeshAxis]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the index, in coordinate order, of the chip at every place of a mesh; shape: the axes' sizes."""
    coordinates = chip_coordinates(mesh_axes)
    extents = [torus_extent(mesh_axes, dim) for dim in range(-1, _TORUS_DIMS)]
    index = np.zeros(coordinates.shape[1:], dtype=np.int64)
    for coordinate, extent in zip(coordinates, extents, strict=True):
        index = index * extent + coordinate
    return index


def chip_coordinates(mesh_axes: Sequence[MeshAxis]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the coordinates of every place in a mesh: `[4, *sizes]`, rows are slice index, x, y and z."""
    sizes = tuple(axis.size for axis in mesh_axes)
    coordinates = np.zeros((1 + _TORUS_DIMS, *sizes), dtype=np.int64)
    for axis, index in zip(mesh_axes, np.indices(sizes), strict=True):
        coordinates[1 + axis.torus_dim] += index * axis.stride
    return coordinates


def torus_extent(mesh_axes: Sequence[MeshAxis], torus_dim: int) -> int:
    """Return how many chips lie along a torus dim (-1: slices over DCN) of the slice which the axes cover."""
    return prod(axis.size for axis in mesh_axes if axis.torus_dim == torus_dim)


def mesh_for(slice_: Slice, mesh_axes: Sequence[MeshAxis]) -> jax.sharding.Mesh:
    """Return the mesh of compiler devices of a slice, axes of type Auto; one chip when there are no axes."""
    devices = aot_devices(slice_).reshape(-1)
    return mesh_of(devices if mesh_axes else devices[:1], mesh_axes)


def mesh_of(
    devices: np.ndarray[Any, np.dtype[np.object_]], mesh_axes: Sequence[MeshAxis]
) -> jax.sharding.Mesh:
    """Return the mesh of devices given in coordinate order, with axes of type Auto."""
    from jax.sharding import AxisType, Mesh

    names = tuple(axis.name for axis in mesh_axes)
    return Mesh(arrange(devices, mesh_axes), names, axis_types=(AxisType.Auto,) * len(names))


def topology_request(slice_: Slice) -> tuple[str, dict[str, Any]]:
    """Return the name and the options by which the compiler knows a slice."""
    wraps = (*slice_.wraps, *(False,) * _TORUS_DIMS)[:_TORUS_DIMS]
    options: dict[str, Any] = {"wrap": wraps} if any(wraps) else {}
    if slice_.chip.name == "v4":
        options["chip_config_name"] = "megacore"
    if slice_.num_slices > 1:
        options["num_slices"] = slice_.num_slices
    return f"{slice_.chip.name}:{'x'.join(map(str, slice_.topology))}", options


def _place(device: Any) -> tuple[Any, ...]:
    coordinates = tuple(getattr(device, "coords", ()) or ())
    return (
        getattr(device, "slice_index", 0) or 0,
        coordinates,
        getattr(device, "core_on_chip", 0) or 0,
        device.id,
    )
