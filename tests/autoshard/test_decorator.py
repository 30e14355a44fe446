"""`autoshard.jit` as users write it: decorators, partials, methods, keywords, static arguments, no plan."""

import dataclasses
import functools
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.decorator import PlannedFunction
from autoshard.errors import PlanError, PlanMismatchError
from autoshard.plan import Plan

X = jax.ShapeDtypeStruct((16, 64), "float32")
W = jax.ShapeDtypeStruct((64, 64), "float32")


def dense(w: Any, x: Any) -> Any:
    """A layer."""
    return jnp.tanh(jnp.einsum("be,ef->bf", x, w))


def arrays() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=t.shape) / 8, t.dtype) for t in (W, X))  # type: ignore[return-value]


def planned(fn: Callable[..., Any], *args: Any, **options: Any) -> Plan:
    return autoshard.tune(fn, *args, slice="cpu:8", refine="none", **options)


@functools.cache
def dense_plan() -> Plan:
    return planned(dense, W, X)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "dense.json"
    dense_plan().save(path)
    return path


def structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def check(result: Any, expected: Any, plan: Plan) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), result, expected)
    wanted = plan.out_shardings(plan.mesh(), like=result)
    for leaf, sharding in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(result))


# ---- forms


def test_as_a_decorator_with_a_path(saved: Path) -> None:
    @autoshard.jit(plan=saved, inputs=lambda: (W, X))
    def layer(w: Any, x: Any) -> Any:
        """A layer."""
        return dense(w, x)

    assert isinstance(layer, PlannedFunction)
    assert (layer.__name__, layer.__doc__) == ("layer", "A layer.")
    assert list(inspect.signature(layer).parameters) == ["w", "x"]
    assert layer.inputs is not None
    assert layer.inputs() == (W, X)
    assert layer.plan == dense_plan()
    check(layer(*arrays()), dense(*arrays()), dense_plan())


def test_as_a_bare_decorator() -> None:
    @autoshard.jit
    def double(x: Any) -> Any:
        return 2 * x

    assert double.plan is None
    assert double(21) == 42


def test_directly_with_a_plan_or_text(saved: Path) -> None:
    for plan in (dense_plan(), saved, str(saved)):
        check(autoshard.jit(dense, plan=plan)(*arrays()), dense(*arrays()), dense_plan())


def test_lower_trace_and_eval_shape(saved: Path) -> None:
    layer = autoshard.jit(dense, plan=saved)
    compiled = layer.lower(W, X).compile()
    plan = dense_plan()
    expected = plan.in_shardings(plan.mesh())
    for found, wanted, aval in zip(compiled.input_shardings[0], expected, (W, X), strict=True):
        assert found.is_equivalent_to(wanted, len(aval.shape))
    assert layer.trace(W, X).jaxpr.out_avals[0].shape == (16, 64)
    assert layer.eval_shape(W, X).shape == (16, 64)


def test_a_partial() -> None:
    def scaled(w: Any, x: Any, *, scale: float) -> Any:
        return dense(w, x) * scale

    fn = functools.partial(scaled, scale=3.0)
    plan = planned(fn, W, X)
    check(autoshard.jit(fn, plan=plan)(*arrays()), fn(*arrays()), plan)


def test_a_partial_with_an_array() -> None:
    w, x = arrays()
    fn = functools.partial(dense, w)
    plan = planned(fn, X)
    check(autoshard.jit(fn, plan=plan)(x), fn(x), plan)


class Model:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def step(self, w: Any, x: Any) -> Any:
        return dense(w, x) * self.scale


def test_a_bound_method() -> None:
    model = Model(2.0)
    plan = planned(model.step, W, X)
    assert plan.function.name == "step"
    check(autoshard.jit(model.step, plan=plan)(*arrays()), model.step(*arrays()), plan)


def test_a_callable_object_with_attributes_of_our_names() -> None:
    class Callable:
        inputs, function, jit_options, plan_path = "its", "own", "attributes", "here"

        def __init__(self) -> None:
            self.__dict__.update(inputs=1, function=2, jit_options=3, plan_path=4, _plan=5)

        def __call__(self, w: Any, x: Any) -> Any:
            return dense(w, x)

    layer = autoshard.jit(Callable(), plan=dense_plan())
    assert (layer.inputs, layer.plan_path, layer.plan) == (None, None, dense_plan())
    check(layer(*arrays()), dense(*arrays()), dense_plan())


def test_static_leaves_with_and_without_a_plan() -> None:
    def fn(model: Any, x: Any) -> Any:
        return model["act"](jnp.einsum("be,ef->bf", x, model["w"])), model

    w, x = arrays()
    plan = planned(fn, {"w": W, "act": jnp.tanh, "mode": "train"}, X)
    model = {"w": w, "act": jnp.tanh, "mode": "train"}
    for layer in (autoshard.jit(fn), autoshard.jit(fn, plan=plan)):
        y, same_model = layer(model, x)
        np.testing.assert_allclose(y, dense(w, x), rtol=1e-4, atol=1e-5)
        assert same_model["act"] is jnp.tanh
        assert same_model["mode"] == "train"
        assert layer.eval_shape(model, x)[1]["mode"] == "train"


def test_a_decorated_method() -> None:
    """As with jax.jit, the instance is the first argument, static here."""
    plan = planned(lambda self, w, x: dense(w, x) * self.scale, Model(2.0), W, X, static_argnums=0)

    class Decorated(Model):
        @autoshard.jit(plan=plan, static_argnums=0)
        def step(self, w: Any, x: Any) -> Any:
            return dense(w, x) * self.scale

    for scale in (2.0, 5.0):
        check(Decorated(scale).step(*arrays()), Model(scale).step(*arrays()), plan)
    assert isinstance(Decorated.step, PlannedFunction)


def test_keyword_arguments_in_any_order() -> None:
    def fn(w: Any, x: Any, *, shift: Any, factor: Any) -> Any:
        return dense(w, x) * factor + shift

    w, x = arrays()
    plan = planned(lambda w, x, factor, shift: fn(w, x, shift=shift, factor=factor), W, X, X, X)
    layer = autoshard.jit(fn, plan=plan)
    expected = fn(w, x, shift=x, factor=2 * x)
    check(layer(w, x, shift=x, factor=2 * x), expected, plan)
    check(layer(w, x, factor=2 * x, shift=x), expected, plan)
    check(layer(w, x=x, factor=2 * x, shift=x), expected, plan)


def test_arguments_passed_by_keyword_keep_their_layouts() -> None:
    """Alphabetical order is not the plan's: every argument must still get its own spec."""

    def fn(z: Any, w: Any, a: Any) -> Any:
        return jnp.einsum("be,ef->bf", z, w) + a

    w, x = arrays()
    args = {"z": x, "w": w, "a": jnp.ones(64)}
    plan = planned(fn, X, W, jax.ShapeDtypeStruct((64,), "float32"))
    layer = autoshard.jit(fn, plan=plan)
    check(layer(**args), fn(**args), plan)
    inputs, _ = layer.lower(**args).compile().input_shardings
    wanted = dict(zip("zwa", plan.in_shardings(plan.mesh()), strict=True))
    assert len({str(sharding.spec) for sharding in wanted.values()}) > 1
    for name, found in zip("awz", inputs, strict=True):
        assert found.is_equivalent_to(wanted[name], args[name].ndim)
    check(jax.jit(autoshard.apply(fn, plan))(**args), fn(**args), plan)


def test_static_arguments_by_name_and_number() -> None:
    def fn(w: Any, mode: str, x: Any, *, power: int = 1) -> Any:
        return (dense(w, x) if mode == "tanh" else jnp.sin(dense(w, x))) ** power

    w, x = arrays()
    options: dict[str, Any] = {"static_argnums": 1, "static_argnames": "power"}
    plan = planned(fn, W, "tanh", X, **options)
    layer = autoshard.jit(fn, plan=plan, **options)
    check(layer(w, "tanh", x), fn(w, "tanh", x), plan)
    check(layer(w, "tanh", x, power=3), fn(w, "tanh", x, power=3), plan)
    check(layer(w, "sine", x), fn(w, "sine", x), plan)  # the same einsums: the plan fits


def test_donated_arguments_by_number_and_by_keyword() -> None:
    def fn(w: Any, cache: Any, x: Any) -> Any:
        return x @ w, {name: one + x for name, one in cache.items()}

    w, x = arrays()
    plan = planned(fn, W, {"k": X}, X, donate_argnums=1)
    calls: list[Callable[[Any, Any], Any]] = [
        lambda f, cache: f(w, cache, x),
        lambda f, cache: f(w, cache=cache, x=x),
    ]
    for call in calls:
        cache = {"k": jax.device_put(x, plan.in_shardings(plan.mesh())[1]["k"])}
        layer = autoshard.jit(fn, plan=plan, donate_argnums=1)
        expected = fn(w, {"k": x}, x)
        check(call(layer, cache), expected, plan)
        assert cache["k"].is_deleted()


# ---- pytrees


class State(NamedTuple):
    w: Any
    bias: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["x", "mask"], meta_fields=["scale"])
@dataclasses.dataclass(frozen=True)
class Batch:
    x: Any
    mask: Any
    scale: float = 2.0


def test_pytrees_with_none_namedtuples_and_dataclasses() -> None:
    def fn(state: State, batch: Batch, extra: Any) -> Any:
        assert extra is None
        y = dense(state.w, batch.x) * batch.scale
        return State(y, None), {"batch": Batch(y + batch.x, None, 3.0), "none": None, "list": [y]}

    w, x = arrays()
    plan = planned(fn, State(W, None), Batch(X, None), None)
    args = (State(w, None), Batch(x, None), None)
    layer = autoshard.jit(fn, plan=plan)
    result = layer(*args)
    assert structure(result) == structure(fn(*args))
    check(result, fn(*args), plan)
    inputs, _ = layer.lower(*args).compile().input_shardings
    wanted = plan.in_shardings(plan.mesh(), like=args)
    for found, want in zip(jax.tree.leaves(inputs), jax.tree.leaves(wanted), strict=True):
        assert found.is_equivalent_to(want, 2)


def test_a_plan_survives_its_file(saved: Path) -> None:
    plan = autoshard.load_plan(saved)
    assert plan == dense_plan()
    check(autoshard.jit(dense, plan=plan)(*arrays()), dense(*arrays()), plan)


# ---- no plan yet


def test_without_a_plan_file_it_is_jax_jit_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later.json"
    layer = autoshard.jit(dense, plan=path, donate_argnums=(1,))
    with caplog.at_level(logging.WARNING, logger="autoshard"):
        w, x = arrays()
        result = layer(w, x)
        assert x.is_deleted()
        layer(*arrays())
        layer.lower(W, X)
        layer.clear_cache()
        layer(*arrays())
    np.testing.assert_allclose(result, dense(*arrays()), rtol=1e-4, atol=1e-5)
    assert layer.plan is None
    (record,) = caplog.records
    assert record.name == "autoshard"
    assert record.getMessage() == (
        "no plan for `dense` yet, running plain jax.jit; make one with: "
        f"autoshard tune MODULE_OR_FILE:dense --slice CHIP:TOPOLOGY -o {path}"
    )


def test_the_hint_reaches_a_user_who_configured_nothing(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(
        "import autoshard\n"
        "step = autoshard.jit(lambda x: 2 * x, plan='none.json')\n"
        "print(int(step(20)) + int(step(1)))\n"
    )
    command = [sys.executable, str(script)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42\n"
    assert done.stderr.count("autoshard tune MODULE_OR_FILE:<lambda>") == 1
    assert done.stderr.count("no plan for") == 1


def test_a_plan_that_comes_later_is_read_after_clear_cache(tmp_path: Path) -> None:
    path = tmp_path / "later.json"
    layer = autoshard.jit(dense, plan=path)
    assert len(layer(*arrays()).sharding.device_set) == 1
    dense_plan().save(path)
    layer.clear_cache()
    check(layer(*arrays()), dense(*arrays()), dense_plan())


def test_a_plan_that_changes_is_read_again_after_clear_cache(saved: Path) -> None:
    layer = autoshard.jit(dense, plan=saved)
    layer(*arrays())
    other = planned(dense, W, jax.ShapeDtypeStruct((32, 64), "float32"))
    other.save(saved)
    layer(*arrays())  # what runs goes on running
    layer.clear_cache()
    assert layer.plan == other
    with pytest.raises(PlanMismatchError, match="argument `x`"):
        layer(*arrays())


def test_a_given_plan_survives_clear_cache() -> None:
    layer = autoshard.jit(dense, plan=dense_plan())
    layer.clear_cache()
    assert layer.plan == dense_plan()


def test_a_damaged_plan_is_an_error_not_a_missing_plan(tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text("{")
    with pytest.raises(PlanError, match="damaged"):
        autoshard.jit(dense, plan=path)(*arrays())


def test_shardings_are_the_plans() -> None:
    with pytest.raises(TypeError, match="in_shardings or out_shardings"):
        autoshard.jit(dense, plan="plan.json", in_shardings=None, out_shardings=None)
