"""Costs of local ops by hand, on v5e: 197e12 * 0.92 flop/s, 819e9 * 0.75 byte/s, 32 MiB stay on chip."""

import dataclasses

import numpy as np
import pytest

from autoshard.cost.roofline import stream_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.cost.traffic import traffic_seconds
from autoshard.search.candidates import strategies
from autoshard.search.costs import OpCost, op_cost
from autoshard.search.graph import Factor, FactorKind, Graph, OpKind
from autoshard.search.kernels import kernels
from tests.search.graphs import Sketch, cache_update, feed_forward, mesh_of, scanned_feed_forward, split_heads

FLOPS_PER_SECOND = 197e12 * 0.92
HBM = 819e9 * 0.75
ON_CHIP = 22 * HBM
NONE, B, E, F = -1, 0, 1, 2
MESH = mesh_of("v5e:1x2")


def _cost(graph: Graph, op: int, mesh: TorusMesh = MESH) -> OpCost:
    return op_cost(graph.ops[op], strategies(graph.ops[op], mesh), graph, mesh, kernels(graph))


def test_a_local_einsum_by_hand() -> None:
    b, e, f = 256, 512, 1024
    cost = _cost(feed_forward(b, e, f), 0)  # strategies: none, b, e, f
    flops = 2 * b * e * f
    assert cost.flops_per_chip.tolist() == [flops, flops / 2, flops / 2, flops / 2]
    assert cost.compute_seconds == pytest.approx(cost.flops_per_chip / FLOPS_PER_SECOND)
    x, w, h = 2 * b * e, 2 * e * f, 2 * b * f  # x and w come from HBM, h stays on chip; a sum over e is whole
    expected = [
        (x + w) / HBM + h / ON_CHIP,
        (x / 2 + w) / HBM + h / 2 / ON_CHIP,
        (x + w) / 2 / HBM + h / ON_CHIP,
        (x + w / 2) / HBM + h / 2 / ON_CHIP,
    ]
    assert cost.hbm_seconds == pytest.approx(expected)


def test_an_op_takes_the_larger_of_its_two_times() -> None:
    small, large = _cost(feed_forward(8, 512, 1024), 0), _cost(feed_forward(2**16, 8192, 8192), 0)
    launch, serial = 1.2e-6, 0.3  # of v5e
    assert small.seconds == pytest.approx(small.hbm_seconds + serial * small.compute_seconds + launch)
    assert large.seconds == pytest.approx(large.compute_seconds + serial * large.hbm_seconds + launch)


def test_the_matrix_unit_pads_the_local_sizes() -> None:
    cost = _cost(feed_forward(b=4, e=256, f=128), 0)
    # m=4 is padded to 8; half of e is 128, half of f is 64 and padded to 128, half of b is 2 and padded to 8.
    useful, padded = 2 * 4 * 256 * 128, 2 * 8 * 256 * 128
    assert cost.flops_per_chip.tolist() == [useful, useful / 2, useful / 2, useful / 2]
    assert cost.compute_seconds * FLOPS_PER_SECOND == pytest.approx([padded, padded, padded / 2, padded])


def test_a_batched_matmul_is_padded_matmul_by_matmul() -> None:
    sketch = Sketch({"b": 4, "m": 3, "k": 100, "n": 130})
    graph = sketch.graph(
        sketch.einsum("bmk,bkn->bmn", sketch.argument("q", "bmk"), sketch.argument("c", "bkn"))
    )
    cost = _cost(graph, 0)  # m=3 to 8, k=100 to 128, n=130 to 256; over n 65 to 128, over k 50 to 128
    by_factor = dict(
        zip([NONE, *strategies(graph.ops[0], MESH)[1:, 0].tolist()], cost.compute_seconds, strict=True)
    )
    whole = 2 * 4 * 8 * 128 * 256
    expected = {NONE: whole, 0: whole / 2, 2: whole, 3: whole / 2}
    assert {f: s * FLOPS_PER_SECOND for f, s in by_factor.items()} == pytest.approx(expected)


def test_mixed_operands_multiply_in_the_slower_dtype() -> None:
    graph = feed_forward(256, 512, 1024)
    wi = dataclasses.replace(graph.values[1], dtype="int8")
    mixed = dataclasses.replace(graph, values=(graph.values[0], wi, *graph.values[2:]))
    assert (_cost(mixed, 0).compute_seconds == _cost(graph, 0).compute_seconds).all()
    x = dataclasses.replace(graph.values[0], dtype="int8")
    both = dataclasses.replace(mixed, values=(x, wi, *graph.values[2:]))
    assert _cost(both, 0).compute_seconds * 393e12 * 0.92 == pytest.approx(_cost(both, 0).flops_per_chip)


def test_what_is_too_large_for_the_chip_goes_to_hbm() -> None:
    b, e, f = 2**15, 128, 1024  # h has 64 MiB
    cost = _cost(feed_forward(b, e, f), 0)
    assert cost.hbm_seconds[NONE + 1] == pytest.approx((2 * b * e + 2 * e * f + 2 * b * f) / HBM)
    assert cost.hbm_seconds[B + 1] == pytest.approx((b * e + 2 * e * f) / HBM + b * f / ON_CHIP)


def test_identities_are_free() -> None:
    assert _cost(scanned_feed_forward(), 0).seconds.tolist() == [0.0, 0.0, 0.0]


def test_an_update_reads_and_writes_what_is_new() -> None:
    cost = _cost(cache_update(b=4, t=32, d=8), 0)  # strategies: none, b, d
    new = 2 * 4 * 8
    assert cost.hbm_seconds == pytest.approx([2 * new / HBM, new / HBM, new / HBM])
    assert cost.flops_per_chip.tolist() == [0.0, 0.0, 0.0]


def test_a_view_of_a_stored_value_moves_nothing() -> None:
    assert not _cost(split_heads(), 0).seconds.any()


def _chain() -> Graph:
    """Ops: h = BE,EF->BF; two elementwise ops in a chain; y = BF,FE->BE; result."""
    sketch = Sketch({"b": 256, "e": 512, "f": 1024})
    x, wi, wo = (sketch.argument(n, dims) for n, dims in (("x", "be"), ("wi", "ef"), ("wo", "fe")))
    h = sketch.einsum("be,ef->bf", x, wi)
    for name in ("exp", "tanh"):
        h = sketch.elementwise(name, h)
    return sketch.graph(sketch.einsum("bf,fe->be", h, wo))


def test_a_fused_chain_is_charged_for_its_ends() -> None:
    graph = _chain()
    exists = kernels(graph).exists
    first, between, last = (graph.ops[i].results[0] for i in (0, 1, 2))
    assert (exists[first], exists[between], exists[last]) == (True, False, True)
    size = 2 * 256 * 1024
    for op in (1, 2):  # one reads h, the other writes what the einsum reads
        assert _cost(graph, op).hbm_seconds == pytest.approx(
            [size / ON_CHIP, size / 2 / ON_CHIP, size / 2 / ON_CHIP]
        )


def _slice(primitive: str) -> Graph:
    """Ops: h = BE,EF->BF; 8 of its 1024 columns; result."""
    sketch = Sketch({"b": 256, "e": 512, "f": 1024})
    h = sketch.einsum("be,ef->bf", sketch.argument("x", "be"), sketch.argument("wi", "ef"))
    factors = [Factor(256, FactorKind.PARALLEL), Factor(1024, FactorKind.REPLICATED)]
    dims = ((0,), (1,))
    return sketch.graph(sketch.op(OpKind.OTHER, primitive, (h,), (256, 8), factors, (dims,), dims))


def test_a_slice_reads_only_what_it_returns() -> None:
    returned, whole = 2 * 256 * 8, 2 * 256 * 1024
    assert _cost(_slice("slice"), 1).hbm_seconds[0] == pytest.approx(2 * returned / ON_CHIP)
    assert _cost(_slice("sort"), 1).hbm_seconds[0] == pytest.approx((returned + whole) / ON_CHIP)


def test_padded_work_is_that_of_whole_blocks() -> None:
    # 5 batches over 2 chips are 3 a chip; the matrix unit counts 8 rows and 128 or more columns anyway.
    sketch = Sketch({"b": 5, "h": 256, "e": 256, "f": 256})
    x, w = sketch.argument("x", "bhe"), sketch.argument("w", "bef")
    graph, mesh = sketch.graph(sketch.einsum("bhe,bef->bhf", x, w, name="h")), mesh_of("v5e:1x2")
    codes = strategies(graph.ops[0], mesh, padded=True)
    cost = op_cost(graph.ops[0], codes, graph, mesh, kernels(graph))
    whole, padded = codes.tolist().index([-1]), codes.tolist().index([0])
    assert cost.compute_seconds[padded] == pytest.approx(3 / 5 * cost.compute_seconds[whole])
    assert cost.flops_per_chip[padded] == pytest.approx(1 / 2 * cost.flops_per_chip[whole])
    read = 3 * (2 * 256 * 256) * 2.0  # what is read from HBM, of x and w
    made = 3 * 256 * 256 * 2.0
    expected = stream_seconds(read, mesh.slice.chip) + float(traffic_seconds(np.array(made), mesh.slice.chip))
    assert cost.hbm_seconds[padded] == pytest.approx(expected)
