"""Train steps: the traced program, the pins of a sharding, the pricing of a flash kernel, rankings."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest

from autoshard.cost.slices import parse_slice
from bench import fidelity_train, train_models
from bench.fidelity_train import Compared
from bench.fixed_plan import Seconds
from bench.train_models import Config
from bench.train_pins import Parallelism
from bench.train_rows import Planned, Row, Setting, depth_shares, planned, prices, program, read_rows

TINY = Config(layers=2, d_model=128, d_ff=512, heads=4, kv_heads=2, d_head=64, vocab=512)
MICRO = Config(layers=2, d_model=16, d_ff=32, heads=2, kv_heads=1, d_head=8, vocab=32)
SETTING = Setting("v5p:2x2x1", TINY, 8, 256, Parallelism("", "x,y", ""), True)


def _row(seconds: float = 1.0, **changes: Any) -> Row:
    return Row("r", "tiny v5p", replace(SETTING, **changes), "fsdp4", seconds, "")


def _compared(measured: float, predicted: float, family: str = "tiny v5p", **changes: Any) -> Compared:
    row = replace(_row(measured, **changes), family=family)
    step = cast(Planned, SimpleNamespace(row=row))
    return Compared(step, Seconds(predicted, 0.0, 0.0, 0.0))


def test_rows_are_compared_or_left_out_with_a_reason() -> None:
    used, left_out = read_rows()
    assert len({row.name for row in used} | {name for name, _ in left_out}) == len(used) + len(left_out)
    assert all(reason for _, reason in left_out)
    for row in used:
        parallel = row.setting.parallel
        assert parallel.batch or parallel.tensor
        assert row.setting.length % row.config.causal_blocks == 0


def test_steps_lower_the_loss_and_causal_blocks_do_not_change_it() -> None:
    config = replace(MICRO, tied=True, remat="minimal")
    shapes = train_models.abstract_params(config)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [0.05 * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, drawn)
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape), shapes)
    tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, config.vocab)
    jitted = jax.jit(train_models.train_step, static_argnames="config")
    lowered = jitted.lower(params, (zeros, zeros), tokens, tokens, config=config)
    step: Callable[..., Any] = lowered.compile(compiler_options={"xla_backend_optimization_level": "0"})
    before, new, moments = step(params, (zeros, zeros), tokens, tokens)
    after, _, _ = step(new, moments, tokens, tokens)
    assert float(after) < float(before)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, (params, params))
    blocks = train_models.loss(params, tokens, tokens, replace(config, causal_blocks=4))
    assert float(before) == pytest.approx(float(blocks), rel=1e-3)


def test_a_plan_keeps_to_its_sharding_and_a_kernel_is_priced_as_matmuls() -> None:
    flash, dot = program(SETTING), program(replace(SETTING, flash=False))
    assert not dot.kernel.runs and flash.kernel.runs
    assert all("attention_kernel" in run.op.scope for run in flash.kernel.runs)
    assert len(flash.plan.runs) < len(dot.plan.runs)
    assert flash.price().whole < dot.price().whole
    assert flash.price().whole == pytest.approx(flash.plan.price().whole + flash.kernel.price().compute)
    assert any((move.have >= 0).any() and (move.want == -1).all() for move in flash.plan.moves)
    step = planned(_row())
    assert step.price().whole == pytest.approx(flash.price().whole)
    assert prices([step, step])(parse_slice("v5p:2x2x1").chip) == pytest.approx([flash.price().whole] * 2)


def test_tensor_parallelism_gathers_no_weights() -> None:
    found = program(replace(SETTING, parallel=Parallelism("", "", "x,y")))
    weights = {"w_up", "w_gate", "w_down", "wq", "wk", "wv", "wo"}
    sizes = {4 * math.prod(train_models.layer_shapes(TINY)[name]) for name in weights}
    moves = [move for move in found.plan.moves if move.in_loop and move.nbytes in sizes]
    assert not [move for move in moves if (move.have >= 0).any() and (move.want == -1).all()]


def test_prices_of_a_depth_are_on_the_line_of_the_first_and_the_last() -> None:
    assert depth_shares(5, (2, 5, 8)) == {2: 0.5, 8: 0.5}
    assert depth_shares(8, (2, 5, 8)) == {8: 1.0}
    assert depth_shares(5, (2, 5)) == {5: 1.0}


def test_families_rank_and_report_errors() -> None:
    compared = [_compared(1.0, 2.0), _compared(2.0, 1.0), _compared(4.0, 4.0, family="other v5p")]
    table = fidelity_train.families_table(compared)
    assert "tiny v5p   2     0.693" in table
    assert "-1.00" in table
    assert "other v5p  1     0.000" in table


def test_shardings_of_one_model_are_grouped_and_the_fastest_time_counts() -> None:
    data = Parallelism("x,y", "", "")
    compared = [
        _compared(3.0, 3.0),
        _compared(2.0, 3.0),
        _compared(1.0, 5.0, parallel=data),
        _compared(9.0, 9.0, batch=16),
    ]
    (group,) = fidelity_train.shardings(compared)
    assert sorted(each.row.seconds for each in group) == [1.0, 2.0]
    assert fidelity_train.shardings_table(compared).splitlines()[1].endswith("-1.00  100.0%")


def test_noise_is_the_spread_of_equal_settings() -> None:
    table = fidelity_train.noise_table([_row(1.0), _row(1.2), _row(5.0, batch=16)])
    assert len(table.splitlines()) == 2
    assert "20.0%" in table


def test_the_verdict_stands_beside_the_noise() -> None:
    good, bad = [_compared(1.0, 1.1)], [_compared(1.0, 1.3)]
    assert fidelity_train.error_verdict(good).met
    assert not fidelity_train.error_verdict(bad).met
    assert "0.262" in fidelity_train.error_verdict(bad).figure
    sweep = [*[_compared(1.0, 1.0)] * 9, _compared(1.0, 1.6, family="other v5p")]
    assert fidelity_train.error_verdict(sweep).figure == "0.235 over 2 families, 0.047 over 10 rows"
