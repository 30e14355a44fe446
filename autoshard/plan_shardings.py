"""From a plan's records back to pytrees of `NamedSharding` with the structure of the arguments.

A plan file holds arrays in flat order and the text of the tree structure. Built-in containers (dict, list,
tuple, None) are rebuilt from that text: it is a Python literal once each leaf ``*`` is written ``...``, and
is read by `ast.literal_eval`, which runs no code. Other containers (`nnx.State`, `eqx.Module`, namedtuples)
are those of a function that this process has traced, as `autoshard.tune` and a call of `autoshard.jit` do, or
of an example given.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoshard.errors import PlanError, PlanMismatchError
from autoshard.memory_orders import placed
from autoshard.plan_records import ArgumentRecord, AxisRecord, ResultRecord
from autoshard.specs import format_type, parse_spec, rank_of, to_partition_spec

if TYPE_CHECKING:
    import jax
    from jax.tree_util import PyTreeDef

_PREFIX, _SUFFIX = "PyTreeDef(", ")"
_TRACED: deque[PyTreeDef] = deque(maxlen=64)
"""Structures of the arguments and results of the functions traced last."""


def shardings_tree(
    tree_text: str,
    arrays: Mapping[str, ArgumentRecord | ResultRecord],
    axes: Sequence[AxisRecord],
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    *,
    like: Any = None,
    formats: bool = False,
) -> Any:
    """Return a pytree of `NamedSharding`, or of what also says how arrays lie in memory.

    Args:
        tree_text: text of the tree structure.
        arrays: the arrays by path, in flat order.
        axes: the plan's mesh axes.
        mesh: a mesh that has these axes.
        like: a pytree to take the structure from, instead of `tree_text`; in the place of a leaf that is no
            array the result has None.
        formats: give a `jax.experimental.layout.Format` in place of a sharding where the plan has a memory
            order that holds on the mesh.

    Raises:
        PlanMismatchError: the mesh has other axes, or `like` has other arrays.
        PlanError: `tree_text` holds a container that is not built in, no function with it was traced, and
            `like` is missing.
    """
    import jax

    _check_mesh(axes, mesh)
    shardings = [(record, sharding_of(record, mesh)) for record in arrays.values()]
    leaves = [placed(record, sharding) if formats else sharding for record, sharding in shardings]
    structure = _structure(tree_text) if like is None else _structure_like(arrays, like)
    if structure.num_leaves != len(leaves):
        raise PlanError(
            f"The plan lists {len(leaves)} arrays for a tree of {structure.num_leaves}: make the plan again."
        )
    return jax.tree.unflatten(structure, leaves)


def remember_structure(structure: PyTreeDef) -> None:
    """Keep a structure that was traced, so that a plan's text of it can be read in this process."""
    if structure not in _TRACED:
        _TRACED.append(structure)


def structure_text(structure: PyTreeDef) -> str:
    """Return what a plan file says of a structure.

    For containers that are built in it is `str(structure)`. Of others it has the name of the type alone: what
    else JAX prints of them may hold addresses, which differ from run to run.
    """
    return f"{_PREFIX}{_node_text(structure)}{_SUFFIX}"


def _node_text(structure: PyTreeDef) -> str:
    node = structure.node_data()
    if node is None:
        return "*"
    kind, keys = node
    children = [_node_text(child) for child in structure.children()]
    inner = ", ".join(children)
    if kind is dict:
        return "{" + ", ".join(f"{k!r}: {c}" for k, c in zip(keys, children, strict=True)) + "}"
    if kind is tuple:
        return f"({inner},)" if len(children) == 1 else f"({inner})"
    if kind is list:
        return f"[{inner}]"
    return "None" if kind is type(None) else f"CustomNode({kind.__name__}, [{inner}])"


def _structure(tree_text: str) -> PyTreeDef:
    import jax

    try:
        return jax.tree.structure(parse_tree(tree_text))
    except PlanError:
        for known in reversed(_TRACED):
            if tree_text in (structure_text(known), str(known)):
                return known
        raise


def _structure_like(arrays: Mapping[str, ArgumentRecord | ResultRecord], like: Any) -> PyTreeDef:
    import jax

    from autoshard.static_leaves import arrays_of, box

    like = arrays_of(box(like, "like"))
    _check_like(arrays, like)
    return jax.tree.structure(like)


def parse_tree(tree_text: str) -> Any:
    """Return a pytree with the structure that `tree_text` prints, each leaf being `...`.

    Raises:
        PlanError: the text holds a container other than dict, list, tuple and None.
    """
    inner = tree_text.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    try:
        return ast.literal_eval(_leaves_as_ellipsis(inner))
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, TypeError):
        raise PlanError(
            f"The plan cannot rebuild the container types of `{_short(tree_text)}`: only dict, list, tuple "
            "and None are rebuilt from a file. Pass the arguments themselves, or their types, as `like=`."
        ) from None


def _leaves_as_ellipsis(text: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(
        "..." if token.type == tokenize.OP and token.string == "*" else token.string for token in tokens
    )


def sharding_of(
    record: ArgumentRecord | ResultRecord, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
) -> jax.sharding.NamedSharding:
    """Return the sharding of an array of the plan over a mesh."""
    from jax.sharding import NamedSharding

    return NamedSharding(mesh, to_partition_spec(parse_spec(record.spec, rank_of(record.type))))


def _check_mesh(axes: Sequence[AxisRecord], mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    expected = {axis.name: axis.size for axis in axes}
    found = dict(mesh.shape)
    if found != expected:
        raise PlanMismatchError(
            f"The plan's mesh has axes {_axes_text(expected)}, but the mesh given has {_axes_text(found)}: "
            "use `plan.mesh()`."
        )


def _check_like(arrays: Mapping[str, ArgumentRecord | ResultRecord], like: Any) -> None:
    import jax

    leaves = jax.tree.leaves(like)
    if len(leaves) != len(arrays):
        raise PlanMismatchError(f"The plan has {len(arrays)} arrays, but `like` has {len(leaves)}.")
    for (path, record), leaf in zip(arrays.items(), leaves, strict=True):
        found = format_type(leaf.dtype, leaf.shape) if hasattr(leaf, "dtype") else record.type
        if found != record.type:
            raise PlanMismatchError(
                f"The plan has `{record.type}` at `{path}`, but `like` has `{found}` there."
            )


def _axes_text(axes: Mapping[str, int]) -> str:
    return "(" + ", ".join(f"{name}={size}" for name, size in axes.items()) + ")"


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
