"""Worked examples for A100 GPUs through the model (kipply, "Transformer Inference Arithmetic").

Each function computes the numbers of the rows of its id in `data/worked_examples.csv`, in their order. Bytes
and flops of the 52B model (64 layers, d_model 8192) come from a traced decode step of `bench.mtnlg`, whose
blocks are those of the draft. The draft counts four messages per layer.
"""

import functools
from collections.abc import Callable

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.roofline import einsum_seconds, stream_seconds
from autoshard.graph_building import build_graph
from autoshard.search.graph import Graph
from autoshard.trace import trace
from bench import mtnlg
from bench.book_chips import book_chip, book_mesh, book_seconds
from examples.palm import Config

Numbers = tuple[float, ...]

_MS = 1e3
_MESSAGES = 4
MODEL_52B = Config(layers=64, d_model=8192, d_ff=4 * 8192, heads=64, d_head=128)
A100_40GB = book_chip("a100", hbm_bytes=40e9, hbm_bytes_per_second=1.5e12)


@functools.cache
def _traced_52b() -> tuple[Graph, dict[str, int]]:
    """The graph of one decode step of one token in a context of one, and its arguments by name."""
    function, inputs = mtnlg.decode_target(MODEL_52B, batch=1, context=1)
    traced = trace(function, inputs(), donate_argnames=("cache",))
    graph = build_graph(traced)
    return graph, dict(zip(traced.argument_names, graph.arguments, strict=True))


def _bytes(*names: str) -> float:
    graph, arguments = _traced_52b()
    return sum(graph.values[arguments[name]].nbytes for name in names)


def _flops(*names: str) -> float:
    """Flops per step of the einsums with these weights."""
    graph, arguments = _traced_52b()
    stacked = {arguments[f"params/layers/{name}"] for name in names}
    slices = {tie.inner for tie in graph.ties if tie.outer in stacked}
    return sum(op.flops * op.trips for op in graph.einsums if slices & set(op.operands))


def cache_per_token() -> Numbers:
    """Bytes of keys and values of one token."""
    return (_bytes("cache/keys", "cache/values"),)


def flops_per_byte() -> Numbers:
    """Peak over HBM bandwidth."""
    return (A100_40GB.peak("bfloat16") / A100_40GB.hbm_bytes_per_second,)


def project_keys_and_values() -> Numbers:
    """Reading the key and value matrices of all layers, and their flops."""
    nbytes = _bytes("params/layers/wk", "params/layers/wv")
    return stream_seconds(nbytes, A100_40GB) * _MS, _flops("wk", "wv")


def capacity() -> Numbers:
    """Tokens of cache in what 104 GB of weights leave on 3 and on 4 GPUs."""
    (per_token,) = cache_per_token()
    free = (n * A100_40GB.hbm_bytes - 104e9 for n in (3, 4))
    return tuple(nbytes / per_token for nbytes in free)


def small_batch() -> Numbers:
    """260B parameters on 16 GPUs: reading them, the messages' latency over 80 layers, and both."""
    weights = stream_seconds(2 * 260e9 / 16, A100_40GB) * _MS
    mesh = book_mesh("a100", (8,), collective_base_seconds=1e-5)
    messages = 80 * _MESSAGES * collective_seconds(Kind.ALL_GATHER, 0.0, (0,), mesh) * _MS
    return weights, messages, weights + messages


def large_batch() -> Numbers:
    """260B parameters on 16 GPUs, 512 tokens: compute, messages over 80 layers of 16384, and both."""
    compute, messages = _compute_and_messages(512, 260e9, 16, 80, 16384)
    return compute, messages, compute + messages


def batch_256() -> Numbers:
    """52B parameters on 4 GPUs, 256 tokens: compute, and messages over 64 layers of 8192."""
    return _compute_and_messages(256, 52e9, 4, 64, 8192)


def _compute_and_messages(
    tokens: int, parameters: float, n_chips: int, layers: int, d_model: int
) -> tuple[float, float]:
    """Milliseconds of the matmuls and of the messages' bytes; the draft counts a byte per element."""
    compute, _ = einsum_seconds(2 * tokens * parameters / n_chips, 0.0, "bfloat16", A100_40GB)
    nbytes = float(tokens * d_model)
    message = book_seconds(Kind.ALL_GATHER, nbytes, ("x",), book_mesh("a100", (8,)))
    return compute * _MS, layers * _MESSAGES * message * _MS


def flops_per_token() -> Numbers:
    """Flops of all matrices of the layers."""
    return (_flops("wq", "wk", "wv", "wo", "w_up", "w_down"),)


EXAMPLES: dict[str, Callable[[], Numbers]] = {
    "KI-kv": cache_per_token,
    "KI-flops": flops_per_byte,
    "KI-kvtime": project_keys_and_values,
    "KI-cap": capacity,
    "KI-gopher1": small_batch,
    "KI-gopher512": large_batch,
    "KI-52B": batch_256,
    "KI-fl": flops_per_token,
}
