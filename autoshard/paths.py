"""Paths of arrays in pytrees, as users write them: `params/layers/0/attn/q/kernel`.

Libraries put a parameter into a box of one array (`nnx.Param`, `linen.Partitioned`, haliax' `NamedArray`):
the box is no step of the path, so a path is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jax.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    SequenceKey,
    keystr,
    tree_flatten_with_path,
)

_KEYS = (DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey)
_BOXES = frozenset({"value", "raw_value", "array", "data_array"})
"""Attributes in which boxes of one array keep it."""


def paths_of(root: str, tree: Any) -> list[str]:
    """Return the path of each leaf of a pytree that is called `root`."""
    paths = [path for path, _ in tree_flatten_with_path(tree)[0]]
    return ["/".join((root, *map(_step, _unboxed(i, paths)))) for i in range(len(paths))]


def unique(names: Iterable[str]) -> list[str]:
    """Tell equal names apart by `#2`, `#3`: `{"a/b": {"c": 1}, "a": {"b/c": 2}}` gives one path twice."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    result = []
    for name in names:
        fresh = name
        while fresh in taken:
            counts[name] = counts.get(name, 1) + 1
            fresh = f"{name}#{counts[name]}"
        taken.add(fresh)
        result.append(fresh)
    return result


def _step(key: Any) -> str:
    """A key as users write it; of a library's own kind of key, JAX knows the text for a traceback alone."""
    return keystr((key,), simple=True) if isinstance(key, _KEYS) else str(key).strip(".[]'")


def _unboxed(position: int, paths: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The path at `position` without the steps into boxes at its end."""
    path = paths[position]
    while path and _is_box(path[-1]) and not _has_sibling(path[:-1], position, paths):
        path = path[:-1]
    return path


def _is_box(key: Any) -> bool:
    return isinstance(key, FlattenedIndexKey) or (isinstance(key, GetAttrKey) and key.name in _BOXES)


def _has_sibling(parent: tuple[Any, ...], position: int, paths: Sequence[tuple[Any, ...]]) -> bool:
    """Whether another leaf lies under `parent`: it would be next to this one."""
    neighbours = [*paths[max(0, position - 1) : position], *paths[position + 1 : position + 2]]
    return any(path[: len(parent)] == parent for path in neighbours)
