"""The plans of both phases on eight CPU devices: weights placed once, the cache handed over as it lies."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.phases.result import JointPlans
from examples import palm

CONFIG = replace(palm.TINY, dtype="float32", weight_dtype="float32")
BATCH, CONTEXT, STEPS = 8, 32, 3

prefill = functools.partial(palm.prefill, config=CONFIG)
decode = functools.partial(palm.decode, config=CONFIG)
step = autoshard.jit(
    decode,
    inputs=functools.partial(palm.decode_inputs, CONFIG, BATCH, CONTEXT),
    donate_argnames=("cache",),
)


@pytest.fixture(scope="module")
def joint() -> JointPlans:
    return autoshard.tune_phases(
        (prefill, palm.prefill_inputs(CONFIG, BATCH, CONTEXT)),
        step,
        share="params",
        handover="cache",
        slice="cpu:8",
        refine="none",
        top_k=1,
    )


def served(
    first: Any, second: Any, params: Any, hand_over: Callable[[Any], Any] = lambda cache: cache
) -> np.ndarray[Any, Any]:
    """The logits after a prompt and some steps of greedy decoding."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab, (BATCH, CONTEXT)), "int32")
    logits, cache = first(params, tokens)
    cache = hand_over(cache)
    for number in range(STEPS):
        last = np.argmax(np.asarray(logits), axis=-1).astype("int32")
        logits, cache = second(params, cache, last, jnp.int32(CONTEXT - STEPS + number))
    return np.asarray(logits)


def test_both_phases_run_on_weights_placed_once(joint: JointPlans) -> None:
    params = palm.init_params(CONFIG)
    expected = served(jax.jit(prefill), jax.jit(decode), params)
    first, second = joint.plans.values()
    mesh = first.mesh()
    placed = jax.device_put(params, first.in_shardings(mesh)[0])
    own = [autoshard.jit(prefill, plan=first), autoshard.jit(decode, plan=second, donate_argnames=("cache",))]
    taken = second.in_shardings(mesh)[1]
    found = served(own[0], own[1], placed, lambda cache: jax.device_put(cache, taken))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_cache_goes_over_as_it_lies_where_nothing_is_to_be_moved(joint: JointPlans) -> None:
    first, second = joint.plans.values()
    mesh = first.mesh()
    params = jax.device_put(palm.init_params(CONFIG), first.in_shardings(mesh)[0])
    _, cache = autoshard.jit(prefill, plan=first)(params, jnp.zeros((BATCH, CONTEXT), "int32"))
    wanted = second.in_shardings(mesh)[1]
    for each in joint.handovers[:2]:
        name = each.argument.rpartition("/")[2]
        alike = cache[name].sharding.is_equivalent_to(wanted[name], cache[name].ndim)
        assert alike == (each.given == each.taken)
