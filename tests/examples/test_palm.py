"""The PaLM example: published sizes, numerics of prefill, decode and int8, and programs clean to plan."""

import functools
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load_example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


palm = load_example("palm")
FLOAT32 = replace(palm.TINY, dtype="float32", weight_dtype="float32", query_chunk=64)
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0"
}  # these programs run once: compile time is all
TARGETS = {
    "decode_tiny": (palm.TINY, 8, 32),
    "decode_8b": (palm.PALM_8B, 512, 2048),
    "decode_62b": (palm.PALM_62B, 512, 2048),
    "decode_540b": (palm.PALM_540B, 512, 2048),
    "decode_540b_int8": (palm.PALM_540B_INT8, 64, 2048),
    "prefill_tiny": (palm.TINY, 8, 32),
    "prefill_8b": (palm.PALM_8B, 64, 2048),
    "prefill_62b": (palm.PALM_62B, 512, 2048),
    "prefill_540b": (palm.PALM_540B, 512, 2048),
    "prefill_540b_single": (palm.PALM_540B, 1, 2048),
    "prefill_540b_int8_single": (palm.PALM_540B_INT8, 1, 2048),
}


def size(tree: Any) -> int:
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tokens_of(config: Any, batch: int, length: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(0, config.vocab, (batch, length)), jnp.int32)


def inner(equation: Any) -> list[Any]:
    return [
        p.jaxpr if hasattr(p, "jaxpr") else p for p in equation.params.values() if "axpr" in type(p).__name__
    ]


def walk(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation at any depth, with how often it runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        for body in inner(equation):
            yield from walk(body, times * equation.params.get("length", 1))


def dot_flops(jaxpr: Any) -> int:
    total = 0
    for equation, times in walk(jaxpr):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            total += times * 2 * prod(equation.outvars[0].aval.shape) * prod(lhs[d] for d in contracted)
    return total


@functools.cache
def init(dtype: str = "float32") -> Any:
    """FLOAT32's parameters, made once and then converted."""
    if dtype != "float32":
        return jax.tree.map(lambda a: a.astype(dtype), init())
    return jax.jit(palm.init_params, static_argnums=0, compiler_options=QUICK)(FLOAT32, 0)


@functools.cache
def prefill_of(config: Any) -> Any:
    return jax.jit(palm.prefill_target(config, 4, 12)[0], compiler_options=QUICK)


@functools.cache
def decode_of(config: Any) -> Any:
    return jax.jit(palm.decode_target(config, 4, 16)[0], compiler_options=QUICK)


def jaxpr_of(target: tuple[Any, Any]) -> Any:
    function, inputs = target
    return jax.make_jaxpr(function)(*inputs()).jaxpr


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (palm.PALM_8B, 8.63),
        (palm.PALM_62B, 62.50),
        (palm.PALM_540B, 558.17),
        (replace(palm.PALM_540B, heads=48), 540.36),
    ],
)
def test_matrices_count_the_published_parameters(config: Any, billions: float) -> None:
    params = palm.abstract_params(config)
    norms = size((params["final_norm"], params["layers"]["norm"]))
    assert (size(params) - norms) / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_cache_of_540b_has_one_key_and_one_value_head() -> None:
    cache = palm.abstract_cache(palm.PALM_540B, batch=512, context=2048)
    assert size(cache) == 2 * 118 * 512 * 2048 * 256


def test_abstract_params_are_what_init_params_makes() -> None:
    for config in (palm.TINY, FLOAT32, replace(palm.TINY, weight_dtype="int8")):
        made = jax.eval_shape(lambda config=config: palm.init_params(config))
        assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(
            lambda a: (a.shape, a.dtype), palm.abstract_params(config)
        )


def test_rms_norm_by_hand() -> None:
    normed = palm.rms_norm(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(normed, [3 / 12.5**0.5, 2 * 4 / 12.5**0.5], rtol=1e-5)


def test_rotate_by_hand() -> None:
    turned = palm.rotate(jnp.array([[1.0, 2.0]]), jnp.array([[0.0]]), jnp.array([[1.0]]))
    np.testing.assert_allclose(turned, [[-2.0, 1.0]])  # a quarter turn


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_rotated_products_depend_on_distance_only(query: int, key: int, shift: int) -> None:
    def product(query: int, key: int) -> float:
        cos, sin = palm.rope_angles(jnp.array([query, key]), FLOAT32)
        vectors = jnp.asarray(np.random.default_rng(0).normal(size=(2, FLOAT32.d_head)), jnp.float32)
        left, right = palm.rotate(vectors, cos, sin)
        return float(left @ right)

    assert product(query, key) == pytest.approx(product(query + shift, key + shift), abs=2e-3)


def test_attention_by_hand() -> None:
    q = jnp.array([[[[2.0, 0.0]]]])  # one query of one head
    keys = jnp.array([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])  # the third is masked
    values = jnp.array([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    attended = jax.jit(palm.attention)(q, keys, values, palm.causal_mask(jnp.array([1]), 3))
    odds = np.exp(2 / 2**0.5)
    np.testing.assert_allclose(attended[0, 0, 0], [odds / (odds + 1), 1 / (odds + 1)], rtol=1e-5)


def test_a_step_attends_to_the_cache_and_to_itself_by_hand() -> None:
    q = jnp.array([[[[2.0, 0.0]]]])
    cached = {"keys": jnp.array([[[0.0, 1.0], [5.0, 5.0]]]), "values": jnp.array([[[0.0, 1.0], [9.0, 9.0]]])}
    # Of the cache only the first position is written.
    new = {"keys": jnp.array([[[1.0, 0.0]]]), "values": jnp.array([[[1.0, 0.0]]])}
    attended = jax.jit(palm.attention_step)(q, cached, new, jnp.array(1))
    odds = np.exp(2 / 2**0.5)
    np.testing.assert_allclose(attended[0, 0, 0], [odds / (odds + 1), 1 / (odds + 1)], rtol=1e-5)


def test_causal_mask_by_hand() -> None:
    assert palm.causal_mask(jnp.array([0, 2]), 4).tolist() == [
        [0, *[pytest.approx(-1e30)] * 3],
        [0, 0, 0, pytest.approx(-1e30)],
    ]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_decode_goes_on_where_prefill_stopped(dtype: str, tolerance: float) -> None:
    config = replace(FLOAT32, dtype=dtype, weight_dtype=dtype)
    params, tokens = init(dtype), tokens_of(config, 4, 12)
    decode, prefill = decode_of(config), prefill_of(config)
    _, cache = prefill(params, tokens[:, :8])
    cache, steps = palm.grow(cache, 16), []
    for position in range(8, 12):
        logits, cache = decode(params, cache, tokens[:, position], position)
        steps.append(logits)
    expected, _ = prefill(params, tokens)
    assert steps[-1].shape == (4, config.vocab)
    np.testing.assert_allclose(steps[-1], expected, atol=tolerance)


def test_decode_writes_one_position_only() -> None:
    params = init()
    cache = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), palm.abstract_cache(FLOAT32, 4, 16))
    _, after = decode_of(FLOAT32)(params, cache, jnp.arange(4), 5)
    for name in ("keys", "values"):
        changed = np.any(np.asarray(after[name] != 1), axis=(0, 1, 3))
        assert changed.tolist() == [False] * 5 + [True] + [False] * 10


def test_chunks_of_queries_change_nothing() -> None:
    params, tokens = init(), tokens_of(FLOAT32, 4, 12)
    whole, whole_cache = prefill_of(FLOAT32)(params, tokens)
    chunked, cache = prefill_of(replace(FLOAT32, query_chunk=4))(params, tokens)
    np.testing.assert_allclose(chunked, whole, atol=1e-4)
    np.testing.assert_allclose(cache["values"], whole_cache["values"], atol=1e-4)


def test_chunks_bound_the_scores() -> None:
    jaxpr = jaxpr_of(palm.prefill_target(palm.PALM_540B, 1, 8192))
    scores = [e for e, _ in walk(jaxpr) if e.primitive.name == "exp"]
    assert [e.outvars[0].aval.shape for e in scores] == [(1, 128, 64, 8192)]


def test_a_prompt_that_does_not_split_says_what_to_do() -> None:
    config = replace(palm.TINY, query_chunk=8)
    with pytest.raises(
        ValueError, match="17 tokens do not split into 2 equal chunks: pad them to a multiple of 2"
    ):
        jaxpr_of(palm.prefill_target(config, 1, 17))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_quantized_weights_are_half_a_step_off_at_most(seed: int, spread: float) -> None:
    matrix = np.float32(np.random.default_rng(seed).normal(0, spread, (2, 8, 4)))
    quantized = palm.quantize(jnp.asarray(matrix), FLOAT32)
    scale = np.asarray(quantized["scale"])[:, None, :]
    assert quantized["int8"].dtype == jnp.int8
    error = np.abs(np.asarray(quantized["int8"], np.float32) * scale - matrix)
    assert np.all(error <= scale * 0.5001)


def test_int8_is_the_model_with_rounded_weights() -> None:
    config = replace(FLOAT32, weight_dtype="int8")
    quantized, rounded = dict(init()["layers"]), dict(init()["layers"])
    quantize = jax.jit(palm.quantize, static_argnums=1)
    for name in palm.matrix_shapes(config):
        quantized[name] = one = quantize(init()["layers"][name], config)
        rounded[name] = np.asarray(one["int8"], np.float32) * np.asarray(one["scale"])[:, None, :]
    tokens = tokens_of(config, 4, 8)
    logits, _ = prefill_of(config)(init() | {"layers": quantized}, tokens)
    prefill = prefill_of(FLOAT32)
    same, _ = prefill(init() | {"layers": rounded}, tokens)
    unrounded, _ = prefill(init(), tokens)
    np.testing.assert_allclose(logits, same, atol=1e-4)
    assert 0 < np.linalg.norm(logits - unrounded) < 0.05 * np.linalg.norm(unrounded)


@pytest.mark.parametrize("config", [palm.PALM_8B, palm.PALM_62B, palm.PALM_540B, palm.PALM_540B_INT8])
def test_decode_flops_are_two_per_parameter(config: Any) -> None:
    batch, context = 64, 2048
    # Every head scores the cache and the new key (2 flops each) and sums the cached values; the new
    # value is a product.
    attention = 2 * batch * config.layers * config.heads * config.d_head * (2 * context + 1)
    flops = dot_flops(jaxpr_of(palm.decode_target(config, batch, context))) - attention
    matrices = config.vocab * config.d_model + sum(prod(s) for s in palm.matrix_shapes(config).values())
    assert flops == 2 * batch * matrices
    assert matrices == pytest.approx(size(palm.abstract_params(config)), rel=1e-3)


def test_prefill_flops_count_the_embedding_once_per_prompt() -> None:
    config, batch, length = palm.PALM_540B, 512, 2048
    attention = 4 * batch * config.layers * config.heads * config.d_head * length**2
    matrices = sum(prod(s) for s in palm.matrix_shapes(config).values())
    expected = 2 * batch * (length * matrices + config.vocab * config.d_model) + attention
    assert dot_flops(jaxpr_of(palm.prefill_target(config, batch, length))) == expected


@pytest.mark.parametrize("config", [palm.PALM_540B, palm.PALM_540B_INT8])
def test_the_program_is_compact(config: Any) -> None:
    decode = jaxpr_of(palm.decode_target(config, 64, 2048))
    prefill = jaxpr_of(palm.prefill_target(config, 1, 2048))
    for jaxpr in (decode, prefill):
        (layers,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
        assert len(list(walk(layers.params["jaxpr"].jaxpr))) < 120
        names = [e.primitive.name for e, _ in walk(jaxpr)]
        assert names.count("gather") == 1
    names = [e.primitive.name for e, _ in walk(decode)]
    assert (names.count("dynamic_update_slice"), names.count("transpose")) == (2, 0)


def test_a_donated_cache_is_updated_in_place() -> None:
    function, inputs = palm.decode_target(palm.TINY, 8, 32)
    compiled = jax.jit(function, donate_argnames=("cache",)).lower(*inputs()).compile(QUICK)
    cache_bytes = 2 * palm.TINY.layers * 8 * 32 * palm.TINY.d_head * 2
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes == cache_bytes


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_inputs(name: str) -> None:
    config, batch, context = TARGETS[name]
    target = getattr(palm, name)
    logits, cache = target.eval_shape(*target.inputs())
    assert (logits.shape, logits.dtype) == ((batch, config.vocab), jnp.float32)
    assert cache == palm.abstract_cache(config, batch, context)
