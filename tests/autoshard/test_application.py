"""A function under a plan, whatever its arguments hold: results, donation, and how often it is traced."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.application import Application
from autoshard.errors import PlanMismatchError, TraceError
from autoshard.plan import Plan
from autoshard.static_leaves import arrays_of, box

QUICK: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": "0"}}


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / 8


W, X = normal(0, 64, 64), normal(1, 16, 64)


def tuned(fn: Callable[..., Any], *args: Any, **options: Any) -> Plan:
    return autoshard.tune(fn, *args, slice="cpu:8", refine="none", mesh="native", **options)


def same(result: Any, expected: Any) -> None:
    structure: Any = jax.tree.structure(expected)
    assert jax.tree.structure(result) == structure
    for have, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if isinstance(want, jax.Array) and jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
            have, want = jax.random.key_data(have), jax.random.key_data(want)
        if isinstance(want, jax.Array):
            assert (have.dtype, have.weak_type) == (want.dtype, want.weak_type)
            np.testing.assert_allclose(np.asarray(have, float), np.asarray(want, float), rtol=1e-4, atol=1e-5)
        else:
            assert have is want


class Counted:
    """A function that counts how often Python runs it."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.runs = 0
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        return self.fn(*args, **kwargs)


# ---- how often it is traced


def dense(w: Any, x: Any) -> Any:
    return jnp.tanh(jnp.einsum("be,ef->bf", x, w))


def test_tuning_traces_once_and_applying_once() -> None:
    fn = Counted(dense)
    plan = tuned(fn, W, X)
    assert fn.runs == 1
    planned = Application(fn, plan)
    planned.lower(W, X)
    planned(W, X)
    same(planned(W, X), dense(W, X))
    assert fn.runs == 2


def test_what_was_traced_is_used_for_what_it_was_traced_on_alone() -> None:
    """A Python number and an array of one type: the plan fits both, the programs differ in their results."""
    fn = Counted(lambda w, x, n: (dense(w, x), n + 1))
    planned = Application(fn, tuned(fn, W, X, 3))
    for number in (3, 4, jnp.int32(3), np.int32(4), 5):
        same(planned(W, X, number), (dense(W, X), jnp.asarray(number) + 1))
    assert fn.runs == 3  # tuned, weak, strong


def test_what_was_traced_is_not_kept() -> None:
    planned = Application(dense, tuned(dense, W, X))
    with jax.default_matmul_precision("highest"):
        assert "precision = [HIGHEST, HIGHEST]" in planned.lower(W, X).as_text()
    assert "HIGHEST" not in planned.lower(W, X).as_text()


def test_a_function_of_another_trace() -> None:
    """Closed-over tracers: the planned function is made and called inside of another function."""

    def outer(w: Any, x: Any, y: Any) -> Any:
        def inner(x: Any) -> Any:
            return jnp.einsum("be,ef->bf", x, w) + y

        return Application(inner, plan)(x)

    def inner(x: Any) -> Any:
        return jnp.einsum("be,ef->bf", x, W) + X

    plan = tuned(inner, X)
    same(jax.jit(outer)(W, X, X), inner(X))
    gradient = jax.jit(jax.grad(lambda w: outer(w, X, X).sum()))(W)
    same(gradient, jax.grad(lambda w: (X @ w + X).sum())(W))


# ---- static leaves and arguments


def step(model: Any, x: Any, mode: str = "plain", *, power: int = 1) -> Any:
    y = model["act"](jnp.einsum("be,ef->bf", x, model["w"])) ** power
    return {**model, "w": model["w"] + 1.0}, -y if mode == "negative" else y


MODEL = {"w": W, "act": jnp.tanh, "name": "dense", "bias": None}


def test_static_leaves_go_in_and_come_out() -> None:
    plan = tuned(step, MODEL, X)
    assert list(plan.arguments) == ["model/w", "x"]
    planned = Application(step, plan)
    same(planned(MODEL, X), step(MODEL, X))
    other = {**MODEL, "act": jnp.sin, "name": "sine"}  # the same einsums: the plan fits
    same(planned(other, X), step(other, X))
    same(planned(MODEL, X), step(MODEL, X))


def test_static_arguments_that_only_differ_in_their_values() -> None:
    options = {"static_argnames": ("mode", "power")}
    planned = Application(step, tuned(step, MODEL, X, "plain", **options), jit_options=options)
    same(planned(MODEL, X, "plain"), step(MODEL, X, "plain"))
    same(planned(MODEL, X, "negative", power=2), step(MODEL, X, "negative", power=2))
    same(planned(MODEL, X, mode="negative"), step(MODEL, X, "negative"))
    same(planned(MODEL, X, "plain"), step(MODEL, X, "plain"))


def test_static_arguments_have_to_be_hashable() -> None:
    options = {"static_argnames": "mode"}
    planned = Application(step, tuned(step, MODEL, X, "plain", **options), jit_options=options)
    with pytest.raises(TraceError, match=r"unhashable type: 'list'.*expected a hashable one"):
        planned(MODEL, X, ["plain"])


def test_an_error_of_the_function_is_told_at_its_line() -> None:
    plan = tuned(step, MODEL, X)
    with pytest.raises(TraceError, match=r"`step` cannot be traced .*test_application.py:\d+: KeyError"):
        Application(step, plan)({"w": W}, X)


def test_a_donated_argument_with_static_leaves_is_donated() -> None:
    plan = tuned(step, MODEL, X, donate_argnames="model")
    planned = Application(step, plan, jit_options={"donate_argnames": "model"})
    w = jax.device_put(W.copy(), plan.in_shardings(plan.mesh(), like=(MODEL, X))[0]["w"])
    x = X.copy()
    (model, y) = planned({**MODEL, "w": w}, x)
    same((model, y), step(MODEL, X))
    assert w.is_deleted()
    assert not x.is_deleted()


# ---- kinds of arrays


def noise(key: Any, keys: Any, x: Any) -> Any:
    y = jnp.einsum("be,ce->bc", x, x) + jax.random.normal(key, (16, 16))
    return y + jax.vmap(lambda k: jax.random.uniform(k, (16,)))(keys), jax.random.split(key)


def test_typed_keys() -> None:
    args = (jax.random.key(0), jax.random.split(jax.random.key(1), 16), X)
    plan = tuned(noise, *args)
    assert plan.arguments["key"].type == "key<fry>[]"
    assert plan.arguments["keys"].type == "key<fry>[16]"
    same(Application(noise, plan)(*args), noise(*args))


def test_typed_keys_can_be_laid_out() -> None:
    args = (jax.random.key(0), jax.random.split(jax.random.key(1), 16), X)
    plan = tuned(noise, *args)
    edited = with_spec(plan, "keys", "x")
    planned = Application(noise, edited)
    same(planned(*args), noise(*args))
    inputs, _ = planned.lower(*args).compile().input_shardings
    assert inputs[1].is_equivalent_to(NamedSharding(edited.mesh(), P("x")), 1)


def with_spec(plan: Plan, name: str, spec: str) -> Plan:
    argument = msgspec.structs.replace(plan.arguments[name], spec=spec)
    return msgspec.structs.replace(plan, arguments={**plan.arguments, name: argument})


def test_python_numbers_stay_weak() -> None:
    def fn(x: Any, n: Any, f: Any, b: Any) -> Any:
        return x @ x.T * n, n + 1, f * n, jnp.where(b, n, f)

    planned = Application(fn, tuned(fn, X, 3, 0.5, True))
    same(planned(X, 3, 0.5, True), jax.jit(fn)(X, 3, 0.5, True))


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e4m3fn"])
def test_small_weights_with_scales(dtype: str) -> None:
    def fn(weight: Any, x: Any) -> Any:
        return x @ (weight["values"].astype("float32") * weight["scale"])

    weight = {"values": jnp.round(8 * W).astype(dtype), "scale": normal(2, 64)}
    planned = Application(fn, tuned(fn, weight, X), jit_options=QUICK)
    same(planned(weight, X), fn(weight, X))


def test_printing_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    def fn(w: Any, x: Any) -> Any:
        jax.debug.print("rows {}", x.shape[0])
        return dense(w, x)

    planned = Application(fn, tuned(fn, W, X))
    same(planned(W, X), dense(W, X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("rows 16") == 1


# ---- containers


class Momentum(NamedTuple):
    count: Any
    trace: Any


@jax.tree_util.register_pytree_node_class
class Layer:
    """As a module: arrays, functions and numbers side by side."""

    def __init__(self, w: Any, act: Any) -> None:
        self.w, self.act = w, act

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.w, self.act), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: Any) -> "Layer":
        return cls(*parts)

    def __call__(self, x: Any) -> Any:
        return self.act(jnp.einsum("be,ef->bf", x, self.w))


def train(layers: Any, state: Momentum, x: Any) -> Any:
    def loss(arrays: Any) -> Any:
        y = x
        for w, layer in zip(arrays, layers, strict=True):
            y = Layer(w, layer.act)(y)
        return jnp.mean(y**2)

    value, gradients = jax.value_and_grad(loss)([layer.w for layer in layers])
    moved = Momentum(state.count + 1, [0.9 * t + g for t, g in zip(state.trace, gradients, strict=True)])
    new = [Layer(layer.w - 0.1 * t, layer.act) for layer, t in zip(layers, moved.trace, strict=True)]
    return new, moved, value


def test_a_train_step_feeds_itself(tmp_path: Path) -> None:
    layers = [Layer(normal(3, 64, 128), jnp.tanh), Layer(normal(4, 128, 64), jax.nn.relu)]
    state = Momentum(jnp.int32(0), [jnp.zeros_like(layer.w) for layer in layers])
    names = ("layers", "state")
    plan = tuned(train, layers, state, X, donate_argnames=names)
    assert [n for n, a in plan.arguments.items() if a.donated] == [
        "layers/0",
        "layers/1",
        "state/count",
        "state/trace/0",
        "state/trace/1",
    ]
    plan.save(tmp_path / "train.json")
    planned = autoshard.jit(train, plan=tmp_path / "train.json", donate_argnames=names)
    expected = (layers, state, None)
    for _ in range(2):
        expected = train(*expected[:2], X)
    copies = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, (layers, state))
    result = planned(*copies, X)
    result = planned(*result[:2], X)
    same(result, expected)
    assert [layer.act for layer in result[0]] == [jnp.tanh, jax.nn.relu]


def test_shardings_of_own_containers_need_no_example_once_they_were_traced(tmp_path: Path) -> None:
    layer = Layer(W, jnp.tanh)
    plan = tuned(lambda layer, x: (layer(x), Momentum(x, [x])), layer, X)
    plan.save(tmp_path / "layer.json")
    loaded = autoshard.load_plan(tmp_path / "layer.json")
    (found, x) = loaded.in_shardings(loaded.mesh())
    assert isinstance(found, Layer)
    assert found.act is None
    arrays = jax.device_put((arrays_of(box(layer, "layer")), X), (found, x))
    assert arrays[0].w.sharding == found.w
    (_, momentum) = loaded.out_shardings(loaded.mesh())
    assert isinstance(momentum, Momentum)


def test_a_model_that_is_the_function() -> None:
    layer = Layer(W, jnp.tanh)
    for fn in (layer, layer.__call__, functools.partial(Layer.__call__, layer)):
        plan = tuned(fn, X)
        same(autoshard.jit(fn, plan=plan)(X), layer(X))


def test_another_batch_of_a_model_with_static_leaves() -> None:
    planned = Application(step, tuned(step, MODEL, X))
    with pytest.raises(PlanMismatchError, match=r"argument `x` is float32\[8,64\]"):
        planned(MODEL, X[:8])
