"""Tracing: what is an argument, how it is named, what a fingerprint sees, and what an error says."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

from autoshard.errors import TraceError
from autoshard.graph_building import aliases, build_graph
from autoshard.search.graph import FactorKind, Graph, Tie
from autoshard.trace import Traced, trace

X, W = jax.ShapeDtypeStruct((8, 64), "float32"), jax.ShapeDtypeStruct((64, 64), "float32")


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if line.endswith(text)]
    return f"{Path(__file__).name}:{number}"


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


# ---- arguments


class State(NamedTuple):
    weights: Any
    step: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "values"], meta_fields=["window"])
@dataclasses.dataclass
class Cache:
    keys: Any
    values: Any
    window: int = 4


def test_paths_of_nested_arguments_and_results() -> None:
    def step(state: State, cache: Cache, extra: Any) -> Any:
        return {"state": state, "cache": cache}, extra

    traced = trace(step, (State({"w": [W, X]}, X), Cache(X, X), None))
    assert traced.argument_names == (
        "state/weights/w/0",
        "state/weights/w/1",
        "state/step",
        "cache/keys",
        "cache/values",
    )
    assert traced.result_names == (
        "result/0/cache/keys",
        "result/0/cache/values",
        "result/0/state/weights/w/0",
        "result/0/state/weights/w/1",
        "result/0/state/step",
    )
    assert traced.argument_types["state/weights/w/0"] == "float32[64,64]"
    assert jax.tree.unflatten(traced.in_tree, range(5)) == (
        (State({"w": [0, 1]}, 2), Cache(3, 4), None),
        {},
    )


def test_a_single_result_is_called_result() -> None:
    assert trace(jnp.sin, (X,)).result_names == ("result",)


def test_keyword_arguments_come_after_positional_ones_by_name() -> None:
    def step(a: Any, b: Any, *, d: Any, c: Any) -> Any:
        return a + b + c * d

    traced = trace(step, (X,), {"d": X, "b": X, "c": X})
    assert traced.argument_names == ("a", "b", "c", "d")
    assert len(traced.closed.jaxpr.invars) == 4


def test_arguments_behind_a_star_are_numbered() -> None:
    traced = trace(lambda first, *rest: first + sum(rest), (X, X, X))
    assert traced.argument_names == ("first", "arg1", "arg2")


def test_partials_and_bound_methods_have_the_names_that_are_left() -> None:
    class Model:
        def step(self, params: Any, x: Any, *, scale: float) -> Any:
            return x @ params * scale

    traced = trace(functools.partial(Model().step, scale=2.0), (W, X))
    assert traced.argument_names == ("params", "x")


def test_concrete_arrays_trace_as_their_types() -> None:
    one = trace(lambda x: x @ x, (np.ones((4, 4), np.float32),))
    assert one.fingerprint() == trace(lambda x: x @ x, (f32(4, 4),)).fingerprint()


class Weights:
    """A container that JAX knows without names of its parts."""

    def __init__(self, up: Any, down: Any) -> None:
        self.up, self.down = up, down


jax.tree_util.register_pytree_node(Weights, lambda w: ((w.up, w.down), None), lambda _, w: Weights(*w))


def test_containers_without_names_have_numbers() -> None:
    traced = trace(lambda weights, x: x @ weights.up @ weights.down, (Weights(W, W), X))
    assert traced.argument_names == ("weights/0", "weights/1", "x")


def test_paths_are_the_same_for_arrays_and_for_their_types() -> None:
    def step(state: State, scale: Any, key: Any) -> Any:
        return state.weights["w"][0] * scale + jax.random.normal(key, (64, 64)), state.step

    arrays = (State({"w": [jnp.ones((64, 64))]}, np.int32(0)), 2.0, jax.random.key(0))
    types = jax.eval_shape(lambda *args: args, *arrays)
    first, second = trace(step, arrays), trace(step, types)
    assert first.argument_types == second.argument_types
    assert first.fingerprint() == second.fingerprint()
    assert first.argument_types == {
        "state/weights/w/0": "float32[64,64]",
        "state/step": "int32[]",
        "scale": "float32[]",
        "key": "key<fry>[]",
    }


def test_equal_paths_are_told_apart() -> None:
    traced = trace(lambda p: p["a/b"]["c"] @ p["a"]["b/c"], ({"a": {"b/c": W}, "a/b": {"c": X}},))
    assert traced.argument_names == ("p/a/b/c", "p/a/b/c#2")
    assert list(traced.argument_types.values()) == ["float32[64,64]", "float32[8,64]"]


def test_python_numbers_stay_weak() -> None:
    traced = trace(lambda x, n, f, b: (x * n * f, n + 1, b), (X, 3, 0.5, True))
    assert [(str(a.dtype), a.weak_type) for a in traced.in_avals] == [
        ("float32", False),
        ("int32", True),
        ("float32", True),
        ("bool", False),
    ]
    assert [(str(a.dtype), a.weak_type) for a in traced.out_avals] == [
        ("float32", False),
        ("int32", True),
        ("bool", False),
    ]


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_small_types_keep_their_names(dtype: str) -> None:
    def step(weight: Any, x: Any) -> Any:
        return x @ (weight["values"].astype("float32") * weight["scale"])

    traced = trace(step, ({"values": jax.ShapeDtypeStruct((64, 64), dtype), "scale": f32(64)}, X))
    assert traced.argument_types["weight/values"] == f"{dtype}[64,64]"


# ---- leaves that are no arrays


def test_leaves_that_are_no_arrays_are_static() -> None:
    def step(model: Any, x: Any) -> Any:
        y = model["act"](x @ model["w"]) if model["mode"] == "dense" else x
        return {"y": y, "model": model}

    traced = trace(step, ({"w": W, "act": jnp.tanh, "mode": "dense", "bias": None}, X))
    assert traced.argument_names == ("model/w", "x")
    assert traced.result_names == ("result/model/w", "result/y")
    assert jax.tree.unflatten(traced.in_tree, ["w", "x"]) == (
        ({"w": "w", "act": None, "mode": None, "bias": None}, "x"),
        {},
    )
    rebuilt = traced.result(["w", "y"])
    assert rebuilt == {"y": "y", "model": {"w": "w", "act": jnp.tanh, "mode": "dense", "bias": None}}


def test_a_leaf_that_can_be_neither_array_nor_static_is_named() -> None:
    class Holder:
        pass

    message = r"`params/layers/0/w` is a `.*Holder`: expected an array.*static_argnames"
    with pytest.raises(TraceError, match=message):
        trace(lambda params: 0, ({"layers": [{"w": Holder()}]},))


def test_arguments_that_are_no_pytrees() -> None:
    with pytest.raises(TraceError, match=r"arguments of .* are no pytrees"):
        trace(lambda p: p, ({1: X, "1": X},))


# ---- static and donated arguments


def scaled(x: Any, mode: str, factor: Any, *, power: int = 1) -> Any:
    y = x * factor if mode == "multiply" else x + factor
    return y**power


@pytest.mark.parametrize(
    ("args", "kwargs", "options"),
    [
        ((X, "multiply", X), {"power": 3}, {"static_argnames": ("mode", "power")}),
        ((X, "multiply", X), {"power": 3}, {"static_argnums": 1, "static_argnames": "power"}),
        ((X, "multiply", X), {"power": 3}, {"static_argnums": (-2,), "static_argnames": ["power"]}),
        (
            (X,),
            {"mode": "multiply", "factor": X, "power": 3},
            {"static_argnums": 1, "static_argnames": "power"},
        ),
    ],
)
def test_static_arguments_are_values_not_arrays(
    args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    traced = trace(scaled, args, kwargs, **options)
    assert traced.argument_names == ("x", "factor")
    assert [e.primitive for e in traced.equations.equations][:2] == ["mul", "integer_pow"]


@pytest.mark.parametrize(
    ("args", "kwargs", "options", "donated"),
    [
        ((W, {"k": X, "v": X}), {}, {"donate_argnums": 1}, {"cache/k", "cache/v"}),
        ((W, {"k": X, "v": X}), {}, {"donate_argnums": (-1,)}, {"cache/k", "cache/v"}),
        ((W, {"k": X, "v": X}), {}, {"donate_argnames": "cache"}, {"cache/k", "cache/v"}),
        ((W,), {"cache": {"k": X, "v": X}}, {"donate_argnames": "cache"}, {"cache/k", "cache/v"}),
        # as in jax.jit, a number is the parameter, however it is passed
        ((W,), {"cache": {"k": X, "v": X}}, {"donate_argnums": 1}, {"cache/k", "cache/v"}),
        ((), {"params": W, "cache": {"k": X, "v": X}}, {"donate_argnums": (1,)}, {"cache/k", "cache/v"}),
        ((W, {"k": X, "v": X}), {}, {"donate_argnums": (0, 1)}, {"params", "cache/k", "cache/v"}),
        ((W, {"k": X, "v": X}), {}, {}, set()),
    ],
)
def test_donated_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any], donated: set[str]
) -> None:
    def step(params: Any, cache: Any) -> Any:
        return jax.tree.map(lambda x: x @ params, cache)

    traced = trace(step, args, kwargs, **options)
    assert traced.donated_names == donated
    positions = {i for i, name in enumerate(traced.argument_names) if name in donated}
    assert set(traced.donated) == positions


def test_other_options_of_jit_are_passed_over() -> None:
    traced = trace(jnp.sin, (X,), keep_unused=True, inline=True, donate_argnums=None)
    assert traced.donated == ()


# ---- aliases


def step_with_cache(params: Any, cache: Any, x: Any) -> Any:
    return x @ params, {name: one + x for name, one in cache.items()}


def test_donated_buffers_pair_with_results_of_their_type_in_order() -> None:
    traced = trace(step_with_cache, (W, {"k": X, "v": X}, X), donate_argnames=("cache",))
    assert traced.argument_names == ("params", "cache/k", "cache/v", "x")
    assert traced.result_names == ("result/0", "result/1/k", "result/1/v")
    # result/0 is of the same type and comes first: JAX takes it for the first donated buffer
    assert aliases(traced) == ((1, 0), (2, 1))
    cache = {"k": f32(16, 8), "v": f32(16, 4)}
    traced = trace(
        lambda cache, x: (x, {"v": cache["v"] * 2, "k": cache["k"] * 2}), (cache, X), donate_argnums=0
    )
    assert aliases(traced) == ((0, 1), (1, 2))


def test_aliased_arguments_and_results_are_stored_alike() -> None:
    traced = trace(lambda cache, x: (x @ x.T, cache * 2), (W, X), donate_argnums=0)
    graph = build_graph(traced)
    argument, result = graph.arguments[0], graph.results[1]
    assert Tie(argument, result, (0, 1)) in graph.ties
    assert graph.donated == (0,)
    assert graph.aliases == ((0, 1),)


def test_a_donated_buffer_without_a_result_of_its_type_has_no_alias() -> None:
    traced = trace(lambda x: x.T, (f32(4, 8),), donate_argnums=0)
    assert aliases(traced) == ()


# ---- fingerprints


def model(params: Any, x: Any, *, layers: int = 2) -> Any:
    def layer(x: Any, _: Any) -> Any:
        return jnp.tanh(jnp.einsum("be,ef->bf", x, params["w"])), None

    return lax.scan(layer, x, None, length=layers)[0]


def fingerprint(fn: Callable[..., Any], *args: Any, **options: Any) -> str:
    return trace(fn, args, **options).fingerprint()


def test_a_fingerprint_is_a_function_of_the_program() -> None:
    first = fingerprint(model, {"w": W}, X)
    assert first == fingerprint(model, {"w": W}, X)
    assert first == fingerprint(lambda params, x: model(params, x), {"w": W}, X)
    assert first.startswith("sha256:")


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (model, ({"w": W}, f32(16, 64))),
        (model, ({"w": jax.ShapeDtypeStruct((64, 64), "bfloat16")}, X)),
        (functools.partial(model, layers=3), ({"w": W}, X)),
        (lambda params, x: model(params, x) @ params["w"], ({"w": W}, X)),
        (lambda params, y: model(params, y), ({"w": W}, X)),
        (lambda params, x: (model(params, x),), ({"w": W}, X)),
    ],
    ids=["batch", "dtype", "loop length", "another einsum", "argument name", "result structure"],
)
def test_another_program_has_another_fingerprint(fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert fingerprint(fn, *args) != fingerprint(model, {"w": W}, X)


# ---- errors


def test_control_flow_on_values_names_the_cause_and_the_line() -> None:
    def broken(x: Any) -> Any:
        def inner(y: Any) -> Any:
            if y.sum() > 0:  # the branch on a value
                return y
            return -y

        return inner(x * 2)

    with pytest.raises(TraceError) as caught:
        trace(broken, (X,))
    message = str(caught.value)
    assert line_of("# the branch on a " + "value") in message
    assert "broken" in message
    assert "boolean" in message
    assert "jax.lax.cond" in message
    assert "static_argnames" in message


def test_a_wrong_shape_names_the_line_even_inside_a_scan() -> None:
    def broken(x: Any, w: Any) -> Any:
        def layer(x: Any, _: Any) -> Any:
            return x @ w, None  # the shapes do not fit

        return lax.scan(layer, x, None, length=2)[0]

    with pytest.raises(TraceError, match="cannot be traced on the given inputs") as caught:
        trace(broken, (X, f32(32, 32)))
    assert line_of("# the shapes do " + "not fit") in str(caught.value)


def test_an_error_in_a_library_names_the_users_line() -> None:
    def broken(x: Any) -> Any:
        return jnp.einsum("be,ef->bf", x, {"w": x})  # the einsum of a dict

    with pytest.raises(TraceError) as caught:
        trace(broken, (X,))
    assert line_of("# the einsum of a " + "dict") in str(caught.value)


class OwnError(Exception):
    """An exception of the user's own."""


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("0"),
        RuntimeError("wrong"),
        NotImplementedError(),
        OwnError("own"),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_of_the_function_names_its_line(error: Exception) -> None:
    def broken(x: Any) -> Any:
        if x.shape:
            raise error  # whatever it is
        return x

    with pytest.raises(TraceError) as caught:
        trace(broken, (X,))
    message = str(caught.value)
    assert line_of("# whatever it " + "is") in message
    assert f"{type(error).__name__}: {error}" in message
    assert "jax.eval_shape" in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_error_of_the_function(stop: type[BaseException]) -> None:
    def stopped(x: Any) -> Any:
        raise stop

    with pytest.raises(stop):
        trace(stopped, (X,))


@pytest.mark.parametrize(
    "look",
    [
        lambda x: np.asarray(x),
        lambda x: x[x > 0],
        lambda x: [1, 2, 3][x.sum().astype(int)],
        lambda x: float(x.sum()),
        lambda x: jnp.arange(x.sum().astype(int)),
    ],
    ids=["numpy", "mask", "index", "float", "size"],
)
def test_looking_at_a_value_says_what_to_use_instead(look: Callable[[Any], Any]) -> None:
    with pytest.raises(TraceError, match=r"at .*test_trace.py:\d+(.|\n)*jax.lax.cond"):
        trace(look, (X,))


def test_values_that_python_computes_are_refused_at_their_line() -> None:
    def loss(x: Any) -> Any:
        def layer(x: Any, _: Any) -> Any:
            return jax.pure_callback(np.sin, X, x), None  # python in a loop

        return lax.scan(layer, x, None, length=2)[0]

    with pytest.raises(TraceError) as caught:
        trace(loss, (X,))
    message = str(caught.value)
    assert line_of("# python in a " + "loop") in message
    assert "pure_callback" in message
    assert "jax.debug.print" in message
    with pytest.raises(TraceError, match="io_callback"):
        trace(lambda x: io_callback(np.sin, X, x), (X,))


def test_printing_is_kept() -> None:
    def step(x: Any) -> Any:
        jax.debug.print("{}", x)
        return x @ x.T

    traced = trace(step, (X,))
    assert [e.primitive.name for e in traced.closed.jaxpr.eqns if e.effects] == ["debug_print"]


def test_too_few_arguments() -> None:
    with pytest.raises(TraceError, match="missing 1 required positional argument"):
        trace(lambda x, y: x + y, (X,))


# ---- the graph


def graph_of(fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[Traced, Graph]:
    traced = trace(fn, args, **options)
    return traced, build_graph(traced)


def test_factors_of_an_einsum_have_its_letters() -> None:
    _, graph = graph_of(lambda x, w: jnp.einsum("be,ef->bf", x, w), X, W)
    (op,) = graph.einsums
    assert [(f.letter, f.size, f.kind) for f in op.factors] == [
        ("b", 8, FactorKind.PARALLEL),
        ("e", 64, FactorKind.REDUCTION),
        ("f", 64, FactorKind.PARALLEL),
    ]
    assert (op.operand_dims, op.result_dims) == ((((0,), (1,)), ((1,), (2,))), (((0,), (2,)),))


def test_sums_meet_in_an_add_before_they_are_reduced() -> None:
    """The gain of parallel blocks: one reduction for both branches. Other ops have it reduced first."""

    def block(x: Any, w: Any) -> Any:
        h = jnp.tanh(x)
        both = (h @ w + (h @ w).T.T).reshape(8, 8, 8)
        return both, jnp.tanh(h @ w), h @ w + h, (h @ w) * 2.0, h @ w + 1.0

    _, graph = graph_of(block, X, W)
    linear = {op.name: op.linear for op in graph.ops if op.linear}
    assert linear == {"transpose": (0,), "transpose#2": (0,), "add": (0, 1), "reshape": (0,)}
    partial = [op.primitive for op in graph.ops if graph.values[op.results[0]].partial]
    sums = ["dot_general", "dot_general", "transpose", "transpose", "add", "reshape"]
    assert partial == [*sums, *["dot_general"] * 4]


def test_the_vocabulary_of_an_embedding_is_a_sum() -> None:
    _, graph = graph_of(
        lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
        f32(256, 64),
        jax.ShapeDtypeStruct((8,), "int32"),
    )
    (gather,) = [op for op in graph.ops if op.primitive == "gather"]
    assert gather.factors[gather.operand_dims[0][0][0]].kind is FactorKind.REDUCTION
    assert graph.values[gather.results[0]].partial


def test_hand_overs_keep_every_dim() -> None:
    _, graph = graph_of(lambda x: jnp.tanh(x), f32(8, 1, 4))
    result = graph.ops[-1]
    assert result.operand_dims == result.result_dims == (((0,), (), (1,)),)
    assert [factor.size for factor in result.factors] == [8, 4]


def test_the_graph_counts_work_with_trips() -> None:
    _, graph = graph_of(functools.partial(model, layers=5), {"w": W}, X)
    assert graph.flops == 5 * 2 * 8 * 64 * 64
    assert [op.name for op in graph.einsums] == ["w"]
    assert graph.equations == 3  # scan, dot_general, tanh


def test_an_unruled_op_is_replicated_not_skipped() -> None:
    def foreign(x: Any) -> Any:
        return jax.ffi.ffi_call("foreign", X)(x) + x

    _, graph = graph_of(foreign, X)
    (op,) = [op for op in graph.ops if op.primitive == "ffi_call"]
    assert not op.ruled
    assert {factor.kind for factor in op.factors} == {FactorKind.REPLICATED}
    assert all(op.ruled for op in graph.ops if op.primitive == "add")
