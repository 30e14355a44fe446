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

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import msgspec

from autoshard.cost.layouts import REPLICATED
from autoshard.cost.torus import TorusMesh
from autoshard.name_patterns import fold_names
from autoshard.plan import Plan
from autoshard.search.coverage import ANNOTATION_PRIMITIVES
from autoshard.search.errors import PinError
from autoshard.search.graph import Graph
from autoshard.search.pins import OpPin, Pin, ValuePin
from autoshard.specs import Spec, format_spec

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
