"""The multihead variant of PaLM is the multiquery model when all its key-value heads are the same."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from bench import palm_multihead
from examples import palm

CONFIG = dataclasses.replace(palm.TINY, heads=4, dtype="float32", weight_dtype="float32")


def _random(tree: Any) -> Any:
    numbers = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * numbers.standard_normal(leaf.shape, np.float32), tree)


def test_equal_heads_are_multiquery_attention() -> None:
    params = _random(palm.abstract_params(CONFIG))
    cache = _random(palm.abstract_cache(CONFIG, batch=2, context=8))
    rest = (np.array([3, 5], np.int32), np.int32(6))
    logits, written = jax.jit(functools.partial(palm.decode, config=CONFIG))(params, cache, *rest)

    wide = {name: np.tile(params["layers"][name], (1, 1, CONFIG.heads)) for name in ("wk", "wv")}
    many_params = {**params, "layers": {**params["layers"], **wide}}
    many_cache = jax.tree.map(lambda one: np.repeat(one[:, :, None], CONFIG.heads, 2), cache)
    step = jax.jit(functools.partial(palm_multihead.decode, config=CONFIG))
    found, found_cache = step(many_params, many_cache, *rest)

    np.testing.assert_allclose(found, logits, atol=1e-5)
    for name, one in written.items():
        for head in range(CONFIG.heads):
            np.testing.assert_allclose(found_cache[name][:, :, head], one, atol=1e-5)


def test_attention_has_as_many_parameters_as_the_multiquery_model() -> None:
    def attention(config: palm.Config, abstract: palm.Params) -> int:
        return sum(abstract["layers"][name].size for name in ("wq", "wk", "wv", "wo"))

    one = attention(palm.PALM_540B, palm.abstract_params(palm.PALM_540B))
    config = palm_multihead.PALM_540B_MULTIHEAD
    many = attention(config, palm_multihead.abstract_params(config))
    assert abs(many / one - 1) < 0.02  # the single key and value head of the multiquery model
