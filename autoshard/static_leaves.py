"""Leaves of arguments and results that are no arrays: activation functions, names of modes, dtypes.

`jax.jit` refuses them. Here they are static parts of their argument, as with `equinox.filter_jit`: a tree
with such leaves travels in a box, a pytree whose leaves are the tree's arrays; the others are part of the
box's structure, which JAX compares at every call. A tree without them travels as it is.

A static leaf has to compare by value (a string, a dtype, an enum member) or be a function. What compares by
identity may hold arrays that change while it stays the same (a parameter object), so it is refused. Python
numbers are arrays, as for `jax.jit`, but static in an `equinox.Module`, whose author relies on that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import PyTreeDef, register_dataclass

from autoshard.errors import TraceError
from autoshard.paths import paths_of

_NUMBERS = (bool, int, float, complex)


@dataclass(frozen=True, slots=True)
class StaticLeaves:
    """The leaves of a tree that are no arrays.

    Attributes:
        structure: Structure of the whole tree.
        values: (position, type, leaf) of each; the type tells True from 1 and 1 from 1.0.
    """

    structure: PyTreeDef
    values: tuple[tuple[int, type, Any], ...]


@dataclass(frozen=True, slots=True)
class Boxed:
    """A tree with static leaves: `arrays` has its structure, with None in their places."""

    arrays: Any
    static: StaticLeaves


register_dataclass(Boxed, data_fields=["arrays"], meta_fields=["static"])


def box(tree: Any, name: str) -> Any:
    """Return a tree as it is, or boxed where it has static leaves.

    Args:
        tree: An argument or a result.
        name: Its name, for messages.

    Raises:
        TraceError: A leaf can be neither an array nor static.
    """
    return box_and_form(tree, name)[0]


def box_and_form(tree: Any, name: str) -> tuple[Any, PyTreeDef | StaticLeaves]:
    """As `box`; the second result is all of the tree but its arrays, hashable."""
    leaves, structure = jax.tree.flatten(tree)
    positions = _static_positions(tree, leaves)
    if not positions:
        return tree, structure
    for position in positions:
        if not _can_be_static(leaves[position]):
            raise _refused(leaves[position], paths_of(name, tree)[position])
    values = tuple((position, type(leaves[position]), leaves[position]) for position in positions)
    held = set(positions)
    arrays = [None if position in held else leaf for position, leaf in enumerate(leaves)]
    static = StaticLeaves(structure, values)
    return Boxed(jax.tree.unflatten(structure, arrays), static), static


def unbox(tree: Any) -> Any:
    """Undo `box`."""
    if not isinstance(tree, Boxed):
        return tree
    static = {position: leaf for position, _, leaf in tree.static.values}
    arrays, structure = iter(jax.tree.leaves(tree.arrays)), tree.static.structure
    leaves = [static[i] if i in static else next(arrays) for i in range(structure.num_leaves)]
    return jax.tree.unflatten(structure, leaves)


def arrays_of(tree: Any) -> Any:
    """Return the part of a boxed or plain tree that holds arrays."""
    return tree.arrays if isinstance(tree, Boxed) else tree


def _static_positions(tree: Any, leaves: Sequence[Any]) -> list[int]:
    examples = {type(leaf): leaf for leaf in leaves}
    static = {kind for kind, leaf in examples.items() if not _is_array(leaf)}
    numbers = _equinox_numbers(tree) if any(issubclass(kind, _NUMBERS) for kind in examples) else set()
    if not static and not numbers:
        return []
    return [i for i, leaf in enumerate(leaves) if type(leaf) in static or i in numbers]


def _is_array(leaf: Any) -> bool:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return not isinstance(leaf, type)
    try:
        jax.typeof(leaf)
    except TypeError:
        return False
    return True


def _equinox_numbers(tree: Any) -> set[int]:
    """Positions of the Python numbers that lie in an `equinox.Module`."""
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return set()
    position, found = 0, set()
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, equinox.Module)):
        leaves = jax.tree.leaves(node)
        if isinstance(node, equinox.Module):
            found |= {position + i for i, leaf in enumerate(leaves) if _is_number(leaf)}
        position += len(leaves)
    return found


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, _NUMBERS) and not hasattr(leaf, "dtype")  # NumPy's float64 is a float, too


def _can_be_static(leaf: Any) -> bool:
    try:
        hash(leaf)
    except TypeError:
        return False
    by_identity: Any = object.__hash__
    return callable(leaf) or type(leaf).__hash__ is not by_identity


def _refused(leaf: Any, path: str) -> TraceError:
    return TraceError(
        f"`{path}` is a `{type(leaf).__qualname__}`: expected an array, a function, or a hashable value such "
        "as a string, which is then static. Take the arrays out of it, make it a static field of its class, "
        "or name the argument in static_argnames."
    )
