"""Arguments of the model libraries, as their users have them: planned, saved, loaded, run, donated.

Each test needs its library; what they show is shown without libraries in the tests of the modules.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.plan import Plan
from autoshard.static_leaves import Boxed, arrays_of, box, unbox

BATCH, WIDTH = 16, 64


def batch() -> jax.Array:
    return jax.random.normal(jax.random.key(9), (BATCH, WIDTH))


def planned(fn: Callable[..., Any], args: tuple[Any, ...], folder: Path, **options: Any) -> tuple[Any, Plan]:
    """The function under a plan that went through its file."""
    plan = autoshard.tune(fn, *args, slice="cpu:8", refine="none", mesh="native", **options)
    plan.save(folder / "plan.json")
    assert autoshard.load_plan(folder / "plan.json") == plan
    return autoshard.jit(fn, plan=folder / "plan.json", **options), plan


def numbers(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf, float)


def same(result: Any, expected: Any) -> None:
    structure: Any = jax.tree.structure(expected)
    assert jax.tree.structure(result) == structure
    for have, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if isinstance(want, jax.Array):
            np.testing.assert_allclose(numbers(have), numbers(want), rtol=1e-3, atol=1e-4)
        else:
            assert have is want


def copied(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, tree)


def placed(tree: Any, shardings: Any) -> Any:
    """A copy of a tree where its plan wants it."""
    found = box(copied(tree), "tree")
    arrays = jax.device_put(arrays_of(found), shardings)
    return unbox(Boxed(arrays, found.static)) if isinstance(found, Boxed) else arrays


def sgd() -> Any:
    return pytest.importorskip("optax").sgd(0.1, momentum=0.9)


# ---- flax.nnx


def nnx_model() -> tuple[Any, Any, Any]:
    nnx = pytest.importorskip("flax.nnx")
    module: Any = nnx.Module

    class Model(module):  # type: ignore[misc]
        def __init__(self, rngs: Any) -> None:
            self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = nnx.gelu(layer(x))
            return self.dropout(x)

    model = Model(nnx.Rngs(0))
    return nnx, model, nnx.split(model)


def test_nnx_state_has_the_paths_that_users_know(tmp_path: Path) -> None:
    nnx, _, (definition, state) = nnx_model()

    def forward(params: Any, x: Any) -> Any:
        model = nnx.merge(definition, params)
        return model(x), nnx.state(model)

    fn, plan = planned(forward, (state, batch()), tmp_path)
    kernels = [f"layers/{i}/{name}" for i in range(2) for name in ("bias", "kernel")]
    paths = ["dropout/rngs/count", "dropout/rngs/key", *kernels]
    assert list(plan.arguments) == [*(f"params/{path}" for path in paths), "x"]
    assert list(plan.results) == ["result/0", *(f"result/1/{path}" for path in paths)]
    same(fn(state, batch()), jax.jit(forward)(state, batch()))


def test_nnx_modules_and_graph_definitions_are_arguments(tmp_path: Path) -> None:
    nnx, model, (definition, state) = nnx_model()
    for fn, args in (
        (lambda model, x: model(x), (model, batch())),
        (lambda definition, params, x: nnx.merge(definition, params)(x), (definition, state, batch())),
    ):
        jitted, _ = planned(fn, args, tmp_path)
        same(jitted(*args), jax.jit(fn)(*args))


def test_nnx_train_step_with_an_optimizer(tmp_path: Path) -> None:
    nnx, model, (definition, state) = nnx_model()
    optimizer = nnx.Optimizer(model, sgd(), wrt=nnx.Param)
    optimizer_definition, optimizer_state = nnx.split(optimizer)

    def train(params: Any, opt_state: Any, x: Any) -> Any:
        model = nnx.merge(definition, params)
        optimizer = nnx.merge(optimizer_definition, opt_state)
        loss, gradients = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
        optimizer.update(model, gradients)
        return nnx.state(model), nnx.state(optimizer), loss

    names = ("params", "opt_state")
    fn, plan = planned(train, (state, optimizer_state, batch()), tmp_path, donate_argnames=names)
    assert "opt_state/opt_state/0/trace/layers/1/kernel" in plan.arguments
    shardings = plan.in_shardings(plan.mesh())
    given = [placed(tree, where) for tree, where in zip((state, optimizer_state), shardings, strict=False)]
    expected = jax.jit(train)(state, optimizer_state, batch())
    same(fn(*given, batch()), expected)
    kernel = given[0]["layers"][1]["kernel"]
    assert jax.tree.leaves(kernel)[0].is_deleted()


# ---- flax.linen


def test_linen_train_state_with_boxed_parameters(tmp_path: Path) -> None:
    linen = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")
    init = linen.with_partitioning(linen.initializers.lecun_normal(), (None, None))
    model = linen.Dense(WIDTH, kernel_init=init)
    params = model.init(jax.random.key(0), batch())["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=sgd())

    def train(state: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), value

    fn, plan = planned(train, (state, batch()), tmp_path, donate_argnames="state")
    trace = [f"state/opt_state/0/trace/{name}" for name in ("bias", "kernel")]
    assert list(plan.arguments) == ["state/step", "state/params/bias", "state/params/kernel", *trace, "x"]
    expected = result = (copied(state), None)
    for _ in range(3):  # the step, a Python number at first, is an array from then on
        expected = jax.jit(train)(expected[0], batch())
        result = fn(result[0], batch())
    same(result, expected)


# ---- equinox


def equinox_model() -> tuple[Any, Any]:
    eqx = pytest.importorskip("equinox")
    module: Any = eqx.Module

    class Model(module):  # type: ignore[misc]
        mlp: Any
        dropout: Any
        heads: int
        name: str
        dtype: Any

        def __call__(self, x: Any, key: Any) -> Any:
            y = jax.vmap(self.mlp)(x).reshape(x.shape[0], self.heads, -1)  # not with a traced number
            return self.dropout(y.reshape(x.shape), key=key).astype(self.dtype)

    mlp = eqx.nn.MLP(WIDTH, WIDTH, 2 * WIDTH, 2, key=jax.random.key(0))
    return eqx, Model(mlp, eqx.nn.Dropout(0.1), 4, "model", jnp.float32)


def test_equinox_modules_with_functions_texts_and_numbers(tmp_path: Path) -> None:
    eqx, model = equinox_model()

    def forward(model: Any, x: Any, key: Any) -> Any:
        return model(x, key)

    args = (model, batch(), jax.random.key(1))
    fn, plan = planned(forward, args, tmp_path)
    layers = [f"model/mlp/layers/{i}/{name}" for i in range(3) for name in ("weight", "bias")]
    assert list(plan.arguments) == [*layers, "x", "key"]
    same(fn(*args), eqx.filter_jit(forward)(*args))
    same(autoshard.jit(forward)(*args), eqx.filter_jit(forward)(*args))
    types = (eqx.filter_eval_shape(lambda: model), *jax.eval_shape(lambda *args: args, *args[1:]))
    assert fn.lower(*types).as_text() == fn.lower(*args).as_text()


def test_equinox_train_step_returns_the_model(tmp_path: Path) -> None:
    eqx, model = equinox_model()
    optimizer = sgd()
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    def train(model: Any, state: Any, x: Any, key: Any) -> Any:
        loss, gradients = eqx.filter_value_and_grad(lambda m: jnp.mean(m(x, key) ** 2))(model)
        updates, state = optimizer.update(gradients, state)
        return eqx.apply_updates(model, updates), state, loss

    args = (model, state, batch(), jax.random.key(1))
    fn, plan = planned(train, args, tmp_path, donate_argnames=("model", "state"))
    shardings = plan.in_shardings(plan.mesh())
    given = [placed(tree, where) for tree, where in zip(args, shardings, strict=True)]
    expected = eqx.filter_jit(train)(*args)
    result = fn(*given)
    same(result, expected)
    assert given[0].mlp.layers[1].weight.is_deleted()
    assert not given[2].is_deleted()
    assert result[0].heads == 4


# ---- haliax


def test_haliax_named_arrays(tmp_path: Path) -> None:
    hax, eqx = pytest.importorskip("haliax"), pytest.importorskip("equinox")
    rows, features = hax.Axis("rows", BATCH), hax.Axis("features", WIDTH)
    module: Any = eqx.Module

    class Model(module):  # type: ignore[misc]
        mlp: Any
        dropout: Any

        def __call__(self, x: Any, key: Any) -> Any:
            return self.dropout(self.mlp(x), key=key)

    model = Model(
        hax.nn.MLP.init(features, features, 2 * WIDTH, 1, key=jax.random.key(0)), hax.nn.Dropout(0.1)
    )
    args = (model, hax.named(batch(), (rows, features)), jax.random.key(1))

    def forward(model: Any, x: Any, key: Any) -> Any:
        return model(x, key)

    fn, plan = planned(forward, args, tmp_path)
    layers = [f"model/mlp/layers/{i}/{name}" for i in range(2) for name in ("weight", "bias")]
    assert list(plan.arguments) == [*layers, "x", "key"]
    result = fn(*args)
    assert set(axis.name for axis in result.axes) == {"rows", "features"}
    same(result, eqx.filter_jit(forward)(*args))


# ---- keras


def test_keras_flat_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [keras.layers.Dense(WIDTH, activation="gelu"), keras.layers.Dropout(0.1), keras.layers.Dense(WIDTH)]
    )
    model.build((BATCH, WIDTH))
    lists = [[v.value for v in each] for each in (model.trainable_variables, model.non_trainable_variables)]

    def forward(trainable: Any, other: Any, x: Any) -> Any:
        return model.stateless_call(trainable, other, x, training=True)

    fn, plan = planned(forward, (*lists, batch()), tmp_path)
    assert list(plan.arguments) == [*(f"trainable/{i}" for i in range(4)), "other/0", "x"]
    same(fn(*lists, batch()), jax.jit(forward)(*lists, batch()))
