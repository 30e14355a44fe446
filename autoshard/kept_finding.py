"""Find the shardings of a model that a plan is to keep, and lay their one mesh on a slice.

What is kept, and under which names of axes, says `autoshard.kept_shardings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from autoshard.audit.meshes import laid_out
from autoshard.audit.shardings import Authored, authored_shardings, only_mesh
from autoshard.cost.slices import Slice
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.errors import OptionError
from autoshard.jit_options import argument_options, bind_call
from autoshard.kept_shardings import ARGUMENT, CONSTRAINT, RESULT, Kept, KeptSharding
from autoshard.search.errors import PinError
from autoshard.targets import Target
from autoshard.trace import Traced
from autoshard.user_shardings import annotation_of, axes_of


def keep_shardings(target: Target, traced: Traced, slice_: Slice) -> Kept | None:
    """Find the shardings of a function and lay their mesh on a slice; None where it has none.

    Raises:
        OptionError: they are over several meshes, or over one that cannot lie on the slice.
        PinError: one leaves an open sum, which is no layout.
    """
    call = bind_call(target.function, target.arguments, target.keywords, argument_options(target.jit_options))
    authored = authored_shardings(traced, jax.tree.leaves(call.dynamic))
    found = list(_found(authored))
    if not found:
        return None
    _require_one_mesh(found)
    sizes = only_mesh(traced.closed, authored, None)
    axes = _named_axes(sizes, laid_out(sizes, slice_))
    parts = {name: tuple(axis.name for axis in of_name) for name, of_name in axes.items()}
    mesh = TorusMesh(slice_, tuple(axis for of_name in axes.values() for axis in of_name))
    return Kept(mesh, tuple(_kept(each, parts) for each in found))


@dataclass(frozen=True, slots=True)
class _Found:
    """A sharding as it was written; `rank` is the number of dims of the array."""

    kind: str
    place: int
    name: str
    source: str
    sharding: NamedSharding
    rank: int


def _found(authored: Authored) -> Iterator[_Found]:
    traced = authored.traced
    yield from _boundary(ARGUMENT, traced.argument_names, traced.in_avals, authored.arguments)
    yield from _boundary(RESULT, traced.result_names, traced.out_avals, authored.results)
    for each in traced.equations.equations:
        sharding = None if each.eqn is None else annotation_of(each.eqn)
        if sharding is not None:
            rank = len(traced.equations.values[each.results[0]].shape)
            yield _Found(CONSTRAINT, each.index, each.name, each.source, sharding, rank)


def _boundary(
    kind: str,
    names: Sequence[str],
    avals: Sequence[jax.ShapeDtypeStruct],
    shardings: Sequence[Sharding | None],
) -> Iterator[_Found]:
    for place, (name, aval, sharding) in enumerate(zip(names, avals, shardings, strict=True)):
        if isinstance(sharding, NamedSharding):
            yield _Found(kind, place, name, "", sharding, len(aval.shape))


def _require_one_mesh(found: Sequence[_Found]) -> None:
    """Name two shardings where they are over different meshes."""
    first = found[0]
    for each in found:
        if axes_of(each.sharding.mesh) != axes_of(first.sharding.mesh):
            raise OptionError(
                f"{_described(first)} and {_described(each)} name different meshes, and a plan has one: "
                "shard both over one mesh, or give `--shardings free`"
            )


def _described(found: _Found) -> str:
    mesh = " ".join(f"{name}={size}" for name, size in axes_of(found.sharding.mesh))
    source = f" at {found.source}" if found.source else ""
    return f"`{found.kind}{found.name}`{source}, over {mesh},"


def _kept(found: _Found, parts: Mapping[str, tuple[str, ...]]) -> KeptSharding:
    spec = found.sharding.spec
    if getattr(spec, "unreduced", None) or getattr(spec, "reduced", None):
        raise PinError(f"{_described(found)} leaves an open sum, which no plan can keep: drop it")
    entries = (*spec, *(None,) * (found.rank - len(spec)))
    dims = (() if entry is PartitionSpec.UNCONSTRAINED else _names(entry) for entry in entries)
    return KeptSharding(
        kind=found.kind,
        place=found.place,
        name=found.name,
        source=found.source,
        spec=tuple(tuple(part for name in dim for part in parts[name]) for dim in dims),
        loose=tuple(dim for dim, entry in enumerate(entries) if entry is PartitionSpec.UNCONSTRAINED),
    )


def _names(entry: object) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (str(entry),)


def _named_axes(sizes: Mapping[str, int], axes: Sequence[MeshAxis]) -> dict[str, tuple[MeshAxis, ...]]:
    """The axes of the plan's mesh for each axis of the author's; one of a single chip lies anywhere."""
    counts = Counter(axis.name for axis in axes)
    named: dict[str, tuple[MeshAxis, ...]] = {}
    for name in sizes:
        own = [axis for axis in axes if axis.name == name] or [MeshAxis(name, 1, 0, 1)]
        if counts[name] > 1:
            own = [
                MeshAxis(_numbered(name, number, sizes), axis.size, axis.torus_dim, axis.stride)
                for number, axis in enumerate(own)
            ]
        named[name] = tuple(own)
    return named


def _numbered(name: str, number: int, taken: Mapping[str, int]) -> str:
    """The name of one of several parts of an axis, unlike those of all axes."""
    while f"{name}{number}" in taken:
        name += "_"
    return f"{name}{number}"
