"""Which einsums should be one: found by what they read, priced, and said only where it pays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax import ShapeDtypeStruct

import autoshard
from autoshard.cost.slices import parse_slice
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.fusion_hints import WORTH_SHARE, fusion_hints
from autoshard.fusion_times import with_fusion_times
from autoshard.marks import marked_key
from autoshard.plan import Plan
from autoshard.topology import libtpu_available
from autoshard.trace import trace

SLICE = "v5e:2x2"
LAYERS, BATCH, EMBED, FFN = 8, 64, 1024, 2048
KERNEL_SECONDS = parse_slice(SLICE).chip.kernel_seconds

Params = dict[str, jax.Array]


def normalized(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)


def separate(params: Params, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        read = normalized(x)
        gate = jnp.einsum("be,ef->bf", read, weights["gate"])
        up = jnp.einsum("be,ef->bf", read, weights["up"])
        return x + jnp.einsum("bf,fe->be", jax.nn.silu(gate) * up, weights["down"]), None

    return jax.lax.scan(layer, x, params)[0]


def fused(params: Params, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        both = jnp.einsum("be,ecf->bcf", normalized(x), weights["both"])
        hidden = jax.nn.silu(both[:, 0]) * both[:, 1]
        return x + jnp.einsum("bf,fe->be", hidden, weights["down"]), None

    return jax.lax.scan(layer, x, params)[0]


def bf16(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, "bfloat16")


def weights(embed: int = EMBED, ffn: int = FFN) -> dict[str, ShapeDtypeStruct]:
    up, down = bf16(LAYERS, embed, ffn), bf16(LAYERS, ffn, embed)
    return {"gate": up, "up": up, "down": down}


def tuned(fn: Any, *args: Any, **options: Any) -> Plan:
    return autoshard.tune(fn, *args, slice=SLICE, mesh="native", top_k=1, **{"refine": "none", **options})


def tuned_separate(**options: Any) -> Plan:
    return tuned(separate, weights(), bf16(BATCH, EMBED), **options)


def tuned_fused(**options: Any) -> Plan:
    both = {"both": bf16(LAYERS, EMBED, 2, FFN), "down": bf16(LAYERS, FFN, EMBED)}
    return tuned(fused, both, bf16(BATCH, EMBED), **options)


def test_the_einsums_of_one_activation_are_named_with_their_lines() -> None:
    plan = tuned_separate()
    (hint,) = fusion_hints(plan)
    assert hint.einsums == ("gate", "up")
    assert hint.sources == tuple(record.source for record in plan.einsums[:2])
    assert hint.tier == "predicted"
    text = to_text(explain(plan))
    assert f"\nhint: gate, up ({', '.join(hint.sources)}) all read {hint.reads}: " in text
    assert "by the model" in text


def test_one_kernel_start_a_layer_is_saved() -> None:
    """Weights bound both einsums, so one of them takes as long as both, but for a start and a read."""
    (fusion,) = tuned_separate().fusions
    saved = fusion.seconds - fusion.fused_seconds
    chip = parse_slice(SLICE).chip
    bandwidth = chip.hbm_bytes_per_second * chip.hbm_streaming_fraction * chip.on_chip_bandwidth_ratio
    read_seconds = 2 * BATCH * EMBED / bandwidth
    assert saved == pytest.approx(LAYERS * (KERNEL_SECONDS + read_seconds), rel=1e-3)


def test_the_fused_model_is_faster_and_has_no_hint() -> None:
    separately, together = tuned_separate(), tuned_fused()
    assert together.predicted_seconds < separately.predicted_seconds
    assert together.fusions == ()
    assert "hint:" not in to_text(explain(together))


def test_what_saves_less_than_the_threshold_is_kept_but_not_said() -> None:
    plan = tuned(separate, weights(4 * EMBED, 16 * FFN), bf16(BATCH, 4 * EMBED))
    (fusion,) = plan.fusions
    assert 0 < fusion.seconds - fusion.fused_seconds < WORTH_SHARE * plan.predicted_seconds
    assert fusion_hints(plan) == ()


def test_einsums_of_different_activations_stay_apart() -> None:
    def two(x: jax.Array, y: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.concatenate([x @ a, y @ b])

    assert tuned(two, bf16(64, 256), bf16(64, 256), bf16(256, 128), bf16(256, 128)).fusions == ()


def test_sums_over_different_dims_stay_apart() -> None:
    def two(x: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.einsum("be,ef->bf", x, a), jnp.einsum("be,bf->ef", x, b)

    assert tuned(two, bf16(64, 256), bf16(256, 128), bf16(64, 128)).fusions == ()


def test_fusions_are_in_the_file_and_come_back() -> None:
    from autoshard.plan_file import format_record, parse_record

    plan = tuned_separate()
    assert parse_record(format_record(plan), Plan, source="test") == plan
    assert '"fusions"' not in format_record(msgspec.structs.replace(plan, fusions=()))


def compiled_with(plan: Plan, gate: float, up: float) -> Plan:
    """The plan with matrix times of `gate` and `up` microseconds for each kind of the einsums."""
    traced = trace(separate, (weights(), bf16(BATCH, EMBED)))
    marks = {each.name: marked_key(each.path) for each in traced.equations.equations}
    return with_fusion_times(plan, traced.equations, {marks["gate"]: gate * 1e-6, marks["up"]: up * 1e-6})


def test_a_schedule_that_starts_no_kernel_saves_nothing() -> None:
    plan = tuned_separate()
    busy = 1e6 * LAYERS * plan.einsums[0].hbm_seconds
    (fusion,) = compiled_with(plan, busy, busy).fusions
    assert fusion.estimated_seconds == fusion.estimated_fused_seconds == pytest.approx(2e-6 * busy)


def test_a_schedule_saves_what_it_starts_but_no_more_than_a_kernel_start() -> None:
    plan = tuned_separate()
    busy = 1e6 * LAYERS * plan.einsums[0].hbm_seconds
    (fusion,) = compiled_with(plan, busy + 3, busy + 5).fusions  # one start of 5 us is left
    assert fusion.estimated_fused_seconds == pytest.approx(2e-6 * busy + 5e-6)
    (slow,) = compiled_with(plan, 2 * busy + 100, 2 * busy + 100).fusions
    assert slow.estimated_seconds == pytest.approx(2e-6 * (2 * busy + 100))
    saved = (slow.estimated_seconds or 0) - (slow.estimated_fused_seconds or 0)
    assert saved == pytest.approx(LAYERS * KERNEL_SECONDS, rel=1e-4)


def test_without_times_of_the_schedule_the_model_is_asked() -> None:
    (fusion,) = compiled_with(tuned_separate(), 0, 0).fusions
    assert fusion.estimated_seconds is None


@pytest.mark.skipif(not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu")
def test_the_compiler_agrees_that_the_fused_model_is_faster() -> None:
    separately, together = tuned_separate(refine="compile"), tuned_fused(refine="compile")
    (hint,) = fusion_hints(separately)
    assert hint.tier == "estimated"
    assert 0 < hint.fused_seconds < hint.seconds < (separately.estimated_seconds or 0)
    assert (together.estimated_seconds or 0) < (separately.estimated_seconds or 0)
    assert "by the compiler's schedule" in to_text(explain(separately))
