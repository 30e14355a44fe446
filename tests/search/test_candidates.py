"""Strategies and layouts counted and written down by hand."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.layouts import UNREDUCED, local_fraction
from autoshard.search.candidates import (
    PARTIAL,
    factor_shards,
    may_pad,
    operand_layouts,
    result_layouts,
    shard_notation,
    strategies,
)
from autoshard.search.graph import Graph, Op
from tests.search.graphs import (
    cache_update,
    feed_forward,
    mesh_of,
    parallel_sum,
    scanned_feed_forward,
    split_heads,
)

B, E, F = 0, 1, 2
NONE = -1

PROGRAMS: dict[str, Callable[[], Graph]] = {
    "feed forward": feed_forward,
    "scanned": scanned_feed_forward,
    "parallel": parallel_sum,
    "heads": split_heads,
    "cache": cache_update,
}


def test_an_einsum_on_one_axis_by_hand() -> None:
    op = feed_forward().ops[0]
    codes = strategies(op, mesh_of("v5e:1x2"))
    assert codes.tolist() == [[NONE], [B], [E], [F]]
    assert operand_layouts(op, codes, 0).tolist() == [[-1], [0], [1], [-1]]  # x [b, e]
    assert operand_layouts(op, codes, 1).tolist() == [[-1], [-1], [0], [1]]  # wi [e, f]
    assert result_layouts(op, codes, 0).tolist() == [[-1], [0], [UNREDUCED], [1]]  # h [b, f]


def test_every_axis_chooses_a_factor_by_itself() -> None:
    assert len(strategies(feed_forward().ops[0], mesh_of("v5e:2x2"))) == 4 * 4


def test_what_does_not_divide_a_factor_is_left_out() -> None:
    codes = strategies(feed_forward(b=2).ops[0], mesh_of("v5e:2x2")).tolist()
    assert len(codes) == 15
    assert [B, B] not in codes
    assert len(strategies(feed_forward(b=3).ops[0], mesh_of("v5e:2x2"))) == 9


def test_an_axis_of_one_chip_shards_nothing() -> None:
    assert strategies(feed_forward().ops[0], mesh_of("v5e:1x1")).tolist() == [[NONE]]


def test_a_factor_that_must_stay_whole_is_not_sharded() -> None:
    op = cache_update().ops[0]
    codes = strategies(op, mesh_of("v5e:1x2"))
    assert codes.tolist() == [[NONE], [0], [2]]
    assert operand_layouts(op, codes, 0).tolist() == [[-1], [0], [2]]
    assert operand_layouts(op, codes, 1).tolist() == [[-1], [0], [2]]


def test_a_linear_op_may_carry_an_open_sum_through() -> None:
    op = parallel_sum().ops[2]
    codes = strategies(op, mesh_of("v5e:1x2"))
    assert codes.tolist() == [[NONE], [0], [1], [PARTIAL]]
    for position in (0, 1):
        assert operand_layouts(op, codes, position).tolist() == [[-1], [0], [1], [UNREDUCED]]
    assert result_layouts(op, codes, 0).tolist() == [[-1], [0], [1], [UNREDUCED]]


def test_a_minor_factor_is_sharded_only_under_a_fully_sharded_major_one() -> None:
    batch, head, depth = 0, 1, 2
    op = split_heads(b=4, h=2, d=4).ops[0]
    codes = strategies(op, mesh_of("v5e:2x2"))
    # Of 16, those with depth but not head on the other axis (5) and two axes on 2 heads (1) are out.
    assert len(codes) == 10
    assert [code for code in codes.tolist() if depth in code] == [[head, depth], [depth, head]]
    both = codes[[codes.tolist().index([head, depth])]]
    assert operand_layouts(op, both, 0).tolist() == [[1, 1]]
    assert result_layouts(op, both, 0).tolist() == [[1, 2]]
    assert [batch, batch] in codes.tolist()


def test_a_half_sharded_major_factor_is_not_enough() -> None:
    depth = 2
    op = split_heads(b=4, h=4, d=4).ops[0]
    assert not (strategies(op, mesh_of("v5e:2x2")) == depth).any()
    assert [depth, 1, 1] in strategies(op, mesh_of("v4:2x2x2")).tolist()


def test_the_papers_notation() -> None:
    assert shard_notation("ble", [["x"], [], ["y", "z"]]) == "B_xLE_yz"
    assert shard_notation("be", [[], []], ["x", "y"]) == "BE{U_xy}"
    assert shard_notation("", []) == ""


def _fractions(op: Op, slice_text: str, position: int) -> tuple[list[float], list[float]]:
    mesh = mesh_of(slice_text)
    codes = strategies(op, mesh)
    held = [factor for dim in op.operand_dims[position] for factor in dim]
    shards = factor_shards(codes, len(op.factors), mesh)[:, held].prod(axis=1)
    return local_fraction(operand_layouts(op, codes, position), mesh).tolist(), (1 / shards).tolist()


@given(st.sampled_from(sorted(PROGRAMS)), st.sampled_from(["v5e:1x2", "v5e:2x2", "v4:2x2x2", "v5e:4x2"]))
def test_a_tensor_is_cut_as_its_factors_are(program: str, slice_text: str) -> None:
    for op in PROGRAMS[program]().ops:
        for position in range(len(op.operands)):
            without_partial, by_factors = _fractions(op, slice_text, position)
            assert without_partial == by_factors


@given(st.sampled_from(sorted(PROGRAMS)), st.sampled_from(["v5e:1x2", "v5e:2x2", "v4:2x2x2"]))
def test_strategies_are_distinct_legal_and_begin_with_replication(program: str, slice_text: str) -> None:
    mesh = mesh_of(slice_text)
    for op in PROGRAMS[program]().ops:
        codes = strategies(op, mesh)
        assert (codes[0] == NONE).all()
        assert len(np.unique(codes, axis=0)) == len(codes)
        sizes = np.array([factor.size for factor in op.factors])
        assert (sizes % factor_shards(codes, len(sizes), mesh) == 0).all()


def test_padded_strategies_by_hand() -> None:
    # b = 5 over two chips is padded to 6; e and f divide.
    op, mesh = feed_forward(b=5).ops[0], mesh_of("v5e:1x2")
    assert strategies(op, mesh).tolist() == [[NONE], [E], [F]]
    assert strategies(op, mesh, padded=True).tolist() == [[NONE], [B], [E], [F]]


def test_all_factors_together_stay_below_the_limit() -> None:
    # On 2x4 chips b = 5 and f = 5 are padded to 6 (x) and 8 (y): 48/25 of the work, below twice.
    codes = strategies(feed_forward(b=5, f=5).ops[0], mesh_of("v5e:2x4"), padded=True).tolist()
    assert [B, F] in codes
    # b = 3 over y and f = 5 over x: 24/15; b = 3 over both is 8/3, too much.
    codes = strategies(feed_forward(b=3, f=5).ops[0], mesh_of("v5e:2x4"), padded=True).tolist()
    assert [F, B] in codes
    assert [B, B] not in codes


def test_merged_dims_and_updates_are_not_padded() -> None:
    merged = split_heads(b=4, h=5, d=4).ops[0]
    assert [1] not in strategies(merged, mesh_of("v5e:1x2"), padded=True).tolist()
    batch = split_heads(b=5, h=2, d=4).ops[0]  # merged with nothing
    assert [0] in strategies(batch, mesh_of("v5e:1x2"), padded=True).tolist()
    update = cache_update(b=5).ops[0]
    assert not may_pad(update)
