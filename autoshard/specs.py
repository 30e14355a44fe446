"""Array types and shardings as short texts, so that one array is one line of a plan file.

A *type* is the dtype and the shape: ``bfloat16[32,4096]``. A *spec* lists, dim by dim, the mesh axes that
shard the dim: dims are joined by ``;`` and the axes of one dim by ``,`` with the major axis first, so
``x;y,z;`` stands for ``PartitionSpec('x', ('y', 'z'), None)``. The text of a rank-0 array and of a
replicated rank-1 array are both empty: reading a spec needs the rank, which the type gives.

JAX has several spellings of one sharding (``P('a') != P('a', None)``, a name or a tuple of one name); here
a spec is always normalised: a tuple of full rank, holding a tuple of axis names for every dim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autoshard.errors import PlanError

if TYPE_CHECKING:
    from jax.sharding import PartitionSpec

Spec = tuple[tuple[str, ...], ...]
"""The mesh axes of every dim, major axis first; an unsharded dim has an empty tuple."""

_TYPE = re.compile(r"(?P<dtype>[^\[\]]+)\[(?P<shape>(\d+(,\d+)*)?)\]")
_RESERVED = frozenset(";, ")


def format_type(dtype: object, shape: Sequence[int]) -> str:
    """Return the type text of an array, such as ``bfloat16[32,4096]``.

    Args:
        dtype: a dtype, or the name of one.
        shape: sizes of the dims.
    """
    return f"{dtype}[{','.join(str(int(size)) for size in shape)}]"


def parse_type(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the dtype's name and the shape of a type text.

    Raises:
        PlanError: `text` is not of the form ``dtype[size,size]``.
    """
    match = _TYPE.fullmatch(text)
    if match is None:
        raise PlanError(
            f"`{text}` is not an array type: expected `dtype[size,size,...]`, such as `bfloat16[32,4096]`."
        )
    shape = match["shape"]
    return match["dtype"], tuple(int(size) for size in shape.split(",")) if shape else ()


def rank_of(type_text: str) -> int:
    """Return how many dims a type text has; raises `PlanError` where it is not one."""
    return len(parse_type(type_text)[1])


def normalise(entries: Iterable[object], rank: int) -> Spec:
    """Return the normalised spec of a `PartitionSpec`, or of a sequence spelled like one.

    Args:
        entries: per dim None, an axis name, or a sequence of axis names; trailing dims may be left out.
        rank: number of dims of the array.

    Raises:
        PlanError: more entries than dims, an axis used twice, an entry that is no axis name, or a
        `PartitionSpec` with
            unreduced axes (arguments and results are never unreduced).
    """
    if getattr(entries, "unreduced", None):
        raise PlanError(f"`{entries}` has unreduced axes, which no argument or result can have.")
    dims = tuple(_axes_of(entry) for entry in entries)
    if len(dims) > rank:
        raise PlanError(f"`{entries}` names {len(dims)} dims, but the array has rank {rank}.")
    spec = dims + ((),) * (rank - len(dims))
    _check_axes(spec)
    return spec


def format_spec(spec: Spec) -> str:
    """Return the text of a normalised spec, such as ``x;y,z;``."""
    return ";".join(",".join(axes) for axes in spec)


def parse_spec(text: str, rank: int) -> Spec:
    """Return the normalised spec that a text stands for.

    Args:
        text: dims joined by ``;``, the axes of a dim joined by ``,``.
        rank: number of dims of the array.

    Raises:
        PlanError: the text names another number of dims than `rank`, or an axis twice.
    """
    dims = text.split(";") if rank or text else []
    if len(dims) != rank:
        raise PlanError(
            f"Spec `{text}` names {len(dims)} dims (joined by `;`), but the array has rank {rank}."
        )
    spec = tuple(tuple(dim.split(",")) if dim else () for dim in dims)
    _check_axes(spec)
    return spec


STAGE = " > "
"""Joins the specs that a tensor passes through, one collective apart."""


def format_chain(chain: Iterable[Spec]) -> str:
    """Return the text of the specs that a tensor passes through, such as ``;;x > x;;``."""
    return STAGE.join(format_spec(spec) for spec in chain)


def parse_chain(text: str, rank: int) -> tuple[Spec, ...]:
    """Return the specs that a chain text stands for; raises `PlanError` as `parse_spec` does."""
    return tuple(parse_spec(part, rank) for part in text.split(STAGE))


def to_partition_spec(spec: Spec) -> PartitionSpec:
    """Return the `PartitionSpec` of full rank that a normalised spec stands for."""
    from jax.sharding import PartitionSpec

    return PartitionSpec(*(_entry_of(axes) for axes in spec))


def _axes_of(entry: object) -> tuple[str, ...]:
    if entry is None:
        return ()
    if isinstance(entry, str):
        return (entry,)
    if isinstance(entry, tuple | list) and all(isinstance(axis, str) for axis in entry):
        return tuple(entry)
    raise PlanError(f"`{entry!r}` does not shard a dim: expected None, an axis name or a tuple of names.")


def _entry_of(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    return axes if len(axes) > 1 else axes[0] if axes else None


def _check_axes(spec: Spec) -> None:
    names = [axis for axes in spec for axis in axes]
    for axis in names:
        if not axis or _RESERVED & set(axis):
            raise PlanError(
                f"`{axis}` cannot name a mesh axis: it is empty or holds a `;`, a `,` or a space."
            )
    repeated = sorted({axis for axis in names if names.count(axis) > 1})
    if repeated:
        raise PlanError(
            f"Mesh axis `{repeated[0]}` is used twice in `{format_spec(spec)}`: an array uses it once."
        )
