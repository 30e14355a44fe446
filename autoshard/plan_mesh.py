"""The mesh of a plan over real devices: every device at the place in the torus that the plan gave it.

A mesh axis with stride s along torus dim d moves s chips along that dim, so mesh position (i_1 .. i_A) is
the chip with coordinate sum(i_a * s_a for axes a of dim d) in every dim d. With the devices ordered by
coordinates, first dim slowest, a step of axis a is a step of ``s_a * (chips in all later dims)`` in that
order; DCN is the slowest of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from autoshard.errors import PlanError, PlanMismatchError
from autoshard.plan_records import AxisRecord

if TYPE_CHECKING:
    import jax


class Device(Protocol):
    """A JAX device; on TPU it also has `coords`, `core_on_chip` and, over DCN, `slice_index`."""

    @property
    def id(self) -> int:
        """Unique number of the device."""
        ...


def build_mesh(
    axes: Sequence[AxisRecord], devices: Sequence[Device] | None, *, slice_name: str
) -> jax.sharding.Mesh:
    """Return the mesh with the given axes, its axis types Auto.

    Args:
        axes: the plan's mesh axes.
        devices: the devices of the slice in any order; None takes `jax.devices()`.
        slice_name: named in the errors.

    Raises:
        PlanMismatchError: the number of devices is not the number of chips.
        PlanError: the axes do not name every chip exactly once.
    """
    import jax

    found = sorted(jax.devices() if devices is None else devices, key=_place)
    order = device_order(axes)
    if len(found) != order.size:
        raise PlanMismatchError(
            f"The plan is for slice `{slice_name}`, {order.size} devices, but {len(found)} devices are here: "
            "run on that slice, pass its devices as `devices=`, or plan for this one with `autoshard tune`."
        )
    array = np.empty(order.shape, dtype=object)
    array.flat[:] = [found[index] for index in order.flat]
    axis_types = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.sharding.Mesh(array, tuple(axis.name for axis in axes), axis_types=axis_types)


def device_order(axes: Sequence[AxisRecord]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return, per mesh position, the index of its device among the devices ordered by coordinates.

    Raises:
        PlanError: the strides do not name every chip exactly once.
    """
    shape = tuple(axis.size for axis in axes)
    order = np.zeros(shape, dtype=np.int64)
    for position, axis in enumerate(axes):
        steps = np.arange(axis.size, dtype=np.int64) * _device_stride(axis, axes)
        order = order + steps.reshape([-1 if i == position else 1 for i in range(len(axes))])
    if sorted(order.flat) != list(range(prod(shape))):
        strides = ", ".join(
            f"{axis.name}: {axis.size} by {axis.stride} in dim {axis.torus_dim}" for axis in axes
        )
        raise PlanError(f"The plan's mesh axes do not name every chip once ({strides}): make the plan again.")
    return order


def _device_stride(axis: AxisRecord, axes: Sequence[AxisRecord]) -> int:
    later = prod(other.size for other in axes if other.torus_dim > axis.torus_dim)
    return axis.stride * later


def _place(device: Device) -> tuple[int, ...]:
    """Sort key: slice, coordinates (first dim slowest), core; the id where a device has no coordinates."""
    coords = getattr(device, "coords", None)
    if coords is None:
        return (device.id,)
    slice_index = getattr(device, "slice_index", None) or 0
    return (slice_index, *coords, getattr(device, "core_on_chip", None) or 0)
