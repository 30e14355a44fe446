"""Trees with leaves that are no arrays: what is static, what is refused, what JAX sees."""

import dataclasses
import enum
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.errors import TraceError
from autoshard.static_leaves import Boxed, arrays_of, box, unbox


class Mode(enum.Enum):
    FAST = 1


@dataclasses.dataclass(frozen=True)
class Config:
    heads: int = 4


def boxed(tree: Any) -> Boxed:
    found = box(tree, "model")
    assert isinstance(found, Boxed)
    return found


@pytest.mark.parametrize(
    "leaf",
    [
        jnp.ones(3),
        np.ones(3),
        np.float32(1),
        jax.ShapeDtypeStruct((3,), "float32"),
        jax.random.key(0),
        3,
        0.5,
        True,
        1j,
    ],
    ids=lambda leaf: type(leaf).__name__,
)
def test_what_jax_takes_travels_as_it_is(leaf: Any) -> None:
    tree = {"a": leaf, "b": [None, leaf]}
    assert box(tree, "model") is tree
    assert unbox(tree) is tree
    assert arrays_of(tree) is tree


def test_tracers_travel_as_they_are() -> None:
    @jax.jit
    def same(x: Any) -> Any:
        tree = {"x": x}
        assert box(tree, "model") is tree
        return x

    assert same(1) == 1


@pytest.mark.parametrize(
    "leaf",
    [
        "gelu",
        b"raw",
        jnp.tanh,
        abs,
        lambda x: x,
        Mode.FAST,
        Config(),
        np.dtype("int8"),
        jnp.float32,
        np.float32,
    ],
    ids=lambda leaf: getattr(leaf, "__name__", type(leaf).__name__),
)
def test_values_and_functions_are_static(leaf: Any) -> None:
    tree = {"w": 1.0, "x": (leaf, 2.0)}
    found = boxed(tree)
    assert found.arrays == {"w": 1.0, "x": (None, 2.0)}
    assert jax.tree.leaves(found) == [1.0, 2.0]
    assert unbox(found) == tree
    assert unbox(jax.tree.map(lambda x: x + 1, found)) == {"w": 2.0, "x": (leaf, 3.0)}


class Holder:
    """What may hold arrays that change while it stays the same."""


@pytest.mark.parametrize(
    "leaf", [Holder(), {1, 2}, bytearray(b"x"), object()], ids=lambda leaf: type(leaf).__name__
)
def test_what_has_no_value_to_compare_is_refused_at_its_path(leaf: Any) -> None:
    with pytest.raises(TraceError, match=rf"`model/layers/0/w` is a `{type(leaf).__name__}`"):
        box({"layers": [{"w": leaf}]}, "model")


def test_jax_compares_static_leaves() -> None:
    traces = []

    @jax.jit
    def apply(model: Any, x: Any) -> Any:
        traces.append(model)
        tree = unbox(model)
        return box({"y": tree["act"](x) * tree["w"], "act": tree["act"]}, "result")

    for act, w, expected in [(abs, 2.0, 6.0), (abs, 3.0, 9.0), (jnp.square, 2.0, 18.0), (abs, 4.0, 12.0)]:
        result = unbox(apply(box({"w": w, "act": act}, "model"), -3.0))
        assert result == {"y": expected, "act": act}
    assert len(traces) == 2


class Name(str):
    """A string of another type: equal, but what a function makes of it may differ."""


def test_equal_values_of_other_types_are_other_parts() -> None:
    assert Name("gelu") == "gelu"
    assert boxed({"act": Name("gelu")}).static != boxed({"act": "gelu"}).static
    assert boxed({"act": Name("gelu")}).static == boxed({"act": Name("gelu")}).static


@jax.tree_util.register_pytree_node_class
class Module:
    """As `equinox.Module`: whatever its fields hold is a leaf."""

    def __init__(self, *fields: Any) -> None:
        self.fields = fields

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return self.fields, None

    @classmethod
    def tree_unflatten(cls, _: None, fields: Any) -> "Module":
        return cls(*fields)


def test_numbers_are_static_in_equinox_modules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Module(1.0, 4, True, np.float64(2.0))
    tree = {"a": 3, "m": Module(inner, 5), "z": 7}
    assert box(tree, "model") is tree
    monkeypatch.setitem(sys.modules, "equinox", SimpleNamespace(Module=Module))
    found = boxed(tree)
    assert jax.tree.leaves(found) == [3, 2.0, 7]
    assert [value for _, _, value in found.static.values] == [1.0, 4, True, 5]
    assert unbox(found)["m"].fields[0].fields == inner.fields
