"""Shardings that a model's author wrote into it, and what becomes of them under a plan.

A plan decides all shardings. What the author annotated for the plan's own mesh axes is kept; what was
annotated for any other mesh is freed, because one program cannot be partitioned over two meshes:

    sharding_constraint, reshard, mesh_cast, device_put to a sharding    the identity
    shardings of a nested jit, the mesh it was traced under              dropped: the call is inlined
    out_sharding=, sharding= of an operation                             dropped
    shard_map                                                            keeps its axes, on the plan's devices

With `--shardings keep` the plan is over the model's own mesh and keeps them (`autoshard.kept_shardings`).

A shard_map is written for a number of devices: under a plan for another number it cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from autoshard.errors import TraceError
from autoshard.naming import source_of
from autoshard.primitives import OPAQUE, flops

AnyMesh = Mesh | AbstractMesh
_ANNOTATIONS = {
    "device_put": "devices",
    "mesh_cast": "dst_sharding",
    "reshard": "dst_sharding",
    "sharding_constraint": "sharding",
}
"""Primitives that only say how a value is laid out, and the parameter with the sharding."""
_OF_RESULTS = ("out_sharding", "sharding")
"""Parameters by which other primitives are told the sharding of their result."""


@dataclass(frozen=True, slots=True)
class ShardMap:
    """A `jax.shard_map` of the model.

    Attributes:
        source: "file.py:12" of the user's code.
        axes: Name and size of each axis of its mesh.
        flops_per_device: Floating point operations of contractions inside, in one run on one device; the body
            of a while is counted once, kernels are not.
    """

    source: str
    axes: tuple[tuple[str, int], ...]
    flops_per_device: float

    @property
    def devices(self) -> int:
        """Number of devices that it is written for."""
        return math.prod(size for _, size in self.axes)


def shard_maps(closed: ClosedJaxpr) -> tuple[ShardMap, ...]:
    """Return the shard_maps of a program, those in loops and calls included, each equation once."""
    found = {id(e): e for e in _equations(closed.jaxpr) if e.primitive.name == "shard_map"}
    return tuple(_shard_map(eqn) for eqn in found.values())


def _shard_map(eqn: JaxprEqn) -> ShardMap:
    return ShardMap(source_of(eqn), axes_of(eqn.params["mesh"]), _work(eqn.params["jaxpr"]))


def _work(jaxpr: Jaxpr) -> float:
    """Floating point operations of contractions in a jaxpr and those inside it."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inside = sum(
            _work(inner) for inner in jaxprs_in_params(eqn.params) if eqn.primitive.name not in OPAQUE
        )
        total += flops(eqn) + eqn.params.get("length", 1) * inside
    return total


def count_freed(closed: ClosedJaxpr, mesh: AnyMesh) -> int:
    """Return how many annotations of a program a plan over `mesh` frees, each equation once."""
    freeing = Freeing(mesh)
    return len({id(eqn) for eqn in _equations(closed.jaxpr) if freeing.annotates(eqn)})


def annotation_of(eqn: JaxprEqn) -> NamedSharding | None:
    """Return the sharding of an equation that does nothing but say how one value is laid out, else None.

    A mesh_cast says what axes are explicit from there on, and nothing of a layout.
    """
    name = eqn.primitive.name
    value = None if name == "mesh_cast" else eqn.params.get(_ANNOTATIONS.get(name, ""))
    if isinstance(value, tuple | list) and len(value) == 1:
        (value,) = value
    return value if isinstance(value, NamedSharding) and not value.mesh.empty else None


def axes_of(mesh: AnyMesh) -> tuple[tuple[str, int], ...]:
    """Return name and size of each axis of a mesh."""
    return tuple(mesh.shape.items())


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations of a jaxpr and of those inside it, but not of those inside a shard_map."""
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name != "shard_map":
            for inner in jaxprs_in_params(eqn.params):
                yield from _equations(inner)


@dataclass(frozen=True, slots=True)
class Freeing:
    """Frees what is annotated for other meshes than `mesh`, the plan's."""

    mesh: AnyMesh
    _annotated: dict[int, bool] = field(default_factory=dict)

    def context(self, traced_under: AbstractMesh | None = None) -> AbstractContextManager[Any]:
        """A context without a mesh, where the present one, or that of a trace, is not the plan's."""
        present = jax.sharding.get_abstract_mesh() if traced_under is None else traced_under
        if self._is_other(present):
            return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
        return nullcontext()

    def annotates(self, eqn: JaxprEqn) -> bool:
        """Whether an equation does nothing but annotate a value for another mesh."""
        parameter = _ANNOTATIONS.get(eqn.primitive.name)
        return parameter is not None and self._foreign(eqn.params[parameter])

    def own_spec(self, eqn: JaxprEqn) -> PartitionSpec | None:
        """What an equation annotates a value with, for the plan's axes; None where it does anything else."""
        if eqn.primitive.name != "sharding_constraint" or self.annotates(eqn):
            return None
        spec: PartitionSpec = eqn.params["sharding"].spec
        return spec

    def concerns(self, eqn: JaxprEqn) -> bool:
        """Whether an equation, or one inside it, holds a sharding for another mesh."""
        return (
            self._is_other(eqn.ctx.cur_abstract_mesh)
            or any(self._foreign(value) for value in eqn.params.values())
            or any(self._typed_for_another(atom.aval) for atom in (*eqn.invars, *eqn.outvars))
            or any(self._inside(inner) for inner in jaxprs_in_params(eqn.params))
        )

    def params(self, eqn: JaxprEqn) -> dict[str, Any]:
        """The parameters of an operation without a sharding of its result for another mesh.

        Raises:
            TraceError: It is a shard_map for another number of devices than the plan's.
        """
        if eqn.primitive.name == "shard_map":
            return {**eqn.params, "mesh": self._own_mesh(eqn)}
        freed = {name: None for name in _OF_RESULTS if self._foreign(eqn.params.get(name))}
        return {**eqn.params, **freed} if freed else eqn.params

    def _own_mesh(self, eqn: JaxprEqn) -> AnyMesh:
        """The plan's devices with the axes of a shard_map."""
        mesh = eqn.params["mesh"]
        wanted = _shard_map(eqn)
        if wanted.devices != self.mesh.size:
            axes = ", ".join(f"{name}={size}" for name, size in wanted.axes)
            raise TraceError(
                f"the shard_map at {wanted.source or 'an unknown line'} is written for {wanted.devices} "
                f"devices ({axes}), the plan is for {self.mesh.size}. Its body cannot be cut anew: build the "
                f"model's mesh over {self.mesh.size} devices, or switch the model to its path without "
                "shard_map, and tune it again."
            )
        names, sizes = zip(*wanted.axes, strict=True)
        if isinstance(self.mesh, AbstractMesh):
            return AbstractMesh(sizes, names, axis_types=mesh.axis_types)
        return Mesh(self.mesh.devices.reshape(sizes), names, axis_types=mesh.axis_types)

    def _inside(self, jaxpr: Jaxpr) -> bool:
        """Whether a jaxpr holds a sharding for another mesh. Jaxprs recur: each is read once."""
        if id(jaxpr) not in self._annotated:
            self._annotated[id(jaxpr)] = any(self.concerns(eqn) for eqn in jaxpr.eqns)
        return self._annotated[id(jaxpr)]

    def _foreign(self, value: Any) -> bool:
        """Whether a parameter is or holds another mesh, or a sharding for one."""
        if isinstance(value, tuple | list):
            return any(self._foreign(each) for each in value)
        if isinstance(value, NamedSharding):
            return self._is_other(value.mesh)
        if isinstance(value, Mesh | AbstractMesh):
            return self._is_other(value)
        return isinstance(value, Sharding)

    def _typed_for_another(self, aval: Any) -> bool:
        """Whether explicit sharding put a sharding for another mesh into a type."""
        sharding = getattr(aval, "sharding", None)
        return isinstance(sharding, NamedSharding) and self._is_other(sharding.mesh)

    def _is_other(self, mesh: AnyMesh) -> bool:
        """Whether a mesh has other axes; axes with explicit shardings are never those of a plan."""
        if mesh.empty:
            return False
        return AxisType.Explicit in mesh.axis_types or axes_of(mesh) != axes_of(self.mesh)
