"""Shardings of the model that a plan keeps: those of its arguments and results, and constraints inside.

With `--shardings keep` what the author sharded is pinned (`autoshard.search.pins`), on the author's mesh: its
axes are laid on the torus (`autoshard.audit.meshes`), under their own names. One that lies on several parts
of the torus is several axes of the plan, numbered, major first, which go together in what is kept::

    data=2 model=8 on v5e:4x4      data=2 model0=2 model1=4      P('model') is ('model0', 'model1')

A dim that is UNCONSTRAINED is left to the search. Kept are `NamedSharding`s of the abstract arguments, those
that a `jax.jit` around the whole function names for its arguments and results, and `with_sharding_constraint`
and `reshard` wherever they stand, loops included. Shardings of a nested `jax.jit` and of single operations
(`out_sharding=`) are not kept. Arrays too small to be a decision of the search have no pin: an argument or a
result of that kind lies as it was sharded, and what that may move is not priced.

A kept sharding is written as a pin, `?` standing for a dim that is left free::

    params/wo=model;            result:0=data;;            constraint:layers/tanh/sharding_constraint=data;?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import jax
import msgspec
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from autoshard.audit.meshes import laid_out
from autoshard.audit.shardings import authored_shardings, only_mesh
from autoshard.cost.layouts import REPLICATED
from autoshard.cost.slices import Slice
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.errors import OptionError
from autoshard.jit_options import argument_options, bind_call
from autoshard.name_patterns import fold_names
from autoshard.plan import Plan
from autoshard.search.coverage import ANNOTATION_PRIMITIVES
from autoshard.search.errors import PinError
from autoshard.search.graph import Graph
from autoshard.search.pins import OpPin, Pin, ValuePin
from autoshard.specs import Spec, format_spec
from autoshard.targets import Target
from autoshard.trace import Traced
from autoshard.user_shardings import annotation_of, axes_of

ARGUMENT, RESULT, CONSTRAINT = "", "result:", "constraint:"
_LOOSE = "?"


@dataclass(frozen=True, slots=True)
class KeptSharding:
    """One sharding of the model.

    Attributes:
        kind: `ARGUMENT`, `RESULT` or `CONSTRAINT`.
        place: Position of the argument or result, index of the op.
        name: Its path, or the name of the op.
        source: "file.py:12" of a constraint.
        spec: The mesh axes of the plan for each dim, major first.
        loose: Dims that are left free.
    """

    kind: str
    place: int
    name: str
    source: str
    spec: Spec
    loose: tuple[int, ...]

    @property
    def spec_text(self) -> str:
        """The spec as in a plan, `?` for what is free."""
        dims = enumerate(format_spec(self.spec).split(";"))
        return ";".join(_LOOSE if dim in self.loose else text for dim, text in dims)

    @property
    def text(self) -> str:
        """What it is called in messages."""
        source = f" at {self.source}" if self.source else ""
        return f"{self.kind}{self.name}={self.spec_text}{source}"

    def value(self, graph: Graph) -> int:
        """The value that it is the layout of; a small argument that is donated has that of its result."""
        if self.kind == CONSTRAINT:
            return graph.ops[self.place].results[0]
        if self.kind == RESULT:
            return graph.results[self.place]
        value, taken = graph.arguments[self.place], dict(graph.aliases).get(self.place)
        return graph.results[taken] if graph.values[value].free and taken is not None else value


@dataclass(frozen=True, slots=True)
class Kept:
    """The shardings that a plan keeps, and the mesh that they are over."""

    mesh: TorusMesh
    shardings: tuple[KeptSharding, ...]

    def texts(self) -> tuple[str, ...]:
        """Each as text, those of one spec whose names differ in numbers alone as one."""
        names: dict[tuple[str, str], list[str]] = {}
        for each in self.shardings:
            names.setdefault((each.kind, each.spec_text), []).append(each.name)
        return tuple(
            f"{kind}{pattern}={spec}"
            for (kind, spec), alike in names.items()
            for pattern in fold_names(alike)
        )

    def bytes_per_chip(self, graph: Graph) -> dict[str, float]:
        """What a chip holds of each array, dims that are left free being whole."""
        sizes = dict(zip(self.mesh.names, self.mesh.shape, strict=True))
        return {
            each.text: graph.values[each.value(graph)].nbytes
            / prod(sizes[name] for names in each.spec for name in names)
            for each in self.shardings
        }

    def pins(self, graph: Graph) -> tuple[Pin, ...]:
        """The pins of those that the search decides on."""
        found = (_pin(each, graph, self.mesh) for each in self.shardings)
        return tuple(pin for pin in found if pin is not None)


def keep_shardings(target: Target, traced: Traced, slice_: Slice) -> Kept | None:
    """Find the shardings of a function and lay their mesh on a slice; None where it has none.

    Raises:
        OptionError: they are over several meshes, or over one that cannot lie on the slice.
        PinError: one leaves an open sum, which is no layout.
    """
    call = bind_call(target.function, target.arguments, target.keywords, argument_options(target.jit_options))
    found = list(_found(traced, jax.tree.leaves(call.dynamic)))
    if not found:
        return None
    _require_one_mesh(found)
    authored = authored_shardings(traced, jax.tree.leaves(call.dynamic))
    sizes = only_mesh(traced.closed, authored, None)
    axes = _named_axes(sizes, laid_out(sizes, slice_))
    parts = {name: tuple(axis.name for axis in of_name) for name, of_name in axes.items()}
    mesh = TorusMesh(slice_, tuple(axis for of_name in axes.values() for axis in of_name))
    return Kept(mesh, tuple(_kept(each, parts) for each in found))


def with_kept(plan: Plan, kept: Kept, graph: Graph) -> Plan:
    """Return a plan that says what it keeps; arrays that are no decision of the search lie as they did.

    Raises:
        PinError: the sharding of such an array does not divide it.
    """
    arguments, results, taken = dict(plan.arguments), dict(plan.results), dict(graph.aliases)
    names = list(results)
    for each in kept.shardings:
        if each.kind == CONSTRAINT or not graph.values[each.value(graph)].free:
            continue
        _require_even(each, graph, kept.mesh)
        spec = format_spec(each.spec)
        if each.kind == ARGUMENT:
            arguments[each.name] = msgspec.structs.replace(arguments[each.name], spec=spec)
        if each.kind == RESULT or each.place in taken:  # a donated one has the layout of its result
            name = each.name if each.kind == RESULT else names[taken[each.place]]
            results[name] = msgspec.structs.replace(results[name], spec=spec)
    annotations = sum(op.primitive in ANNOTATION_PRIMITIVES for op in graph.ops)
    places = (graph.ops[each.place] for each in kept.shardings if each.kind == CONSTRAINT)
    freed = annotations - sum(op.primitive in ANNOTATION_PRIMITIVES for op in places)
    coverage = msgspec.structs.replace(plan.coverage, freed_annotations=freed)
    return msgspec.structs.replace(
        plan, kept=kept.texts(), arguments=arguments, results=results, coverage=coverage
    )


def _require_even(kept: KeptSharding, graph: Graph, mesh: TorusMesh) -> None:
    """Refuse the sharding of a small array whose dims it does not divide; others the search refuses."""
    shape, sizes = graph.values[kept.value(graph)].shape, dict(zip(mesh.names, mesh.shape, strict=True))
    for dim, (size, names) in enumerate(zip(shape, kept.spec, strict=True)):
        count = prod(sizes[name] for name in names)
        if size % count:
            raise PinError(
                f"`{kept.text}` cannot hold on {mesh.slice.name}: dim {dim} of size {size} is not divisible "
                f"by {count}; shard it over fewer chips, or give `--shardings free`"
            )


def marks(pins: Iterable[Pin]) -> tuple[Mapping[int, Hashable], Mapping[int, Hashable]]:
    """What tells pinned ops, and pinned values, from others that are else their copies."""
    ops: dict[int, Hashable] = {}
    values: dict[int, Hashable] = {}
    for pin in pins:
        if isinstance(pin, ValuePin):
            values[pin.value] = (pin.layout, pin.loose, pin.order)
        else:
            ops[pin.op] = (pin.operands, pin.result, pin.loose, pin.order)
    return ops, values


# ---- what the model says


@dataclass(frozen=True, slots=True)
class _Found:
    """A sharding as it was written; `rank` is the number of dims of the array."""

    kind: str
    place: int
    name: str
    source: str
    sharding: NamedSharding
    rank: int


def _found(traced: Traced, leaves: Sequence[object]) -> Iterator[_Found]:
    authored = authored_shardings(traced, leaves)
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


# ---- as pins


def _pin(kept: KeptSharding, graph: Graph, mesh: TorusMesh) -> Pin | None:
    """The pin; None where the search decides nothing."""
    value = kept.value(graph)
    if graph.values[value].free:
        return None
    order = tuple(tuple(mesh.names.index(name) for name in names) for names in kept.spec)
    layout = [REPLICATED] * len(mesh.axes)
    for dim, axes in enumerate(order):
        for axis in axes:
            layout[axis] = dim
    if kept.kind == CONSTRAINT:
        return OpPin(kept.place, (), tuple(layout), kept.text, kept.loose, order)
    return ValuePin(value, tuple(layout), kept.text, kept.loose, order)
