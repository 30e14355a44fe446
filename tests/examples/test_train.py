"""The train step example: its choices change memory and speed, not what it computes; it can be planned."""

import functools
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.targets import load_object

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # compile time is all


@pytest.fixture(scope="module")
def train() -> ModuleType:
    load_object(f"{EXAMPLES / 'train.py'}:train_step")
    return sys.modules["train"]


@pytest.fixture(scope="module")
def step(train: ModuleType) -> Any:
    """The tiny step in float32."""
    return functools.partial(train.train_step, config=replace(train.llama.TINY, dtype="float32"))


@pytest.fixture(scope="module")
def arrays(train: ModuleType) -> tuple[Any, ...]:
    config = replace(train.llama.TINY, dtype="float32")
    params = train.llama.init_params(config)
    state = jax.tree.map(lambda one: jnp.zeros(one.shape, "float32"), (params, params))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab, (8, 16)), jnp.int32)
    return params, state, tokens, jnp.roll(tokens, -1, axis=1)


@pytest.fixture(scope="module")
def expected(step: Any, arrays: tuple[Any, ...]) -> Any:
    """The loss and the gradients of the whole batch, nothing rematerialised, on one device."""
    return loss_and_gradients(jax.jit(functools.partial(step, remat="none"), compiler_options=QUICK), arrays)


def loss_and_gradients(step: Any, arrays: tuple[Any, ...]) -> Any:
    """From zero moments Adam's first moment is a tenth of the gradient."""
    value, _, (first, _) = step(*arrays)
    return value, jax.tree.map(lambda one: 10 * one, first)


def close(found: Any, expected: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), found, expected)


@pytest.mark.parametrize(("remat", "microbatches"), [("full", 4), ("dots", 1)])
def test_choices_do_not_change_the_gradient(
    remat: str, microbatches: int, step: Any, arrays: tuple[Any, ...], expected: Any
) -> None:
    chosen = functools.partial(step, remat=remat, microbatches=microbatches)
    close(loss_and_gradients(jax.jit(chosen, compiler_options=QUICK), arrays), expected)


def test_the_chosen_plan_computes_the_same_on_eight_devices(
    step: Any, arrays: tuple[Any, ...], expected: Any
) -> None:
    types = jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype), arrays)
    plan = autoshard.tune(
        *(step, *types),
        slice="cpu:8",
        refine="none",
        mesh="native",
        choices={"remat": ("dots",), "microbatches": (2,)},
    )
    assert plan.choices == {"remat": "dots", "microbatches": 2}
    close(loss_and_gradients(autoshard.jit(step, plan=plan), arrays), expected)


def test_a_batch_that_does_not_split_is_refused(step: Any, arrays: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="a batch of 8 does not split into 3 equal microbatches"):
        jax.eval_shape(functools.partial(step, microbatches=3), *arrays)


@pytest.mark.parametrize("name", ["train_tiny", "train_8b"])
def test_targets_trace_and_give_what_they_take(name: str, train: ModuleType) -> None:
    target = getattr(train, name)
    value, params, state = target.eval_shape(*target.inputs())
    assert value.shape == ()
    types = jax.tree.map(lambda one: (one.shape, one.dtype), (params, state))
    assert types == jax.tree.map(lambda one: (one.shape, one.dtype), target.inputs()[:2])
    assert target.choices == {"remat": ("none", "dots", "full"), "microbatches": (1, 2, 4)}
