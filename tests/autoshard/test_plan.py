import collections
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import jax
import msgspec
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.errors import PlanError, PlanMismatchError
from autoshard.plan import Plan
from autoshard.plan_mesh import device_order
from autoshard.plan_records import ArgumentRecord, AxisRecord
from autoshard.plan_shardings import parse_tree
from autoshard.verdict_records import Estimate, Measurement


@dataclass(frozen=True)
class Chip:
    """A device with a place in the torus, as on TPU."""

    id: int
    coords: tuple[int, ...]
    core_on_chip: int = 0
    slice_index: int = 0


def axis(name: str, size: int, torus_dim: int, stride: int = 1) -> AxisRecord:
    return AxisRecord(name=name, size=size, torus_dim=torus_dim, stride=stride)


def on_cpu(plan: Plan) -> Plan:
    """The plan on 2 x 2 x 2 CPU devices."""
    axes = tuple(axis(name, 2, dim) for dim, name in enumerate("xyz"))
    return msgspec.structs.replace(plan, slice="cpu:8", mesh_axes=axes)


def test_the_three_tiers_are_kept_apart(plan: Plan) -> None:
    assert (plan.predicted_seconds, plan.estimated_seconds, plan.measured_seconds) == (0.0185, 0.0191, None)
    measured = msgspec.structs.replace(
        plan,
        estimated=None,
        measured=Measurement(seconds=0.02, spread_seconds=0.001, runs=5, device_kind="TPU v4"),
    )
    assert (measured.estimated_seconds, measured.measured_seconds) == (None, 0.02)
    assert plan.gap == 0.0109
    assert plan.n_chips == 64


def test_memory_is_the_compilers_where_it_counted(plan: Plan) -> None:
    assert plan.hbm_bytes_per_chip == 16213498880
    assert msgspec.structs.replace(plan, estimated=None).hbm_bytes_per_chip == 16106127360


def test_a_plan_cannot_be_changed(plan: Plan) -> None:
    with pytest.raises(AttributeError):
        plan.slice = "v5e:4x4"  # type: ignore[misc]


# ---- the mesh


def test_the_mesh_has_the_plans_axes_and_auto_types(plan: Plan) -> None:
    mesh = on_cpu(plan).mesh()
    assert mesh.axis_names == ("x", "y", "z")
    assert dict(mesh.shape) == {"x": 2, "y": 2, "z": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert [device.id for device in mesh.devices.flat] == sorted(device.id for device in jax.devices())


def test_devices_without_coordinates_are_ordered_by_id(plan: Plan) -> None:
    shuffled = [jax.devices()[i] for i in (3, 1, 7, 0, 2, 6, 4, 5)]
    assert on_cpu(plan).mesh(shuffled) == on_cpu(plan).mesh()


def test_devices_are_placed_by_coordinates_and_not_by_id(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.sharding, "Mesh", lambda devices, names, axis_types: devices)
    axes = (axis("dcn", 2, -1), axis("x", 2, 0), axis("y0", 2, 1, stride=2), axis("y1", 2, 1))
    # On TPU ids run along x first: the id of a chip is not its place in a mesh with x slowest.
    chips = [
        Chip(id=100 * s + x + 2 * y, coords=(x, y, 0), slice_index=s)
        for s in (1, 0)
        for x in (1, 0)
        for y in (2, 3, 0, 1)
    ]
    found: Any = msgspec.structs.replace(plan, mesh_axes=axes).mesh(chips)
    assert found.shape == (2, 2, 2, 2)
    for s, x, y0, y1 in np.ndindex(2, 2, 2, 2):
        assert found[s, x, y0, y1] == Chip(
            id=100 * s + x + 2 * (2 * y0 + y1), coords=(x, 2 * y0 + y1, 0), slice_index=s
        )


def test_axes_may_stand_in_another_order_than_the_torus() -> None:
    order = device_order([axis("y", 2, 1), axis("x", 3, 0)])
    assert order.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_factored_axis_order_follows_its_strides() -> None:
    minor_first = device_order([axis("x1", 2, 0), axis("x0", 2, 0, stride=2)])
    assert minor_first.tolist() == [[0, 2], [1, 3]]


def test_strides_that_miss_chips_are_refused() -> None:
    with pytest.raises(
        PlanError, match=r"do not name every chip once \(x0: 2 by 1 in dim 0, x1: 2 by 1 in dim 0\)"
    ):
        device_order([axis("x0", 2, 0), axis("x1", 2, 0)])


def test_another_number_of_devices_names_both_numbers(plan: Plan) -> None:
    with pytest.raises(PlanMismatchError, match="slice `v4:4x4x4`, 64 devices, but 8 devices are here"):
        plan.mesh()
    with pytest.raises(PlanMismatchError, match="8 devices, but 7 devices are here"):
        on_cpu(plan).mesh(jax.devices()[:7])


# ---- the shardings


def test_in_shardings_have_the_arguments_structure(plan: Plan) -> None:
    cpu_plan = on_cpu(plan)
    mesh = cpu_plan.mesh()

    def shard(*spec: str | tuple[str, ...] | None) -> NamedSharding:
        return NamedSharding(mesh, P(*spec))

    cache = shard(("x", "y", "z"), None, None)
    assert cpu_plan.in_shardings(mesh) == (
        {"wi": shard("x", ("y", "z")), "wo": shard(("y", "z"), "x")},
        {"k": cache, "v": cache},
        shard(None, None, ("x", "y", "z")),
    )
    assert cpu_plan.out_shardings(mesh) == (shard(None, None, ("x", "y", "z")), {"k": cache, "v": cache})


@pytest.mark.smoke
def test_shardings_are_what_jit_takes(plan: Plan) -> None:
    one = ArgumentRecord(type="float32[8,4]", spec="x,y;z")
    function = msgspec.structs.replace(
        plan.function, tree_in="PyTreeDef(({'w': *}, None, *))", tree_out="PyTreeDef(*)"
    )
    small = msgspec.structs.replace(
        on_cpu(plan), function=function, arguments={"w": one, "x": one}, results={"": plan.results["0"]}
    )
    mesh = small.mesh()
    jitted = jax.jit(lambda p, _, x: p["w"] + x, in_shardings=small.in_shardings(mesh))
    w = np.ones((8, 4), np.float32)
    compiled = jitted.lower({"w": w}, None, w).compile()
    assert compiled.input_shardings[0][2].is_equivalent_to(NamedSharding(mesh, P(("x", "y"), "z")), 2)
    assert np.array_equal(jitted({"w": w}, None, w), 2 * w)


def test_an_abstract_mesh_will_do(plan: Plan) -> None:
    abstract = AbstractMesh((4, 4, 4), ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3)
    assert plan.in_shardings(abstract)[0]["wi"] == NamedSharding(abstract, P("x", ("y", "z")))


def test_another_mesh_is_refused(plan: Plan) -> None:
    with pytest.raises(
        PlanMismatchError, match=r"\(x=4, y=4, z=4\), but the mesh given has \(x=2, y=2, z=2\)"
    ):
        plan.in_shardings(on_cpu(plan).mesh())


def test_custom_containers_need_like(plan: Plan) -> None:
    example = (collections.OrderedDict(b=1, a=2), 3)
    one = ArgumentRecord(type="float32[8]", spec="x")
    custom = msgspec.structs.replace(
        on_cpu(plan),
        function=msgspec.structs.replace(plan.function, tree_in=str(jax.tree.structure(example))),
        arguments={"0/b": one, "0/a": one, "1": one},
    )
    mesh = custom.mesh()
    with pytest.raises(PlanError, match=r"only dict, list, tuple and None are rebuilt.* `like=`"):
        custom.in_shardings(mesh)
    found = custom.in_shardings(mesh, like=example)
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(example))
    assert found[0]["a"] == NamedSharding(mesh, P("x"))


def test_like_must_have_the_plans_arrays(plan: Plan) -> None:
    mesh = on_cpu(plan).mesh()
    types = [jax.ShapeDtypeStruct((8,), "float32")] * 5
    with pytest.raises(PlanMismatchError, match="5 arrays, but `like` has 2"):
        on_cpu(plan).in_shardings(mesh, like=types[:2])
    with pytest.raises(
        PlanMismatchError, match=r"`bfloat16\[18432,147456\]` at `params/wi`, but `like` has `float32\[8\]`"
    ):
        on_cpu(plan).in_shardings(mesh, like=types)


def test_a_tree_of_another_size_is_refused(plan: Plan) -> None:
    function = msgspec.structs.replace(plan.function, tree_in="PyTreeDef((*, *))")
    wrong = msgspec.structs.replace(on_cpu(plan), function=function)
    with pytest.raises(PlanError, match="lists 5 arrays for a tree of 2"):
        wrong.in_shardings(wrong.mesh())


@pytest.mark.smoke
@pytest.mark.parametrize(
    "tree",
    [
        1,
        None,
        (),
        (1,),
        [1, [2, ()], None],
        {},
        ({"b": 1, "a": [2]}, {1: 3, -2: (4,)}),
        {'it\'s "*"': 1, "*": {"a,b": 2, "ü\n": 3}},
        {("a", 1): 2, ("a", 0): 3},
        {True: 1, False: 2},
    ],
)
def test_builtin_containers_are_rebuilt_from_their_text(tree: object) -> None:
    leaves, structure = jax.tree.flatten(tree)
    places, rebuilt = jax.tree.flatten(parse_tree(str(structure)))
    assert str(rebuilt) == str(structure)
    assert jax.tree.unflatten(rebuilt, leaves) == tree
    assert places == [...] * len(leaves)


@pytest.mark.parametrize(
    "text",
    [
        "PyTreeDef(CustomNode(namedtuple[T], [*, *]))",
        "PyTreeDef((*, CustomNode(OrderedDict[('a',)], [*])))",
        "PyTreeDef(__import__('os').getcwd())",
        "PyTreeDef((*, ",
        "PyTreeDef('unclosed)",
        "",
    ],
)
def test_other_tree_texts_are_refused_and_never_run(text: str) -> None:
    with pytest.raises(PlanError, match="cannot rebuild the container types"):
        parse_tree(text)


def test_reading_a_plan_does_not_import_jax() -> None:
    code = "import sys, autoshard; autoshard.load_plan; autoshard.PlanError; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_estimates_need_all_their_numbers() -> None:
    with pytest.raises(TypeError, match="hbm_bytes_per_chip"):
        Estimate(seconds=1.0)  # type: ignore[call-arg]
