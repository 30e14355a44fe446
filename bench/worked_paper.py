"""The paper's worked examples and identities through the model (Pope et al. 2022, arXiv:2211.05102).

Each function computes the numbers of the rows of its id in `data/worked_examples.csv`, in their order:
layouts, volumes and crossovers by `autoshard.cost`, bytes and parameters from traced or abstract programs.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from autoshard.cost.layouts import shard_counts
from autoshard.cost.paper import FeedForward, model_volume_bytes
from autoshard.cost.roofline import einsum_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.graph_building import build_graph
from autoshard.trace import trace
from bench import fig3, palm_multihead
from bench.book_chips import book_chip
from examples import palm

Numbers = tuple[float, ...]

_ELEMENT = 2  # bytes of bfloat16
_SPLITS = {2: "v4:2x4x8", 4: "v4:4x4x4", 8: "v4:8x2x4", 16: "v4:16x2x2"}
"""Slices of 64 chips by the chips along x, over which d_model is sharded."""


def shard_of_weights() -> Numbers:
    """A 1024 x 4096 matrix in the layout E_xF_yz on 4x4x4 chips."""
    rows, columns = shard_counts(np.array([[0, 1, 1]], np.int8), 2, native_mesh(parse_slice("v4:4x4x4")))[0]
    return 1024 / rows, 4096 / columns


def crossover(first: FeedForward, second: FeedForward) -> Numbers:
    """Tokens and GB at which the volumes of two layouts are equal."""
    tokens = fig3.crossover(fig3.volume_gb, first, second)
    return tokens, fig3.volume_gb(second, tokens)


def optimal_split() -> Numbers:
    """The split of 64 chips with the least volume of a 2D weight-stationary layer, and that volume."""
    tokens, e = 4096.0, 16384
    volumes = {
        x: model_volume_bytes(FeedForward.WS_2D, tokens, e, 4 * e, parse_slice(name))
        for x, name in _SPLITS.items()
    }
    best = min(volumes, key=volumes.__getitem__)
    return best, 64 / best, volumes[best] / _ELEMENT / (tokens * e)


def two_dims_over_one() -> Numbers:
    """Volume of 2D over 1D weight-stationary, F = 4E, on 16 and on 64 chips."""
    return _two_over_one("v4:2x2x4"), _two_over_one("v4:4x4x4")


def _two_over_one(slice_name: str) -> float:
    slice_ = parse_slice(slice_name)
    two, one = (
        model_volume_bytes(layout, 4096.0, 16384, 65536, slice_)
        for layout in (FeedForward.WS_2D, FeedForward.WS_1D)
    )
    return two / one


def gather_group() -> Numbers:
    """The best number of chips to gather weights over, and its bytes: volumes are ``a N + b / N``."""
    slice_ = parse_slice("v4:4x4x4")
    tokens, e, f = 2.0**20, 18432, 73728
    at_4, at_16 = (
        model_volume_bytes(layout, tokens, e, f, slice_) for layout in (FeedForward.WG_X, FeedForward.WG_XY)
    )
    a = (16 * at_16 - 4 * at_4) / (16**2 - 4**2)
    b = 4 * at_4 - 4**2 * a
    return math.sqrt(b / a), 2 * math.sqrt(a * b)


def multihead_cache_bytes() -> Numbers:
    """Bytes of the cache of a traced multihead decode step: 48 heads of 128, 512 sequences of 2048 tokens."""
    config = dataclasses.replace(palm_multihead.PALM_540B_MULTIHEAD, heads=48)
    function, inputs = palm_multihead.decode_target(config, batch=512, context=2048)
    traced = trace(function, inputs(), donate_argnames=("cache",))
    graph = build_graph(traced)
    return (
        sum(
            graph.values[value].nbytes
            for name, value in zip(traced.argument_names, graph.arguments, strict=True)
            if name.startswith("cache/")
        ),
    )


def padding_parameters() -> Numbers:
    """Parameters that padding 48 heads to 64 adds to PaLM 540B."""
    padded, plain = (
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(palm.abstract_params(config)))
        for config in (palm.PALM_540B, dataclasses.replace(palm.PALM_540B, heads=48))
    )
    return (padded - plain,)


def mfu(tokens: float, seconds: float) -> Numbers:
    """Time of the model's 2N flops per token at the peak of 64 v4 chips, as a share of the measured time."""
    compute, _ = einsum_seconds(2 * 540e9 * tokens / 64, 0.0, "bfloat16", book_chip("v4"))
    return (compute / seconds,)


def chip_milliseconds_per_token() -> Numbers:
    """Cost of a token: chips times time over sequences."""
    return (64 * 92.158 / 512,)


EXAMPLES: dict[str, Callable[[], Numbers]] = {
    "ESTI-3.2.2": shard_of_weights,
    "ESTI-fig3-a": lambda: crossover(FeedForward.WS_2D, FeedForward.WG_X),
    "ESTI-fig3-b": lambda: crossover(FeedForward.WG_X, FeedForward.WG_XY),
    "ESTI-fig3-c": lambda: crossover(FeedForward.WG_XY, FeedForward.WG_XYZ),
    "ESTI-2D-opt": optimal_split,
    "ESTI-1D-2D": two_dims_over_one,
    "ESTI-WG-N": gather_group,
    "ESTI-KV3TB": multihead_cache_bytes,
    "ESTI-pad": padding_parameters,
    "ESTI-MFU-1": lambda: mfu(512 * 2048, 85.2),
    "ESTI-MFU-2": lambda: mfu(64 * 64, 1.82),
    "ESTI-MFU-73": lambda: mfu(512 * 2048, 85.2 * 1984 / 2048 + 6.0),
    "ESTI-cost": chip_milliseconds_per_token,
}
