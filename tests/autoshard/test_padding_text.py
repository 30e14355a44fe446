"""What is padded, in plans and in words, and the numbers that come out: eight devices, odd sizes."""

from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.errors import OptionError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.padding_text import padding_text
from autoshard.plan import Plan
from autoshard.plan_records import PaddingRecord
from autoshard.specs import parse_spec, parse_type
from tests.assets.odd_sizes import forward, inputs

HEADS = PaddingRecord(dim="h", size=25, padded=28, axes="y")
WORDS = PaddingRecord(dim="v", size=50257, padded=50264, axes="x,y")


def test_what_is_padded_in_words() -> None:
    assert padding_text([HEADS]) == "h 25 -> 28 over y: 12% more work"
    both = padding_text([HEADS, WORDS])
    assert both == "h 25 -> 28 over y, v 50257 -> 50264 over x,y: 12% more work"


@cache
def tuned(padding: str) -> Plan:
    return autoshard.tune(forward, *inputs(), slice="cpu:8", refine="none", top_k=1, padding=padding)


def paddings(plan: Plan) -> list[PaddingRecord]:
    einsums = [each for record in plan.einsums for each in record.padding]
    return [*einsums, *(each for record in plan.tensors for each in record.padding)]


def arrays() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def one(aval: Any) -> jax.Array:
        if jnp.issubdtype(aval.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=aval.shape) / 8, aval.dtype)
        return jnp.asarray(rng.integers(0, 16, aval.shape), aval.dtype)

    return tuple(jax.tree.map(one, each) for each in inputs())


def same(left: Any, right: Any) -> None:
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, left, right)


def test_padding_is_not_offered_where_it_is_forbidden() -> None:
    assert not paddings(tuned("never"))
    assert (tuned("never").padding, tuned("allow").padding) == ("never", None)
    with pytest.raises(OptionError, match="`padding` is `sometimes`, expected one of `allow`, `never`"):
        tuned("sometimes")


def test_a_padded_plan_says_what_it_pads_and_is_faster_by_the_model() -> None:
    plan = tuned("allow")
    sizes = {axis.name: axis.size for axis in plan.mesh_axes}
    assert paddings(plan)
    for each in paddings(plan):
        chips = prod(sizes[axis] for axis in each.axes.split(","))
        assert each.size % chips
        assert each.padded == -(-each.size // chips) * chips
    assert plan.predicted_seconds < tuned("never").predicted_seconds


def test_arguments_and_results_of_a_padded_plan_divide() -> None:
    plan = tuned("allow")
    sizes = {axis.name: axis.size for axis in plan.mesh_axes}
    arguments = [(record.type, record.spec) for record in plan.arguments.values()]
    results = [(record.type, record.spec) for record in plan.results.values()]
    for kind, text in (*arguments, *results):
        _, shape = parse_type(kind)
        spec = parse_spec(text, len(shape))
        assert all(size % prod(sizes[a] for a in axes) == 0 for size, axes in zip(shape, spec, strict=True))


def test_a_padded_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    tuned("allow").save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert autoshard.load_plan(tmp_path / "plan.json") == tuned("allow")
    assert '"padding"' in text
    tuned("never").save(tmp_path / "even.json")
    assert autoshard.load_plan(tmp_path / "even.json") == tuned("never")
    assert (tmp_path / "even.json").read_text(encoding="utf-8").count('"padding"') == 1


def test_the_explanation_says_where_and_how_much() -> None:
    lines = to_text(explain(tuned("allow"))).splitlines()
    assert any(line.startswith("padded: 501 -> 504 over x") and "0.599% more work" in line for line in lines)
    assert any(line.startswith("    padded s 501 -> 504 over x") for line in lines)
    assert "padded" not in to_text(explain(tuned("never")))


def test_a_padded_plan_computes_what_the_function_computes() -> None:
    expected = jax.jit(forward)(*arrays())
    same(autoshard.jit(forward, plan=tuned("allow"))(*arrays()), expected)


def test_padded_heads_and_words_compute_what_the_function_computes() -> None:
    heads, words = "einsum:layers/w[qkv]=* | * -> ;;x;", "einsum:table=* | * -> ;;x"
    plan = autoshard.tune(
        forward, *inputs(), slice="cpu:8", refine="none", top_k=1, mesh="native", pins=[heads, words]
    )
    assert {(6, 8, "x"), (1001, 1008, "x")} <= {
        (each.size, each.padded, each.axes) for each in paddings(plan)
    }
    planned = autoshard.jit(forward, plan=plan)
    same(planned(*arrays()), jax.jit(forward)(*arrays()))


def test_a_padded_plan_is_applied_without_jit_and_under_grad() -> None:
    applied = autoshard.apply(forward, tuned("allow"))
    same(applied(*arrays()), jax.jit(forward)(*arrays()))
    params, tokens = arrays()
    expected = jax.jit(jax.grad(lambda p: forward(p, tokens).mean()))(params)
    same(jax.jit(jax.grad(lambda p: applied(p, tokens).mean()))(params), expected)
    same(jax.grad(lambda p: applied(p, tokens).mean())(params), expected)
