"""What a collective of a compiled program costs when it has its links to itself."""

from __future__ import annotations

from autoshard.compiled.collectives import HloCollective
from autoshard.compiled.replica_groups import axes_of_groups, varying_axes
from autoshard.cost.collectives import collective_seconds
from autoshard.cost.torus import DCN_DIM, TorusMesh
from autoshard.permute_routing import Link, permute_seconds


def alone_on_links(collective: HloCollective, mesh: TorusMesh) -> tuple[float, frozenset[Link]]:
    """Return the seconds of a collective when it is alone, and the links that it holds.

    That is both directions of every torus dim that it spans; of a permute only those that it uses.
    """
    if collective.pairs:
        return permute_seconds(collective.pairs, collective.bytes_per_chip, mesh)
    axes, _ = priced_axes(collective, mesh)
    dims = {mesh.axes[axis].torus_dim for axis in axes}
    seconds = float(collective_seconds(collective.kind, collective.bytes_per_chip, axes, mesh))
    return seconds, frozenset((dim, sign) for dim in dims for sign in (1, -1))


def priced_axes(collective: HloCollective, mesh: TorusMesh) -> tuple[tuple[int, ...], bool]:
    """Return the mesh axes (indices) that price a collective, and whether its groups are exactly these.

    Groups that are only a part of the chips along the axes are priced as if they were all of them.
    """
    if collective.between_slices:
        return tuple(i for i, axis in enumerate(mesh.axes) if axis.torus_dim == DCN_DIM), True
    if collective.pairs:
        return varying_axes(collective.pairs, mesh), True
    axes = axes_of_groups(collective.groups, mesh)
    return (axes, True) if axes is not None else (varying_axes(collective.groups, mesh), False)
