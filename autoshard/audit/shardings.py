"""The shardings that an author gave a function, and the one mesh that they are over.

An argument's sharding is that of its abstract value, else what a `jax.jit` which takes it says; a result's is
what the `jax.jit` says that returns it. Constraints inside name their mesh as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jax.sharding import AbstractMesh, Mesh, NamedSharding, Sharding

from autoshard.errors import OptionError
from autoshard.trace import Traced

_CALLS = frozenset({"jit", "pjit"})


@dataclass(frozen=True, slots=True)
class Authored:
    """A traced function with the shardings of its flat arguments and results, None where there are none."""

    traced: Traced
    arguments: tuple[Sharding | None, ...]
    results: tuple[Sharding | None, ...]
    donated: tuple[int, ...]


def authored_shardings(traced: Traced, leaves: Iterable[Any]) -> Authored:
    """Return the shardings of a traced function, given the leaves of its abstract arguments.

    Raises:
        OptionError: an argument is sharded in another way than the `jax.jit` that takes it says.
    """
    jaxpr = traced.closed.jaxpr
    calls = [eqn for eqn in jaxpr.eqns if eqn.primitive.name in _CALLS]
    into = {var: s for eqn in calls for var, s in _pairs(eqn.invars, eqn.params.get("in_shardings"))}
    out = {var: s for eqn in calls for var, s in _pairs(eqn.outvars, eqn.params.get("out_shardings"))}
    given = {var for eqn in calls for var, donated in _flags(eqn) if donated}
    own = [_sharding(getattr(leaf, "sharding", None)) for leaf in leaves]
    return Authored(
        traced=traced,
        arguments=tuple(
            _agreed(name, s, into.get(var))
            for name, s, var in zip(traced.argument_names, own, jaxpr.invars, strict=True)
        ),
        results=tuple(None if isinstance(var, Literal) else out.get(var) for var in jaxpr.outvars),
        donated=tuple(i for i, var in enumerate(jaxpr.invars) if i in traced.donated or var in given),
    )


def _agreed(name: str, own: NamedSharding | None, told: Sharding | None) -> Sharding | None:
    """The sharding of an argument, from itself and from the `jax.jit` that takes it."""
    if own is None or not isinstance(told, NamedSharding):
        return own or told
    if _normal(own) != _normal(told):
        raise OptionError(
            f"the argument `{name}` is sharded {own.spec} over {_mesh_text(own)}, and the jax.jit that takes "
            f"it says {told.spec} over {_mesh_text(told)}: give it one sharding"
        )
    return own


def _normal(sharding: NamedSharding) -> object:
    """Mesh and axes of each dim, without whole dims at the end: equal for equal shardings."""
    dims = [entry if isinstance(entry, tuple) else (entry,) for entry in sharding.spec]
    dims = [() if dim == (None,) else dim for dim in dims]
    while dims and not dims[-1]:
        dims.pop()
    return tuple(sharding.mesh.shape.items()), dims


def _mesh_text(sharding: NamedSharding) -> str:
    return " ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())


def _pairs(variables: Iterable[Any], shardings: Any) -> Iterator[tuple[Any, Sharding]]:
    for variable, sharding in zip(variables, shardings or (), strict=False):
        if not isinstance(variable, Literal) and _sharding(sharding) is not None:
            yield variable, sharding


def _flags(eqn: JaxprEqn) -> Iterator[tuple[Any, bool]]:
    pairs = zip(eqn.invars, eqn.params.get("donated_invars", ()), strict=False)
    return ((variable, flag) for variable, flag in pairs if not isinstance(variable, Literal))


def _sharding(value: Any) -> NamedSharding | None:
    return value if isinstance(value, NamedSharding) and not value.mesh.empty else None


def only_mesh(closed: ClosedJaxpr, authored: Authored, wanted: dict[str, int] | None) -> dict[str, int]:
    """The sizes of the one mesh that all shardings are over."""
    shardings = [s for s in (*authored.arguments, *authored.results) if isinstance(s, NamedSharding)]
    meshes = [*(s.mesh for s in shardings), *_meshes_in(closed.jaxpr)]
    found = list(dict.fromkeys(tuple(mesh.shape.items()) for mesh in meshes if not mesh.empty))
    if wanted is not None and all(each == tuple(wanted.items()) for each in found):
        return wanted
    if len(found) == 1 and wanted is None:
        return dict(found[0])
    texts = "; ".join(" ".join(f"{name}={size}" for name, size in each) for each in found)
    if wanted is not None:
        raise OptionError(f"--mesh is not the mesh of the function's own shardings, which is {texts}")
    if not found:
        raise OptionError(
            "the function has no shardings, so nothing says how to compile it: give its abstract arguments "
            "shardings, or --mesh where its constraints are bare PartitionSpecs; `autoshard tune` finds "
            "shardings for it"
        )
    raise OptionError(f"the function's shardings are over several meshes, expected one: {texts}")


def _meshes_in(jaxpr: Jaxpr) -> Iterator[Mesh | AbstractMesh]:
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_mesh_or_sharding):
            if isinstance(value, NamedSharding):
                yield value.mesh
            elif isinstance(value, Mesh | AbstractMesh):
                yield value
        for inner in jaxprs_in_params(eqn.params):
            yield from _meshes_in(inner)


def _is_mesh_or_sharding(value: Any) -> bool:
    return isinstance(value, NamedSharding | Mesh | AbstractMesh)
