"""What arrays take in memory is whole tiles, by their sizes on one chip."""

import numpy as np
import pytest

from autoshard.cost.tiles import tile_waste
from autoshard.search.building import build_problem
from autoshard.search.memory import ACTIVATIONS, ARGUMENTS, LOOP, MemoryModel
from tests.search.graphs import feed_forward, labels_of, mesh_of, scanned_feed_forward

MESH = mesh_of("v5e:1x2")


def test_arrays_that_fill_their_tiles_take_their_elements() -> None:
    problem = build_problem(feed_forward(256, 256, 512), MESH)
    peak = MemoryModel(problem).peak(labels_of(problem))
    assert peak.by_kind[ARGUMENTS] == 2 * (256 * 256 + 2 * 256 * 512)


def test_others_take_whole_tiles_of_what_a_chip_has() -> None:
    problem = build_problem(feed_forward(16, 160, 320), MESH)
    whole, split = (
        MemoryModel(problem).peak(labels_of(problem, **held)).by_kind[ARGUMENTS]
        for held in ({}, {"wi": [1], "wo": [0]})
    )
    x = 2 * 16 * 256  # 160 lanes are 256, and 16 lanes would be 128
    assert whole == x + 2 * (2 * 160 * 384)  # 320 lanes are 384: less is lost than with 160
    assert split == x + 2 * (2 * 160 * 256)  # 160 by 160


def test_a_chip_without_tiles_wastes_nothing() -> None:
    problem = build_problem(feed_forward(16, 160, 320), mesh_of("cpu:2"))
    peak = MemoryModel(problem).peak(labels_of(problem))
    assert peak.by_kind[ARGUMENTS] == 2 * (16 * 160 + 2 * 160 * 320)


def test_the_dim_that_a_loop_walks_along_is_no_side_of_a_tile() -> None:
    problem = build_problem(scanned_feed_forward(128, 16, 160, 160), MESH)
    stacks = MemoryModel(problem).peak(labels_of(problem)).by_kind
    weights = 2 * 128 * 160 * 256
    assert tile_waste(np.array([[128, 160, 160]])) == pytest.approx([1.0])  # with 128 lanes of the layers
    assert stacks[ARGUMENTS] + stacks[LOOP] >= 2 * weights
    assert stacks[ACTIVATIONS] < weights
