"""Structures as plan files say them, and back."""

import collections
from typing import Any, NamedTuple

import jax
import pytest

from autoshard.errors import PlanError, TraceError
from autoshard.plan_records import ArgumentRecord, AxisRecord
from autoshard.plan_shardings import parse_tree, remember_structure, shardings_tree, structure_text

AXES = (AxisRecord(name="x", size=8, torus_dim=0, stride=1),)


def records(count: int) -> dict[str, ArgumentRecord]:
    return {f"a{i}": ArgumentRecord(type="float32[8]", spec="x" if i % 2 else "") for i in range(count)}


def mesh() -> jax.sharding.AbstractMesh:
    return jax.sharding.AbstractMesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize(
    "tree",
    [
        1,
        None,
        (),
        (1,),
        (1, [2, None], {"b": 3, "a": (4,)}),
        {1: 2, 10: [3]},
        {"it's": 1, 'a "b"': 2},
        [[], {}, ()],
    ],
)
def test_built_in_containers_are_said_as_jax_says_them(tree: Any) -> None:
    structure: Any = jax.tree.structure(tree)
    text = structure_text(structure)
    assert text == str(structure)
    assert jax.tree.structure(parse_tree(text)) == structure


class State(NamedTuple):
    weights: Any
    step: Any


class Model:
    """Its structure has a function in it, which JAX prints with its address."""

    def __init__(self, w: Any, act: Any) -> None:
        self.w, self.act = w, act


jax.tree_util.register_pytree_node(Model, lambda m: ((m.w,), m.act), lambda act, parts: Model(parts[0], act))


def test_other_containers_are_said_by_name_alone() -> None:
    tree = (Model({"w": 1}, lambda x: x), State([2], None))
    text = "PyTreeDef((CustomNode(Model, [{'w': *}]), CustomNode(State, [[*], None])))"
    assert structure_text(jax.tree.structure(tree)) == text


class Unseen(NamedTuple):
    x: Any


def test_structures_that_were_traced_need_no_example() -> None:
    tree = (Unseen(1), [2])
    structure: Any = jax.tree.structure(tree)
    for text in (structure_text(structure), str(structure)):
        with pytest.raises(PlanError, match=r"only dict, list, tuple and None.* `like=`"):
            shardings_tree(text, records(2), AXES, mesh())
    remember_structure(structure)
    for text in (structure_text(structure), str(structure)):
        found = shardings_tree(text, records(2), AXES, mesh())
        assert jax.tree.structure(found) == structure
        assert found[1][0].spec == jax.sharding.PartitionSpec("x")


def test_the_example_may_have_leaves_that_are_no_arrays() -> None:
    example = (collections.OrderedDict(w=1.0, act=abs), "mode", [2.0])
    found = shardings_tree("", records(2), AXES, mesh(), like=example)
    assert found[0]["act"] is None
    assert found[1] is None
    assert found[2][0].spec == jax.sharding.PartitionSpec("x")
    with pytest.raises(TraceError, match="`like/0` is a `set`"):
        shardings_tree("", records(2), AXES, mesh(), like=({1},))
