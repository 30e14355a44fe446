"""The scaling book's worked examples through the model (jax-ml/scaling-book: tpus, sharding, inference).

Each function computes the numbers of the rows of its id in `data/worked_examples.csv`, in their order. Models
are the shapes of `examples/llama.py`; chips are those of the table at full rates (`bench.book_chips`), so a
result differs from the book's by what its rounded bandwidths differ from the table's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.paper import FeedForward, model_collectives
from autoshard.cost.roofline import einsum_seconds, stream_seconds
from autoshard.cost.slices import slices_of
from autoshard.cost.torus import TorusMesh
from bench.book_chips import book_chip, book_mesh, book_seconds
from examples import llama

Numbers = tuple[float, ...]

_US, _MS = 1e6, 1e3
_BF16 = 2  # bytes
LLAMA2_13B = llama.Config(layers=40, d_model=5120, d_ff=13_824, heads=40, kv_heads=40, vocab=32_000)
QUESTION_1 = llama.Config(64, 4096, 16_384, heads=32, kv_heads=8, d_head=256, vocab=32_128)
INT8_70B = dataclasses.replace(llama.LLAMA3_70B, dtype="int8")
V5E = book_chip("v5e")


def tree_bytes(tree: Any) -> float:
    """Bytes of a tree of abstract arrays."""
    return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def load_weights() -> Numbers:
    """Streaming 200B bfloat16 parameters from the HBM of 32 chips."""
    return (stream_seconds(400e9 / 32, book_chip("v4")) * _MS,)


def gather_x() -> Numbers:
    """All-gather over one ring of 4x4x4 chips, of the [1024, 4096] array that y shards too."""
    return (book_seconds(Kind.ALL_GATHER, _BF16 * 1024 * 4096 / 4, ("x",), _cube()) * _US,)


def gather_xy() -> Numbers:
    """The same over two rings at once."""
    return (book_seconds(Kind.ALL_GATHER, _BF16 * 1024 * 4096, ("x", "y"), _cube()) * _US,)


def reduce_z() -> Numbers:
    """All-reduce over z of the array that x and y shard."""
    return (book_seconds(Kind.ALL_REDUCE, _BF16 * 1024 * 4096 / 16, ("z",), _cube()) * _US,)


def gather_little() -> Numbers:
    """All-gather of 128 elements over a ring of 4: nothing but hops of 1 us."""
    mesh = book_mesh("v4", (4, 4, 4), hop_seconds=1e-6)
    return (collective_seconds(Kind.ALL_GATHER, _BF16 * 128.0, (0,), mesh) * _US,)


def gather_v5e() -> Numbers:
    """All-gather of [2048, 8192]: with a ring (which v5e has over 16 chips), and over a line of 4."""
    nbytes = _BF16 * 2048.0 * 8192
    ring, line = book_mesh("v5e", (1, 16)), book_mesh("v5e", (8, 4))
    on_line = collective_seconds(Kind.ALL_GATHER, nbytes, (line.names.index("y"),), line)
    return book_seconds(Kind.ALL_GATHER, nbytes, ("y",), ring) * _US, on_line * _US


def decode_30b(batch: int) -> Numbers:
    """A decode step of 30B int8 parameters on 16 chips: 819 MB of cache per sequence, then the matmuls."""
    compute, weights = einsum_seconds(2 * batch * 30e9 / 16, 30e9 / 16, "bfloat16", V5E)
    return ((stream_seconds(batch * 819e6 / 16, V5E) + max(compute, weights)) * _MS,)


def decode_13b(kv_heads: int) -> Numbers:
    """Decode steps of Llama-2-13B on 8 chips, context 8192, by batch: weights and cache read once."""
    config = dataclasses.replace(LLAMA2_13B, kv_heads=kv_heads)
    weights = tree_bytes(llama.abstract_params(LLAMA2_13B))
    cache = tree_bytes(llama.abstract_cache(config, 1, 8192))
    return tuple(stream_seconds((weights + b * cache) / 8, V5E) * _MS for b in (1, 8, 16, 32, 64, 240))


def parameters() -> Numbers:
    """Parameters of the model of question 1, whose embedding is tied."""
    tree = {k: v for k, v in llama.abstract_params(QUESTION_1).items() if k != "unembed"}
    return (tree_bytes(tree) / _BF16,)


def axis_aware() -> Numbers:
    """2D weight-stationary on 8x8x8 chips where a collective has only the links of its own dims.

    Time times ``sqrt(N) W / (B D)`` of the 2D layer, time times ``W / (B D)`` of the 1D one, and the number
    of chips from which 2D is the faster, given that its time falls with the root of it.
    """
    tokens, d, n_chips, per_axis = 4096.0, 8192, 512, 9e10
    two = _layer_seconds(FeedForward.WS_2D, tokens, d) * per_axis / (tokens * d)
    one = _layer_seconds(FeedForward.WS_1D, tokens, d) * per_axis / (tokens * d)
    return two * math.sqrt(n_chips), one, n_chips * (two / one) ** 2


def _layer_seconds(layout: FeedForward, tokens: float, d_model: int) -> float:
    """Time of a layer's collectives without the factors (n-1)/n; F is 4 D."""
    mesh = book_mesh("v4", (8, 8, 8))
    return sum(
        book_seconds(found.kind, found.bytes_per_chip, found.axes, mesh)
        for found in model_collectives(layout, tokens, d_model, 4 * d_model, mesh)
    )


def latency_bound() -> Numbers:
    """Bytes of an all-gather over a line of 8 whose hops of 1 us take as long as its bytes, and per hop."""
    hops, rate = book_mesh("v5e", (8, 1), hop_seconds=1e-6), book_mesh("v5e", (8, 1))
    latency = collective_seconds(Kind.ALL_GATHER, 0.0, (0,), hops)
    nbytes = latency / collective_seconds(Kind.ALL_GATHER, 1.0, (0,), rate)
    return nbytes, nbytes / 8


def cache_per_token() -> Numbers:
    """Int8 cache of Llama-3-70B."""
    return (tree_bytes(llama.abstract_cache(INT8_70B, 1, 1)),)


def serving_memory() -> Numbers:
    """Int8 Llama-3-70B with 32 sequences of 8192 tokens: GB, and chips of the smallest slice for it."""
    nbytes = _serving_bytes()
    return nbytes / 1e9, _smallest_slice(nbytes)


def serving_latency() -> Numbers:
    """Reading all of that on 8 and on 16 chips, and tokens per second on 8."""
    eight, sixteen = (stream_seconds(_serving_bytes() / n, V5E) for n in (8, 16))
    return eight * _MS, sixteen * _MS, 32 / eight


def _serving_bytes() -> float:
    cache = tree_bytes(llama.abstract_cache(INT8_70B, 32, 8192))
    return tree_bytes(llama.abstract_params(INT8_70B)) + cache


def weights_only() -> Numbers:
    """Chips of the smallest v5e slice for Llama-3-70B in bfloat16, int8 and int4."""
    weights = tree_bytes(llama.abstract_params(INT8_70B))
    return tuple(_smallest_slice(weights * share) for share in (2.0, 1.0, 0.5))


def _smallest_slice(nbytes: float) -> float:
    return min(found.n_chips for found in slices_of(V5E) if found.n_chips * V5E.hbm_bytes >= nbytes)


def full_memory() -> Numbers:
    """Streaming 16 GB."""
    return (stream_seconds(16e9, V5E) * _MS,)


def one_matmul() -> Numbers:
    """ICI, HBM and compute time of [64, 8192] by [8192, 28672] on 4x8 chips."""
    b, d, f = 64.0, 8192.0, 28672.0
    ici = book_seconds(Kind.ALL_GATHER, _BF16 * b * d, ("x", "y"), book_mesh("v5e", (4, 8)))
    compute, hbm = einsum_seconds(2 * b * d * f / 32, _BF16 * d * f / 32, "bfloat16", V5E)
    return ici * _US, hbm * _US, compute * _US


def prefill_70b() -> Numbers:
    """8192 tokens of prefill on 16 chips at 40% of the peak."""
    compute, _ = einsum_seconds(2 * 70e9 * 8192 / 16, 0.0, "bfloat16", book_chip("v5e", mxu_fraction=0.4))
    return (compute,)


def evicted() -> Numbers:
    """Tokens of cache that leave and enter per step: 32 sequences of 8192 in and 4096 out."""
    return (32 * (8192 + 4096) / 4096,)


def prefill_servers() -> Numbers:
    """Prefill servers per decode server: a prefill against 512 steps of 32 sequences at full memory."""
    (prefill,), (step,) = prefill_70b(), full_memory()
    return (32 * prefill / (512 * step / _MS),)


def _cube() -> TorusMesh:
    return book_mesh("v4", (4, 4, 4))


EXAMPLES: dict[str, Callable[[], Numbers]] = {
    "SB-2.1": load_weights,
    "SB-3.2a": gather_x,
    "SB-3.2b": gather_xy,
    "SB-3.2c": reduce_z,
    "SB-3.3": gather_little,
    "SB-3.pop": gather_v5e,
    "SB-7.pop": lambda: decode_30b(4),
    "SB-7.pop2": lambda: decode_30b(256),
    "SB-7.llama13": lambda: decode_13b(40),
    "SB-7.llama13gqa": lambda: decode_13b(8),
    "SB-7.Q1": parameters,
    "SB-7.Q7": axis_aware,
    "SB-7.C": latency_bound,
    "SB-8.kv": cache_per_token,
    "SB-8.mem": serving_memory,
    "SB-8.lat": serving_latency,
    "SB-8.topo": weights_only,
    "SB-8.fill": full_memory,
    "SB-8.4x8": one_matmul,
    "SB-8.prefill": prefill_70b,
    "SB-8.evict": evicted,
    "SB-8.ratio": prefill_servers,
}
