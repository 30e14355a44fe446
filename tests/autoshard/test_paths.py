"""Paths as users write them: boxes of one array are no step, equal names are told apart."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import pytest

from autoshard.paths import paths_of, unique


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["kind"])
@dataclasses.dataclass
class Param:
    value: Any
    kind: str = "param"


@partial(jax.tree_util.register_dataclass, data_fields=["value", "scale"], meta_fields=[])
@dataclasses.dataclass
class Quantised:
    value: Any
    scale: Any


@partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=[])
@dataclasses.dataclass
class Norm:
    weight: Any


class Named:
    """As haliax' NamedArray: one array, and names of its axes that JAX compares."""

    def __init__(self, array: Any, axes: tuple[str, ...]) -> None:
        self.array, self.axes = array, axes


jax.tree_util.register_pytree_node(
    Named, lambda named: ((named.array,), named.axes), lambda axes, parts: Named(parts[0], axes)
)


class OwnKey(NamedTuple):
    """As penzai's keys of stacked layers: a library may have its own kind."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


class Stack:
    def __init__(self, layer: Any) -> None:
        self.layer = layer


jax.tree_util.register_pytree_with_keys(
    Stack, lambda stack: (((OwnKey("layer"), stack.layer),), None), lambda _, parts: Stack(*parts)
)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"layers": [{"q": 1.0}, {"q": 2.0}]}, ["p/layers/0/q", "p/layers/1/q"]),
        ({"kernel": Param(1.0), "bias": Param(None)}, ["p/kernel"]),
        ({"layers": {0: {"kernel": Param(1.0)}}}, ["p/layers/0/kernel"]),
        ({"w": Named(1.0, ("e",)), "b": Named(2.0, ("f",))}, ["p/b", "p/w"]),
        ({"w": Param(Named(1.0, ("e",)))}, ["p/w"]),
        ({"w": Quantised(1.0, 2.0)}, ["p/w/value", "p/w/scale"]),
        ({"w": Param(Quantised(1.0, 2.0))}, ["p/w/value/value", "p/w/value/scale"]),
        ({"value": 1.0, "norm": Norm(2.0)}, ["p/norm/weight", "p/value"]),
        ({"stack": Stack({"w": 1.0})}, ["p/stack/layer/w"]),
        (Param(1.0), ["p"]),
        (1.0, ["p"]),
        (None, []),
    ],
)
def test_paths(tree: Any, expected: list[str]) -> None:
    assert paths_of("p", tree) == expected


def test_a_path_is_the_same_with_and_without_boxes() -> None:
    plain = {"layers": [{"q": 1.0, "o": 2.0}], "norm": 3.0}
    assert paths_of("p", jax.tree.map(Param, plain)) == paths_of("p", plain)


def test_equal_names_are_counted() -> None:
    assert unique(["a", "b", "a", "a#2", "a"]) == ["a", "b", "a#2", "a#2#2", "a#3"]
    assert unique(["a", "b"]) == ["a", "b"]
