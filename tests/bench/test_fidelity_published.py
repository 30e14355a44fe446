"""The published times: what is read, which programs they are of, and that fixed plans price as searched."""

import csv
import functools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from autoshard.cost.chips import chip
from autoshard.mesh_solving import Solved
from bench import fidelity_orderings, fidelity_published, mtnlg, published_plans, refit
from bench.fidelity_orderings import Pair, crossover, pairs_of
from bench.fixed_plan import NOTHING, FixedPlan, Seconds, fix
from bench.published_plans import Case, Part
from bench.published_points import DATA, Point, config_of, layout_pins, programs_of, read_points
from examples import palm

POINTS = read_points()


def points(source: str, **wanted: object) -> list[Point]:
    return [
        point
        for point in POINTS
        if point.source == source and all(getattr(point, name) == value for name, value in wanted.items())
    ]


# ---- the data


def test_every_visible_point_is_there() -> None:
    # Tables 2 and 3: 4 rows each; D.2: 9 batches of PaLM's two columns and MT-NLG's; figures: markers.
    sources = [point.source for point in POINTS]
    counts = {source: sources.count(source) for source in dict.fromkeys(sources)}
    assert counts == {
        "table 2": 4,
        "table 3": 4,
        "table D.2": 27,
        "figure 1 left": 10,
        "figure 1 right": 13,
        "figure 6": 6,
        "figure 7": 8,
    }


def test_figures_are_microseconds_per_layer() -> None:
    # Figure 6, 2D on 256 chips: 571 us for each of 118 layers.
    (point,) = points("figure 6", chips=256, layout="WS 2D")
    assert point.seconds == pytest.approx(118 * 571e-6, rel=1e-5)
    # Figure 7, gathered, 512 sequences: 346 us for each of 118 layers and 2048 positions.
    (point,) = points("figure 7", batch=512, layout="WG XYZ")
    assert point.seconds == pytest.approx(118 * 2048 * 346e-6, rel=1e-5)


def test_the_same_measurement_in_two_figures_is_the_same() -> None:
    for gathered in points("figure 7", layout="WG XYZ"):
        for twin in points("figure 1 right", weights="bfloat16", batch=gathered.batch):
            assert twin.seconds == pytest.approx(gathered.seconds, rel=1e-3)
            assert (twin.chips, twin.layout) == (gathered.chips, gathered.layout)


def test_figures_are_of_layers_and_tables_of_steps() -> None:
    assert {(point.source.split()[0], point.covers) for point in POINTS} == {
        ("table", "step"),
        ("figure", "layers"),
    }


def test_every_row_has_its_source() -> None:
    with DATA.open() as lines:
        assert all(row["source"] and row["seconds"] for row in csv.DictReader(lines))


# ---- the programs


def test_heads_are_padded_to_the_chips() -> None:
    heads = {chips: config_of(points("figure 6", chips=chips)[0]).heads for chips in (64, 128, 256)}
    assert heads == {64: 64, 128: 128, 256: 256}
    assert config_of(points("table 3", chips=8)[0]).heads == 32


def test_a_decode_time_of_a_table_is_of_many_steps() -> None:
    (program,) = programs_of(points("table 2", phase="decode", weights="int8")[0])
    assert program.count == 64
    assert program.inputs()[1]["keys"].shape == (118, 64, 2048, 256)


def test_a_total_is_a_prefill_and_eight_steps() -> None:
    prefill, decode = programs_of(points("table D.2", phase="total", batch=16)[0])
    assert (prefill.count, decode.count) == (1, 8)
    assert prefill.inputs()[1].shape == (16, 20)
    assert decode.inputs()[1]["keys"].shape == (105, 16, 28, 128, 160)


def test_pins_are_the_papers_layouts() -> None:
    assert layout_pins("WS 2D", ("wq", "w_up", "w_down"), False) == (
        "params/layers/w_up=;x;y,z",
        "einsum:layers/w_up=;;x | x;y,z",
        "params/layers/w_down=;y,z;x",
        "einsum:layers/w_down=;;y,z | y,z;x",
    )
    assert layout_pins("WG XYZ", ("w_up",), True) == (
        "params/layers/w_up/int8=;x;y,z",
        "einsum:layers/w_up/int8=x,y,z;; | ;",
    )
    assert layout_pins("", ("w_up",), False) == ()


def test_mtnlg_has_its_parameters_and_decodes_what_it_prefills() -> None:
    # 105 layers of 4 E (h d) + 2 E F with h d = E: 12 E^2 each, and the embedding: 529.5e9.
    params = jax.tree.leaves(mtnlg.abstract_params(mtnlg.MTNLG_530B))
    assert sum(math.prod(leaf.shape) for leaf in params) == pytest.approx(529.5e9, rel=1e-3)
    config = mtnlg.TINY
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype("float32") / 8, mtnlg.abstract_params(config)
    )
    tokens = rng.integers(0, config.vocab, (2, 5))
    prefill = jax.jit(functools.partial(mtnlg.prefill, config=config))
    whole, cache = prefill(params, tokens)
    # The step reads the first four positions only, and writes the fifth again.
    stepped, again = jax.jit(functools.partial(mtnlg.decode, config=config))(params, cache, tokens[:, 4], 4)
    np.testing.assert_allclose(whole, stepped, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache["keys"], again["keys"], rtol=1e-4, atol=1e-5)
    other, _ = jax.jit(functools.partial(mtnlg.decode, config=config))(params, cache, tokens[:, 3], 4)
    assert not np.allclose(whole, other, rtol=1e-2)


# ---- fixed plans


def tiny_program() -> tuple[Solved, FixedPlan]:
    point = points("figure 6", chips=64, layout="WS 2D")[0]
    (program,) = programs_of(point)
    function, inputs = palm.decode_target(replace(palm.PALM_8B, heads=64), 64, 128)
    solved = published_plans.solve(replace(program, function=function, inputs=inputs))
    assert solved is not None
    return solved, fix(solved.problem, solved.outcome.candidates[0].labels)


def test_a_fixed_plan_costs_what_the_search_says() -> None:
    solved, plan = tiny_program()
    whole, layers = plan.price(), plan.price(layers_only=True)
    assert whole.whole - plan.permute_seconds == pytest.approx(solved.seconds, rel=1e-9)
    assert 0 < layers.whole < whole.whole
    assert layers.compute < whole.compute  # the unembedding is not in the layers
    assert max(whole.compute, whole.hbm, whole.ici) < whole.whole


def test_a_fixed_plan_on_another_chip() -> None:
    _, plan = tiny_program()
    v4 = chip("v4")
    slow = v4.with_values("assumed", "test", collective_base_seconds=v4.collective_base_seconds + 1e-3)
    before, after = plan.price(v4, layers_only=True), plan.price(slow, layers_only=True)
    assert before == plan.price(layers_only=True)
    assert after.compute == before.compute
    # A whole number of collectives, several in each of 32 layers, 1 ms more each.
    collectives = (after.ici - before.ici) / 1e-3
    assert collectives >= 4 * 32
    assert collectives == pytest.approx(round(collectives), abs=1e-6)


def test_a_refit_finds_the_constant_that_made_the_times() -> None:
    _, plan = tiny_program()
    v4 = chip("v4")
    true = v4.with_values("assumed", "test", collective_base_seconds=2e-6)
    point = replace(points("figure 6")[0], seconds=plan.price(true, layers_only=True).whole)
    case = Case(point, (Part(1, plan, True),))
    found = refit.refit([case], v4, ["collective_base_seconds"])
    assert refit.mean_error([case], v4) > 0.01
    assert found.error < 1e-3
    assert found.values["collective_base_seconds"] == pytest.approx(2e-6, rel=0.02)


# ---- tables and verdicts


def seconds(whole: float, compute: float = 0.0, hbm: float = 0.0) -> Seconds:
    return Seconds(whole, compute, hbm, 0.0)


def test_errors_and_the_invariant() -> None:
    point = replace(points("table 2")[0], seconds=2.0)
    case = Case(point, ())
    compared = [
        fidelity_published.Compared(case, seconds(1.9, 1.0, 1.5)),
        fidelity_published.Compared(case, seconds(2.6, 1.0, 2.1)),
    ]
    assert [each.error for each in compared] == pytest.approx([-0.05, 0.3])
    verdict = fidelity_published.error_verdict(compared)
    assert (verdict.figure, verdict.met) == ("17.5% over 2 points, 2.5% too much", False)
    verdict = fidelity_published.invariant_verdict(compared)
    assert (verdict.figure, verdict.met) == ("1 of 2 points", False)
    table = fidelity_published.points_table(compared)
    assert table.count("max(compute, HBM) > measured") == 1
    families = fidelity_published.families_table(compared).splitlines()
    assert families[1].split() == ["prefill", "int8", "table", "2", "17.5%", "+12.5%"]


def test_prices_add_up() -> None:
    assert sum([seconds(1.0, 0.5) * 3, seconds(2.0, 0.25)], NOTHING) == seconds(5.0, 1.75)


def test_pairs_are_those_of_the_figures() -> None:
    pairs = pairs_of(POINTS, "figure 7", "WS 2D", "WG XYZ")
    assert [pair.tokens for pair in pairs] == [131_072, 262_144, 524_288, 1_048_576]
    assert [pair.first.seconds < pair.second.seconds for pair in pairs] == [True, False, False, False]
    assert [pair.first.chips for pair in pairs_of(POINTS, "figure 6", "WS 2D", "WS 1D")] == [64, 128, 256]


def test_the_measured_crossover_lies_where_the_paper_has_it() -> None:
    pairs = pairs_of(POINTS, "figure 7", "WS 2D", "WG XYZ")
    tokens = crossover(pairs, fidelity_orderings.measured)
    assert tokens is not None
    assert 131_072 < tokens < 262_144
    assert fidelity_orderings.crossover_verdict(tokens).met


def test_a_wrong_order_is_seen() -> None:
    (pair, *_) = pairs_of(POINTS, "figure 6", "WS 2D", "WS 1D")
    swapped = Pair(pair.second, pair.first)

    def wrong(point: Point) -> float:
        return 1.0 if point.layout == "WS 1D" else 2.0

    assert not pair.is_ordered_right(wrong)
    assert not swapped.is_ordered_right(wrong)
    assert not fidelity_orderings.orderings_verdict("1D", [pair], wrong).met
    assert crossover([pair], wrong) is None
