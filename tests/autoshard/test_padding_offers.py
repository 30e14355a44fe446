"""Arrays that the model should store padded: what is offered is what the padded model gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest

import autoshard
from autoshard import mesh_search
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.padding_text import offer_lines
from autoshard.plan import Plan, load_plan
from autoshard.plan_records import PaddingRecord, StoredPaddingRecord
from autoshard.progress import Progress
from autoshard.search.errors import TimeLimitError
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import open_session

VOCABULARY, PADDED = 50257, 50264


def unembed(vocabulary: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A weight and logits that 8 chips do not divide along the vocabulary."""
    arguments = (
        jax.ShapeDtypeStruct((8, 4096), "bfloat16"),
        jax.ShapeDtypeStruct((4096, vocabulary), "bfloat16"),
    )
    return (lambda x, w: jnp.dot(x, w)), arguments


def lookup(vocabulary: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A table that is looked up, too: by itself a lookup is never padded."""

    def step(table: jax.Array, tokens: jax.Array) -> Any:
        return jnp.dot(jnp.tanh(table[tokens]), table.T)

    table = jax.ShapeDtypeStruct((vocabulary, 4096), "bfloat16")
    return step, (table, jax.ShapeDtypeStruct((16,), "int32"))


def layers(count: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A scan over so many layers."""

    def step(x: jax.Array, weights: jax.Array) -> Any:
        def layer(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
            return x @ weight, None

        return jax.lax.scan(layer, x, weights)[0]

    arguments = (
        jax.ShapeDtypeStruct((8, 2048), "bfloat16"),
        jax.ShapeDtypeStruct((count, 2048, 2048), "bfloat16"),
    )
    return step, arguments


def planned(program: tuple[Callable[..., Any], tuple[Any, ...]], **options: Any) -> Plan:
    fn, arguments = program
    return autoshard.tune(fn, *arguments, slice="v5e:2x4", refine="none", top_k=1, **options)


@pytest.mark.parametrize("make", [unembed, lookup])
def test_what_is_offered_is_what_the_padded_model_gets(make: Callable[[int], Any]) -> None:
    uneven, even = planned(make(VOCABULARY)), planned(make(PADDED))
    offer = uneven.stored_padding
    assert offer is not None
    assert offer.seconds < 0.99 * uneven.predicted_seconds
    assert offer.seconds == pytest.approx(even.predicted_seconds, rel=0.02)
    assert offer.hbm_bytes_per_chip == pytest.approx(even.predicted.hbm_bytes_per_chip, rel=0.02)
    found = {(each.size, each.padded) for dims in offer.arrays.values() for each in dims}
    assert found == {(VOCABULARY, PADDED)}
    assert even.stored_padding is None


def test_the_offer_is_in_the_file_and_in_the_text(tmp_path: Path) -> None:
    plan = planned(unembed(VOCABULARY))
    path = tmp_path / "plan.json"
    plan.save(path)
    assert load_plan(path) == plan
    text = to_text(explain(plan))
    assert "hint: padded in the model, " in text
    assert f" {VOCABULARY} -> {PADDED} over " in text


def test_nothing_is_offered_where_padding_is_forbidden() -> None:
    assert planned(unembed(VOCABULARY), padding="never").stored_padding is None


def test_layers_of_a_scan_are_no_reason_to_search_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any, **__: Any) -> Any:
        raise AssertionError("searched")

    monkeypatch.setattr("autoshard.padding_offers.search_plans", search)
    assert planned(layers(5)).stored_padding is None


def test_a_search_that_runs_out_of_time_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any, **__: Any) -> Any:
        raise TimeLimitError("1 s")

    monkeypatch.setattr("autoshard.padding_offers.search_plans", search)
    assert planned(unembed(VOCABULARY)).stored_padding is None


def test_ctrl_c_meanwhile_keeps_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(mesh_search, "stored_padding", interrupted)
    fn, arguments = unembed(VOCABULARY)
    options = Options("v5e:2x4", refine="none", top_k=2)
    session = open_session(Target("", None, fn, "fn", arguments, {}), options, Progress(quiet=True))
    found = mesh_search.search_candidates(session)
    assert found.interrupted
    assert len(found.candidates) == 2


def test_the_text_of_an_offer() -> None:
    dims = (PaddingRecord(dim="dim 1", size=25, padded=32, axes="x,y"),)
    offer = StoredPaddingRecord(arrays={"params/wq": dims}, seconds=0.9, hbm_bytes_per_chip=2**30)
    assert offer_lines(offer, 1.0) == [
        "hint: padded in the model, params/wq (dim 1 25 -> 32 over x,y) could be split: predicted 900 ms a "
        "step instead of 1.00 s (10.0% less), 1 GiB per chip"
    ]
    assert offer_lines(offer, 0.9) == []
    assert offer_lines(None, 1.0) == []
    assert msgspec.structs.replace(offer, seconds=1.0) != offer
