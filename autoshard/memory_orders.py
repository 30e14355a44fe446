"""In what order the dims of a stored array lie in memory: the part of a plan that the compiler chose.

An array of shape [a, b, c] lies in memory with c innermost unless it is told otherwise. A program that reads
it with b innermost then copies it in every step, which for a key-value cache can take longer than the step's
own work. Tier 2 lets the TPU compiler choose (`jax.experimental.layout`); a plan keeps what it chose where
that is not the written order, as text: dims from the outermost to the innermost, ``0,2,4,1,3``.

The orders hold for TPUs: on other devices, and over meshes without devices, a plan's arrays lie as written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from autoshard.errors import PlanError
from autoshard.plan_records import ArgumentRecord, ResultRecord
from autoshard.specs import rank_of

if TYPE_CHECKING:
    import jax
    from jax.experimental.layout import Format

R = TypeVar("R", ArgumentRecord, ResultRecord)

_PLATFORM = "tpu"


def with_orders(arrays: Mapping[str, R], orders: Sequence[Sequence[int]]) -> dict[str, R]:
    """Return the records of arrays with the orders that the compiler chose, one for each in flat order.

    No orders at all leave the records as they are. An order that is the written one, or not one of the
    array's own dims (the compiler sees a typed key with the words that it is made of), is left out.
    """
    if not orders:
        return dict(arrays)
    return {
        path: msgspec.structs.replace(record, order=_text(order, rank_of(record.type)))
        for (path, record), order in zip(arrays.items(), orders, strict=True)
    }


def _text(order: Sequence[int], rank: int) -> str | None:
    if len(order) != rank or list(order) == list(range(rank)):
        return None
    return ",".join(map(str, order))


def written_order(rank: int) -> str:
    """Return the order in which dims are written, which a plan names only where it insists on it."""
    return ",".join(map(str, range(rank)))


def insists_on_written(arrays: Mapping[str, ArgumentRecord]) -> bool:
    """Say whether some array of a plan is to lie as written, so that nothing is left to the compiler.

    All arrays then do: asked for the order of some alone, the compiler does not keep to it in the results.
    """
    return any(record.order == written_order(rank_of(record.type)) for record in arrays.values())


def parse_order(text: str, rank: int) -> tuple[int, ...]:
    """Return the dims that an order lists.

    Raises:
        PlanError: it does not list each of the `rank` dims once.
    """
    try:
        order = tuple(int(dim) for dim in text.split(","))
    except ValueError:
        order = ()
    if sorted(order) != list(range(rank)):
        raise PlanError(
            f"`{text}` is no memory order of an array of {rank} dims: expected each of its dims once, "
            f"such as `{','.join(map(str, range(rank)))}`."
        )
    return order


def holds_on(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> bool:
    """Say whether a plan's memory orders hold on the devices of a mesh."""
    from jax.sharding import Mesh

    return isinstance(mesh, Mesh) and mesh.devices.size > 0 and mesh.devices.flat[0].platform == _PLATFORM


def placed(
    record: ArgumentRecord | ResultRecord, sharding: jax.sharding.NamedSharding
) -> jax.sharding.NamedSharding | Format:
    """Return where an array lies: its sharding, with its memory order where the plan has one that holds."""
    if record.order is None or not holds_on(sharding.mesh):
        return sharding
    from jax.experimental.layout import Format, Layout

    return Format(Layout(parse_order(record.order, rank_of(record.type))), sharding)
