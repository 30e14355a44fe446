"""Without a plan: `jax.jit` as it is, and static leaves."""

from typing import Any

import jax
import jax.numpy as jnp

from autoshard.unplanned import Unplanned


def step(model: Any, x: Any, mode: str = "a", *, power: int = 1) -> Any:
    return {**model, "w": model["act"](x * model["w"]) ** power}, mode


def test_static_leaves_go_in_and_come_out() -> None:
    jitted = Unplanned(step, {"static_argnames": ("mode", "power")})
    model = {"w": jnp.full(4, -2.0), "act": jnp.abs}
    (result, mode) = jitted(model, 3.0, "b", power=2)
    assert result["act"] is jnp.abs
    assert mode == "b"
    assert result["w"].tolist() == [36.0] * 4


def test_what_jit_offers() -> None:
    jitted = Unplanned(lambda x, y: x @ y, {"donate_argnums": 0})
    x = jnp.ones((4, 4))
    assert jitted.eval_shape(x, x).shape == (4, 4)
    assert jitted.trace(x, x).jaxpr.out_avals[0].shape == (4, 4)
    assert jitted.lower(x, y=x).compile()(jnp.ones((4, 4)), y=x).shape == (4, 4)
    assert jitted(x, jnp.ones((4, 4))).tolist() == jnp.full((4, 4), 4.0).tolist()
    assert x.is_deleted()


def test_a_callable_object_that_cannot_be_hashed() -> None:
    class Model:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x: Any) -> Any:
            return 2 * x

    assert Unplanned(Model(), {})(21) == 42


def test_it_traces_once_for_equal_static_leaves() -> None:
    traces: list[int] = []

    def count(model: Any) -> Any:
        traces.append(1)
        return jax.tree.map(lambda leaf: leaf, model)

    jitted = Unplanned(count, {})
    for mode in ("a", "a", "b"):
        assert jitted({"w": 1.0, "mode": mode})["mode"] == mode
    assert len(traces) == 2
