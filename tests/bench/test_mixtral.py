"""The mixture of experts: two experts a token, places for the first who come, one result in both forms."""

import dataclasses
import functools
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bench import mixtral
from bench.mixtral import MIXTRAL_8X7B, TINY
from examples import llama

FLOAT32 = dataclasses.replace(TINY, dtype="float32", capacity_factor=4.0)


def _random(tree: Any) -> Any:
    numbers = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * numbers.standard_normal(leaf.shape, np.float32), tree)


def _layer(config: mixtral.Config) -> dict[str, Any]:
    return {name: one[0] for name, one in _random(mixtral.abstract_params(config)["layers"]).items()}


def test_it_has_as_many_parameters_as_was_published() -> None:
    sizes = [prod(one.shape) for one in jax.tree.leaves(mixtral.abstract_params(MIXTRAL_8X7B))]
    assert abs(sum(sizes) / 46.7e9 - 1) < 0.005


def test_two_experts_have_a_share_and_the_shares_are_a_softmax() -> None:
    x, router = jnp.eye(1, 4), jnp.array([[1.0, 3.0, 2.0], *[[0.0] * 3] * 3])
    share = mixtral.gates(x, router)[0]
    np.testing.assert_allclose(share, [0.0, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)


def test_an_expert_takes_those_who_come_first() -> None:
    chosen = jnp.array([True, False, True, True])[None, None, :, None]
    taken = mixtral.places(chosen, 2)[0, 0, :, 0]
    np.testing.assert_array_equal(taken, [[1, 0], [0, 0], [0, 1], [0, 0]])
    assert mixtral.capacity(MIXTRAL_8X7B, 512) == 160


def test_dispatching_gives_what_computing_all_experts_gives_while_there_are_places() -> None:
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 16, FLOAT32.d_model)), jnp.float32)
    weights = _layer(FLOAT32)
    assert mixtral.capacity(FLOAT32, FLOAT32.group) == FLOAT32.group
    sent, all_of_them = (f(x, weights, FLOAT32) for f in (mixtral.dispatched, mixtral.every))
    np.testing.assert_allclose(sent, all_of_them, atol=1e-5)
    few = dataclasses.replace(FLOAT32, capacity_factor=0.5)
    assert not np.allclose(mixtral.dispatched(x, weights, few), all_of_them, atol=1e-3)


def test_a_prefill_and_a_step_are_the_longer_prefill() -> None:
    config = dataclasses.replace(FLOAT32, group=1, query_chunk=1)
    params = _random(mixtral.abstract_params(config))
    tokens = np.random.default_rng(2).integers(0, config.vocab, (2, 5)).astype(np.int32)
    run = functools.partial(mixtral.prefill, config=config)
    expected, _ = jax.jit(run)(params, tokens)
    _, cache = jax.jit(run)(params, tokens[:, :4])
    grown = llama.grow(cache, 8)
    found, _ = jax.jit(functools.partial(mixtral.decode, config=config))(
        params, grown, tokens[:, 4], np.int32(4)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_experts_on_eight_devices_give_what_one_device_gives() -> None:
    params = _random(mixtral.abstract_params(FLOAT32))
    tokens = np.random.default_rng(3).integers(0, FLOAT32.vocab, (4, 16)).astype(np.int32)
    run = jax.jit(functools.partial(mixtral.prefill, config=FLOAT32))
    mesh = jax.make_mesh((2, 4), ("b", "x"), axis_types=(AxisType.Auto,) * 2)

    def spec(path: Any, leaf: Any) -> NamedSharding:
        expert = "w_" in jax.tree_util.keystr(path)
        return NamedSharding(mesh, PartitionSpec(None, "x") if expert else PartitionSpec())

    placed = jax.device_put(params, jax.tree_util.tree_map_with_path(spec, params))
    batch = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("b")))
    np.testing.assert_allclose(run(placed, batch)[0], run(params, tokens)[0], atol=1e-4)
