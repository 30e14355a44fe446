"""Shardings of a model that a plan keeps: on whose mesh, which of them, and what it says where it cannot."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import autoshard
from autoshard.errors import InfeasibleError, OptionError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.search.errors import PinError

P = PartitionSpec
ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS, B, E, F = 3, 16, 64, 256


def mesh_with(kind: AxisType = AxisType.Auto, **sizes: int) -> AbstractMesh:
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


MESH = mesh_with(data=2, model=4)


def over(*entries: Any, mesh: AbstractMesh = MESH) -> NamedSharding:
    return NamedSharding(mesh, P(*entries))


def array(*shape: int, sharding: NamedSharding | None = None, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def arguments(
    up: NamedSharding | None = None, down: NamedSharding | None = None, x: NamedSharding | None = None
) -> tuple[Any, jax.ShapeDtypeStruct]:
    weights = {
        "up": array(LAYERS, E, F, sharding=up),
        "down": array(LAYERS, F, E, sharding=down),
    }
    return weights, array(B, E, sharding=x)


def model(constraint: NamedSharding | None = None) -> Callable[..., Any]:
    """Layers under a scan, what is between their einsums constrained."""

    def run(params: Any, x: jax.Array) -> Any:
        def layer(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
            hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, w["up"]))
            if constraint is not None:
                hidden = lax.with_sharding_constraint(hidden, constraint)
            return x + jnp.einsum("bf,fe->be", hidden, w["down"]), None

        return lax.scan(layer, x, params)[0]

    return run


def tuned(function: Callable[..., Any], *args: Any, slice_name: str = "v5e:2x4", **options: Any) -> Plan:
    told = {"refine": "none", "top_k": 1, "shardings": "keep", **options}
    return autoshard.tune(function, *args, slice=slice_name, **told)


def refused(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises((PinError, OptionError, InfeasibleError)) as caught:
        tuned(function, *args, **options)
    return str(caught.value)


def mesh_of(plan: Plan) -> dict[str, int]:
    return {axis.name: axis.size for axis in plan.mesh_axes}


# ---- the mesh


def test_the_mesh_is_that_of_the_shardings_whatever_meshes_are_asked_for() -> None:
    for choice in ("native", "search"):
        assert mesh_of(tuned(model(), *arguments(x=over("data")), mesh=choice)) == {"data": 2, "model": 4}


def test_by_default_the_plan_decides_all() -> None:
    free = autoshard.tune(model(), *arguments(x=over("model")), slice="v5e:2x4", refine="none")
    assert mesh_of(free) == {"x": 2, "y": 4}
    assert free.kept == ()


def test_an_axis_on_several_torus_dims_is_several_axes_in_their_order() -> None:
    plan = tuned(model(), *arguments(up=over(None, None, ("model", "data"))), slice_name="v4:2x2x2")
    assert mesh_of(plan) == {"data": 2, "model0": 2, "model1": 2}
    assert plan.arguments["params/up"].spec == ";;model0,model1,data"


def test_an_axis_of_one_chip_is_there_and_shards_nothing() -> None:
    mesh = mesh_with(data=1, model=8)
    plan = tuned(model(), *arguments(up=over(None, "data", "model", mesh=mesh)), slice_name="cpu:8")
    assert mesh_of(plan) == {"data": 1, "model": 8}
    assert plan.arguments["params/up"].spec == ";;model"


def test_a_mesh_of_another_size_than_the_slice() -> None:
    message = refused(model(), *arguments(x=over("data")), slice_name="v5e:4x4")
    assert message.startswith("the mesh data=2 model=4 has 8 chips, and v5e:4x4 has 16: take a slice")


def test_two_meshes_are_refused_by_the_shardings_that_name_them() -> None:
    other = over("x", mesh=mesh_with(x=8))
    message = refused(model(other), *arguments(x=over("data")))
    assert message.startswith("`x`, over data=2 model=4, and `constraint:sharding_constraint` at test_kept_")
    assert ", over x=8, name different meshes, and a plan has one" in message


def test_without_shardings_the_plan_decides_all_and_says_so() -> None:
    stream = io.StringIO()
    plan = tuned(model(), *arguments(), progress=Progress(stream))
    assert "`run` has no shardings to keep: the plan decides all" in stream.getvalue()
    assert plan == tuned(model(), *arguments(), shardings="free")


# ---- what is kept


@pytest.mark.parametrize("spec", [(None, "data", "model"), (None, None, ("model", "data")), (None, "model")])
def test_an_argument_lies_as_it_was_sharded_and_the_others_are_free(spec: tuple[Any, ...]) -> None:
    plan = tuned(model(), *arguments(up=over(*spec)))
    wanted = [entry if isinstance(entry, tuple) else (entry,) for entry in (*spec, None)[:3]]
    text = ";".join(",".join(name for name in entry if name) for entry in wanted)
    assert plan.arguments["params/up"].spec == text
    assert plan.kept == (f"params/up={text}",)
    best = min(tuned(model(), *arguments(up=over(*spec)), pins=[pin]).predicted_seconds for pin in PINS)
    assert plan.predicted_seconds <= best * (1 + 1e-5)


PINS = ("params/down=;;", "params/down=;model;", "params/down=;;model", "params/down=;model;data")


def test_both_orders_of_the_axes_of_a_dim_can_be_kept() -> None:
    for axes in (("data", "model"), ("model", "data")):
        plan = tuned(model(over(None, axes)), *arguments(x=over(axes)))
        (kept,) = (tensor for tensor in plan.tensors if tensor.name == "sharding_constraint")
        assert (kept.spec, plan.arguments["x"].spec) == (f";{','.join(axes)}", f"{','.join(axes)};")


def test_a_constraint_in_a_loop_is_kept_and_unconstrained_dims_are_free() -> None:
    whole = tuned(model(over("model", None)), *arguments())
    (kept,) = (tensor for tensor in whole.tensors if tensor.name == "sharding_constraint")
    assert (kept.spec, kept.trips) == ("model;", LAYERS)
    loose = tuned(model(over("model", P.UNCONSTRAINED)), *arguments(up=over(None, None, "data")))
    (kept,) = (tensor for tensor in loose.tensors if tensor.name == "sharding_constraint")
    assert kept.spec in ("model;", "model;data")
    assert loose.kept == ("params/up=;;data", "constraint:sharding_constraint=model;?")
    assert loose.coverage.freed_annotations == 0


def test_an_unconstrained_dim_has_what_is_fastest() -> None:
    # Only f is big: its einsums want it sharded, which the loose dim lets them.
    def two(x: jax.Array, up: jax.Array, down: jax.Array) -> Any:
        hidden = lax.with_sharding_constraint(x @ up, over(None, P.UNCONSTRAINED))
        return hidden @ down

    plan = tuned(two, array(8, 512), array(512, 2**15), array(2**15, 512))
    (kept,) = (tensor for tensor in plan.tensors if tensor.name == "sharding_constraint")
    assert set(str(kept.spec).removeprefix(";").split(",")) == {"data", "model"}


def test_shardings_of_a_jit_around_the_function() -> None:
    jitted = jax.jit(model(), in_shardings=(None, over("data")), out_shardings=over(None, "model"))
    plan = tuned(jitted, *arguments())
    assert (plan.arguments["x"].spec, plan.results["result"].spec) == ("data;", ";model")
    assert plan.kept == ("x=data;", "result:result=;model")


def test_explicit_shardings_of_arguments_and_reshards() -> None:
    mesh = mesh_with(AxisType.Explicit, data=2, model=4)

    def run(x: jax.Array, w: jax.Array) -> Any:
        y = jnp.einsum("be,ef->bf", x, w, out_sharding=P("data", "model"))
        return jax.sharding.reshard(y, P(None, "model"))

    with jax.sharding.use_abstract_mesh(mesh):
        plan = tuned(
            run,
            array(B, E, sharding=over("data", mesh=mesh)),
            array(E, F, sharding=over(None, "model", mesh=mesh)),
        )
    assert [argument.spec for argument in plan.arguments.values()] == ["data;", ";model"]
    assert plan.kept[-1] == "constraint:reshard=;model"
    (kept,) = (tensor for tensor in plan.tensors if tensor.name == "reshard")
    assert str(kept.spec).endswith(";model")


def test_small_arrays_lie_as_they_were_sharded() -> None:
    def embed(tokens: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        return table[tokens], tokens + 1

    sharded = over("data")
    outer = jax.jit(embed, out_shardings=(None, sharded))
    plan = tuned(outer, array(B, sharding=sharded, dtype="int32"), array(2**14, E))
    assert plan.arguments["tokens"].spec == "data"
    assert plan.results["result/1"].spec == "data"
    assert plan.kept == ("tokens=data", "result:result/1=data")


def test_copies_of_a_layer_may_be_sharded_each_in_its_own_way() -> None:
    def run(ws: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in ws:
            x = jnp.tanh(x @ w)
        return x

    shardings = [None, over("data"), over(None, "model"), over("data"), None, over(None, "model")]
    plan = tuned(run, [array(E, E, sharding=s) for s in shardings], array(B, E))
    specs = [plan.arguments[f"ws/{n}"].spec for n in range(len(shardings))]
    assert [specs[n] for n in (1, 2, 3, 5)] == ["data;", ";model", "data;", ";model"]
    assert plan.kept == ("ws/{1,3}=data;", "ws/{2,5}=;model")


def test_copies_of_a_layer_that_are_sharded_alike_are_decided_once() -> None:
    def run(ws: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in ws:
            x = jnp.tanh(x @ w)
        return x

    plan = tuned(run, [array(E, E, sharding=over(None, "model"))] * 8, array(B, E))
    assert plan.kept == ("ws/{0..7}=;model",)
    assert [einsum.repeats for einsum in plan.einsums] == [1, 7]  # the first reads an argument


def test_pins_and_kept_shardings_go_together() -> None:
    plan = tuned(model(), *arguments(up=over(None, "data", "model")), pins=["params/down=;model;data"])
    assert [plan.arguments[f"params/{name}"].spec for name in ("up", "down")] == [
        ";data;model",
        ";model;data",
    ]


# ---- the plan


def test_the_plan_records_what_it_keeps_and_explain_says_it(tmp_path: Path) -> None:
    plan = tuned(model(over("data")), *arguments(x=over("data")))
    plan.save(tmp_path / "kept.json")
    assert autoshard.load_plan(tmp_path / "kept.json") == plan
    text = to_text(explain(plan))
    assert "kept of the model: x=data;\nkept of the model: constraint:sharding_constraint=data;\n" in text
    tuned(model(), *arguments()).save(tmp_path / "free.json")
    assert '"kept"' not in (tmp_path / "free.json").read_text()


@pytest.mark.parametrize("split", [False, True])
def test_under_the_plan_the_function_gives_the_same(split: bool) -> None:
    # On cpu:8 a mesh of one torus dim is laid on parts of it; v4:2x2x2 has the axis `model` on two dims.
    function = model(over("data", P.UNCONSTRAINED))
    abstract = arguments(up=over(None, None, ("model", "data")), x=over("data"))
    plan = tuned(function, *abstract, slice_name="v4:2x2x2" if split else "cpu:8")
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / 8, a.dtype), abstract)
    wanted = model()(*given)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    placed = jax.tree.map(
        lambda a, like: jax.device_put(a, NamedSharding(mesh, like.sharding.spec)) if like.sharding else a,
        given,
        abstract,
    )  # as the author lays them: nothing moves when they are handed to the plan
    result = autoshard.jit(function, plan=plan)(*placed)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


# ---- what cannot be kept


def test_shardings_that_disagree_name_each_other() -> None:
    def step(cache: jax.Array, x: jax.Array) -> jax.Array:
        return cache + x @ x.T @ cache

    outer = jax.jit(step, out_shardings=over(None, "model"))
    message = refused(
        outer, array(512, 512, sharding=over("data")), array(512, 64), donate_argnames=("cache",)
    )
    assert message.startswith("`result:result=;model` contradicts `cache=data;`: they are of one layout")
    assert message.endswith("`--shardings free` frees the shardings of the model")


def test_an_argument_and_the_jit_that_takes_it_must_agree() -> None:
    jitted = jax.jit(model(), in_shardings=(None, over("data")))
    for same in (over("data", None), over(("data",))):
        assert tuned(jitted, *arguments(x=same)).arguments["x"].spec == "data;"
    message = refused(jitted, *arguments(x=over("model")))
    assert message.startswith("the argument `x` is sharded ")
    assert "over data=2 model=4, and the jax.jit that takes it says " in message


@pytest.mark.parametrize(("size", "other"), [(513, 8), (3, 2**20)])
def test_a_dim_that_does_not_divide(size: int, other: int) -> None:
    """In the first case the array is large enough to be a decision, in the second it is small."""

    def run(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x * 2, w + 1

    message = refused(run, array(size, sharding=over("data")), array(other))
    assert "`x=data` cannot hold on v5e:2x4: " in message
    assert f"dim 0 of size {size} is not divisible by 2" in message
    assert "`--shardings free`" in message


def test_what_leaves_no_room_is_named() -> None:
    # 2 x 16 GiB of weights, half of them replicated: 8 chips of 16 GiB hold them when all are sharded.
    args = ({"up": array(4, 2**14, 2**16, sharding=over()), "down": array(4, 2**16, 2**14)}, array(8, 2**14))
    message = refused(model(), *args)
    assert "that are kept leave no room, most of all `params/up=;;` (16.00 GiB per chip)" in message
    assert "without them (`--shardings free`) a plan is found" in message


def test_an_open_sum_is_no_layout() -> None:
    mesh = mesh_with(AxisType.Explicit, data=2, model=4)
    sharding = NamedSharding(mesh, P("data", unreduced={"model"}))
    assert "leaves an open sum, which no plan can keep" in refused(
        lambda x: x, array(512, 8, sharding=sharding)
    )


def test_another_choice_is_refused() -> None:
    assert "`shardings` is `all`, expected one of `free`, `keep`" in refused(
        model(), *arguments(), shardings="all"
    )


# ---- the command line

MODEL = """
import jax
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def step(x, w):
    return jax.lax.with_sharding_constraint(x @ w, NamedSharding(mesh, P("data", "model")))


def inputs():
    w = jax.ShapeDtypeStruct((512, 512), "float32", sharding=NamedSharding(mesh, P(None, "model")))
    return jax.ShapeDtypeStruct((64, 512), "float32"), w
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "autoshard.cli", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_that_builds_its_mesh_finds_as_many_devices_as_chips(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    target = ["model.py:step", "--inputs", "model.py:inputs", "--slice", "v5e:2x4"]
    done = command(tmp_path, "tune", *target, "--refine", "none", "--shardings", "keep", "-o", "plan.json")
    assert done.returncode == 0, done.stderr
    assert "2 shardings of `step` are kept, on the mesh data=2 model=4" in done.stderr
    plan = autoshard.load_plan(tmp_path / "plan.json")
    assert plan.kept == ("w=;model", "constraint:sharding_constraint=data;model")
    assert plan.results["result"].spec == "data;model"
    done = command(tmp_path, "check", "plan.json")
    assert done.stdout == "plan.json: fresh\n", done.stderr
