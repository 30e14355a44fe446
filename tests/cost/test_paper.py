"""Figure 3 of the paper out of the collectives model (arXiv:2211.05102)."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.collectives import Kind
from autoshard.cost.errors import AutoshardError
from autoshard.cost.paper import (
    FeedForward,
    closed_form_crossovers,
    crossover_tokens,
    formula_volume_bytes,
    model_collectives,
    model_volume_bytes,
)
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

E, F = 16384, 65536
SLICE = parse_slice("v4:4x4x4")
POINTS = Path(__file__).resolve().parents[2] / "bench" / "data" / "fig3_comm_volume_GB.csv"
ORDER = [FeedForward.WS_2D, FeedForward.WG_X, FeedForward.WG_XY, FeedForward.WG_XYZ]
COLUMNS = dict(zip(["ws", "x_wg", "xy_wg", "xyz_wg"], ORDER, strict=True))


@pytest.mark.parametrize(
    ("first", "second", "published_tokens", "published_bytes"),
    [
        (FeedForward.WS_2D, FeedForward.WG_X, 16384, 0.536871e9),
        (FeedForward.WG_X, FeedForward.WG_XY, 65536, 1.342177e9),
        (FeedForward.WG_XY, FeedForward.WG_XYZ, 786432, 4.294967e9),
    ],
)
def test_crossovers_of_figure_3_within_one_percent(
    first: FeedForward, second: FeedForward, published_tokens: float, published_bytes: float
) -> None:
    tokens = crossover_tokens(
        lambda t: model_volume_bytes(first, t, E, F, SLICE),
        lambda t: model_volume_bytes(second, t, E, F, SLICE),
        1.0,
        1e9,
    )
    assert tokens == pytest.approx(published_tokens, rel=0.01)
    assert model_volume_bytes(first, tokens, E, F, SLICE) == pytest.approx(published_bytes, rel=0.01)


def test_every_point_of_figure_3_within_one_percent() -> None:
    with POINTS.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 14
    for row in rows:
        for column, layout in COLUMNS.items():
            volume_gb = model_volume_bytes(layout, float(row["tokens"]), E, F, SLICE) / 1e9
            assert volume_gb == pytest.approx(float(row[f"{column}_formula"]), rel=1e-4)
            assert volume_gb == pytest.approx(float(row[f"{column}_plot"]), rel=0.01)


@given(
    st.sampled_from(list(FeedForward)),
    st.integers(1, 10**7),
    st.sampled_from([(2, 2, 2), (2, 4, 2), (4, 4, 4), (8, 4, 4), (4, 8, 8)]),
    st.sampled_from([1, 2, 4]),
)
def test_model_volumes_are_the_paper_s_formulas(
    layout: FeedForward, tokens: int, shape: tuple[int, int, int], itemsize: int
) -> None:
    slice_ = parse_slice("v4:" + "x".join(map(str, shape)))
    model = model_volume_bytes(layout, tokens, E, F, slice_, itemsize)
    assert model == pytest.approx(formula_volume_bytes(layout, tokens, E, F, shape, itemsize))


def test_the_collectives_of_2d_weight_stationary_are_the_paper_s() -> None:
    found = model_collectives(FeedForward.WS_2D, 64, E, F, native_mesh(SLICE))
    assert [(collective.kind, collective.axes) for collective in found] == [
        (Kind.ALL_GATHER, ("y", "z")),
        (Kind.REDUCE_SCATTER, ("x",)),
        (Kind.ALL_GATHER, ("x",)),
        (Kind.REDUCE_SCATTER, ("y", "z")),
    ]
    assert [collective.bytes_per_chip for collective in found] == [
        2 * 64 * E / 4,
        2 * 64 * F / 16,
        2 * 64 * F / 16,
        2 * 64 * E / 4,
    ]


def test_2d_beats_1d_above_16_chips_when_f_is_4e() -> None:
    # T = 8BLE/sqrt(n) against 2BLE: equal at n = 16 = 2x(2x4).
    assert formula_volume_bytes(FeedForward.WS_2D, 1.0, E, F, (2, 4, 2)) == formula_volume_bytes(
        FeedForward.WS_1D, 1.0, E, F, (2, 4, 2)
    )
    assert formula_volume_bytes(FeedForward.WS_2D, 1.0, E, F, (4, 4, 4)) == 2 * E  # 8E/8 elements of 2 bytes


def test_closed_forms() -> None:
    assert closed_form_crossovers(E, F, (4, 4, 4)) == (16384.0, 65536.0, 786432.0)


def test_a_range_without_a_crossover_is_an_error() -> None:
    with pytest.raises(AutoshardError, match="no crossover between 1 and 10 tokens"):
        crossover_tokens(lambda t: t, lambda t: t + 1, 1.0, 10.0)
