"""The Llama 3 example: published sizes, numerics, scanned and written-out layers, programs clean to plan."""

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


def load_example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


llama = load_example("llama")
FLOAT32 = replace(llama.TINY, dtype="float32", query_chunk=64)
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0"
}  # these programs run once: compile time is all
TARGETS = {
    "decode_tiny": (llama.TINY, 8, 32),
    "decode_8b": (llama.LLAMA3_8B, 32, 4096),
    "decode_8b_unrolled": (llama.LLAMA3_8B_UNROLLED, 32, 4096),
    "decode_70b": (llama.LLAMA3_70B, 32, 4096),
    "prefill_tiny": (llama.TINY, 8, 32),
    "prefill_8b": (llama.LLAMA3_8B, 8, 4096),
    "prefill_70b": (llama.LLAMA3_70B, 8, 4096),
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
def init(scan_layers: bool = True) -> Any:
    config = replace(FLOAT32, scan_layers=scan_layers)
    return jax.jit(llama.init_params, static_argnums=0, compiler_options=QUICK)(config, 0)


@functools.cache
def prefill_of(config: Any) -> Any:
    return jax.jit(llama.prefill_target(config, 4, 12)[0], compiler_options=QUICK)


@functools.cache
def decode_of(config: Any) -> Any:
    return jax.jit(llama.decode_target(config, 4, 16)[0], compiler_options=QUICK)


def jaxpr_of(target: tuple[Any, Any]) -> Any:
    function, inputs = target
    return jax.make_jaxpr(function)(*inputs()).jaxpr


@pytest.mark.parametrize(
    ("config", "billions"),
    [(llama.LLAMA3_8B, 8.03), (llama.LLAMA3_8B_UNROLLED, 8.03), (llama.LLAMA3_70B, 70.55)],
)
def test_parameter_counts_are_the_published_ones(config: Any, billions: float) -> None:
    assert size(llama.abstract_params(config)) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("config", [llama.LLAMA3_8B, llama.LLAMA3_8B_UNROLLED])
def test_a_token_of_8b_caches_128_kib(config: Any) -> None:
    # 2 (key, value) x 32 layers x 8 heads x 128 x 2 bytes
    assert size(llama.abstract_cache(config, 1, 1)) * 2 == 128 * 1024


@pytest.mark.parametrize("scan_layers", [True, False])
def test_abstract_params_are_what_init_params_makes(scan_layers: bool) -> None:
    config = replace(llama.TINY, scan_layers=scan_layers)
    made = jax.eval_shape(lambda: llama.init_params(config))
    assert made == llama.abstract_params(config)


def test_attention_by_hand() -> None:
    q = jnp.array([2.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 2, 2)  # one query, one group of two heads
    keys = jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]).reshape(1, 1, 3, 2)  # the third is masked
    values = jnp.array([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]).reshape(1, 1, 3, 2)
    attended = jax.jit(llama.attention)(q, keys, values, llama.causal_mask(jnp.array([1]), 3))
    odds = np.exp(2 / 2**0.5)
    likes, other = odds / (odds + 1), 1 / (odds + 1)
    np.testing.assert_allclose(attended[0, 0, 0], [[likes, other], [other, likes]], rtol=1e-5)


def test_a_step_attends_to_the_cache_and_to_itself_by_hand() -> None:
    q = jnp.array([2.0, 0.0]).reshape(1, 1, 1, 1, 2)
    cached = {"keys": jnp.array([[0.0, 1.0], [5.0, 5.0]]), "values": jnp.array([[0.0, 1.0], [9.0, 9.0]])}
    cached = {name: one.reshape(1, 1, 2, 2) for name, one in cached.items()}  # the second is not written yet
    new = {name: jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2) for name in cached}
    attended = jax.jit(llama.attention_step)(q, cached, new, jnp.array(1))
    odds = np.exp(2 / 2**0.5)
    np.testing.assert_allclose(attended[0, 0, 0, 0], [odds / (odds + 1), 1 / (odds + 1)], rtol=1e-5)


def test_query_heads_of_a_group_share_their_own_key_value_head() -> None:
    q = jnp.zeros((1, 1, 2, 3, 4))
    keys, values = jnp.zeros((1, 2, 5, 4)), jnp.arange(2.0)[None, :, None, None] * jnp.ones((1, 2, 5, 4))
    attended = jax.jit(llama.attention)(q, keys, values, jnp.zeros((1, 5)))
    np.testing.assert_allclose(attended[0, 0, :, :, 0], [[0, 0, 0], [1, 1, 1]])


def test_decode_goes_on_where_prefill_stopped() -> None:
    params, tokens = init(), tokens_of(FLOAT32, 4, 12)
    decode, prefill = decode_of(FLOAT32), prefill_of(FLOAT32)
    _, cache = prefill(params, tokens[:, :8])
    cache, steps = llama.grow(cache, 16), []
    for position in range(8, 12):
        logits, cache = decode(params, cache, tokens[:, position], position)
        steps.append(logits)
    expected, _ = prefill(params, tokens)
    assert steps[-1].shape == (4, FLOAT32.vocab)
    np.testing.assert_allclose(steps[-1], expected, atol=1e-4)


def test_scanned_layers_are_the_written_out_ones() -> None:
    written_out = replace(FLOAT32, scan_layers=False)
    tokens = tokens_of(FLOAT32, 4, 12)
    scanned, stacked = prefill_of(FLOAT32)(init(), tokens)
    unrolled, each = prefill_of(written_out)(init(scan_layers=False), tokens)
    np.testing.assert_allclose(scanned, unrolled, atol=1e-4)
    for name in ("keys", "values"):
        np.testing.assert_allclose(stacked[name], [layer[name] for layer in each], atol=1e-4)
    stacked, each = llama.grow(stacked, 16), llama.grow(each, 16)
    scanned, stacked = decode_of(FLOAT32)(init(), stacked, tokens[:, 0], 12)
    unrolled, each = decode_of(written_out)(init(scan_layers=False), each, tokens[:, 0], 12)
    np.testing.assert_allclose(scanned, unrolled, atol=1e-4)
    for name in ("keys", "values"):
        np.testing.assert_allclose(stacked[name], [layer[name] for layer in each], atol=1e-4)


def test_decode_writes_one_position_only() -> None:
    cache = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), llama.abstract_cache(FLOAT32, 4, 16))
    _, after = decode_of(FLOAT32)(init(), cache, jnp.arange(4), 5)
    for name in ("keys", "values"):
        changed = np.any(np.asarray(after[name] != 1), axis=(0, 1, 2, 4))
        assert changed.tolist() == [False] * 5 + [True] + [False] * 10


def test_chunks_of_queries_change_nothing() -> None:
    params, tokens = init(), tokens_of(FLOAT32, 4, 12)
    whole, whole_cache = prefill_of(FLOAT32)(params, tokens)
    chunked, cache = prefill_of(replace(FLOAT32, query_chunk=4))(params, tokens)
    np.testing.assert_allclose(chunked, whole, atol=1e-4)
    np.testing.assert_allclose(cache["values"], whole_cache["values"], atol=1e-4)


def test_chunks_bound_the_scores() -> None:
    jaxpr = jaxpr_of(llama.prefill_target(llama.LLAMA3_8B, 1, 8192))
    scores = [e for e, _ in walk(jaxpr) if e.primitive.name == "exp"]
    assert [e.outvars[0].aval.shape for e in scores] == [(1, 8, 128, 4, 8192)]


def test_a_prompt_that_does_not_split_says_what_to_do() -> None:
    with pytest.raises(
        ValueError, match="17 tokens do not split into 2 equal chunks: pad them to a multiple of 2"
    ):
        jaxpr_of(llama.prefill_target(replace(llama.TINY, query_chunk=8), 1, 17))


@pytest.mark.parametrize("config", [llama.LLAMA3_8B, llama.LLAMA3_8B_UNROLLED, llama.LLAMA3_70B])
def test_decode_flops_are_two_per_parameter(config: Any) -> None:
    batch, context = 32, 4096
    # Every head scores the cache and the new key (2 flops each) and sums the cached values; the new
    # value is a product.
    attention = 2 * batch * config.layers * config.heads * config.d_head * (2 * context + 1)
    flops = dot_flops(jaxpr_of(llama.decode_target(config, batch, context))) - attention
    layer = sum(prod(shape) for shape in llama.layer_shapes(config).values() if len(shape) == 2)
    assert flops == 2 * batch * (config.layers * layer + config.vocab * config.d_model)
    used = (
        size(llama.abstract_params(config)) - config.vocab * config.d_model
    )  # the input embedding is looked up
    assert flops == pytest.approx(2 * batch * used, rel=1e-3)


def test_the_program_is_compact() -> None:
    decode = jaxpr_of(llama.decode_target(llama.LLAMA3_70B, 32, 4096))
    prefill = jaxpr_of(llama.prefill_target(llama.LLAMA3_70B, 8, 4096))
    for jaxpr in (decode, prefill):
        (layers,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
        assert len(list(walk(layers.params["jaxpr"].jaxpr))) < 120
        assert [e.primitive.name for e, _ in walk(jaxpr)].count("gather") == 1
    names = [e.primitive.name for e, _ in walk(decode)]
    assert names.count("dynamic_update_slice") == 2


def test_written_out_layers_are_not_scanned() -> None:
    jaxpr = jaxpr_of(llama.decode_target(llama.LLAMA3_8B_UNROLLED, 32, 4096))
    names = [e.primitive.name for e, _ in walk(jaxpr)]
    assert (names.count("scan"), names.count("dynamic_update_slice")) == (0, 2 * 32)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_donated_cache_is_updated_in_place(scan_layers: bool) -> None:
    config = replace(llama.TINY, scan_layers=scan_layers)
    function, inputs = llama.decode_target(config, 8, 32)
    compiled = jax.jit(function, donate_argnames=("cache",)).lower(*inputs()).compile(QUICK)
    cache_bytes = 2 * config.layers * 8 * 32 * config.kv_heads * config.d_head * 2
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes == cache_bytes


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_inputs(name: str) -> None:
    config, batch, context = TARGETS[name]
    target = getattr(llama, name)
    logits, cache = target.eval_shape(*target.inputs())
    assert (logits.shape, logits.dtype) == ((batch, config.vocab), jnp.float32)
    assert cache == llama.abstract_cache(config, batch, context)
