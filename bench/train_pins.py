"""Pins that lay a train step out as data, fully sharded (FSDP) and tensor parallelism name it.

With D, F and T the mesh axes of the three: the batch lies over D and F; a weight lies over F on the dim of
d_model, over T on its other dim (heads, d_ff, vocab), and so do its moments and its gradient; an einsum reads
activations as they lie and weights gathered over F. What these names leave open stays the search's choice:
how a norm is split, whether the residual between blocks is scattered over T, the order of gathers.

The gradient of a weight is pinned to sum over the batch where it lies, which leaves it unreduced over D and
F; where its two dims have one size it cannot be told which of them T splits, and T is left open there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoshard.search.graph import Dims, Graph, Op
from bench.train_models import Config, layer_shapes

_INTO_D_MODEL = ("wo", "w_down")
_TABLES = ("embed", "unembed")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Mesh axes by what they are for, such as ``"x,y"``; "" for none."""

    data: str
    fsdp: str
    tensor: str

    @property
    def batch(self) -> str:
        """The axes over which the batch lies."""
        return ",".join(axes for axes in (self.data, self.fsdp) if axes)


def pins_of(graph: Graph, config: Config, parallel: Parallelism) -> tuple[str, ...]:
    """Pins for all matrices, their moments, and the einsums that read or make matrices."""
    return (*_argument_pins(config, parallel), *_einsum_pins(graph, config, parallel))


def _argument_pins(config: Config, parallel: Parallelism) -> Iterator[str]:
    fsdp, tensor = parallel.fsdp, parallel.tensor
    specs = {
        f"layers/{name}": f";{tensor};{fsdp}" if name in _INTO_D_MODEL else f";{fsdp};{tensor}"
        for name, shape in layer_shapes(config).items()
        if len(shape) == 2
    }
    specs |= {name: f"{tensor};{fsdp}" for name in _TABLES[: 1 if config.tied else 2]}
    for path, spec in specs.items():
        yield f"params/{path}={spec}"
        yield from (f"moments/{n}/{path}={spec}" for n in (0, 1))
        yield f"result:1/{path}={spec}"
        yield from (f"result:2/{n}/{path}={spec}" for n in (0, 1))


def _einsum_pins(graph: Graph, config: Config, parallel: Parallelism) -> Iterator[str]:
    for op in graph.einsums:
        spec = _reading(graph, op, parallel) or _making(graph, op, config, parallel)
        if spec is not None:
            yield f"einsum:{op.name}={spec}"


def _reading(graph: Graph, op: Op, parallel: Parallelism) -> str | None:
    """Spec of an einsum that reads a matrix; None if it reads none."""
    weight = graph.values[op.operands[1]].name.rpartition("/")[2]
    if len(op.operand_dims[1]) != 2 or weight not in (*_INTO_D_MODEL, *_TABLES, *_FROM_D_MODEL):
        return None
    split = op.operand_dims[1][1 if weight in _FROM_D_MODEL else 0]
    tensor = {split: parallel.tensor}
    return f"{_activations(op.operand_dims[0], tensor, parallel)} | {_spec(op.operand_dims[1], tensor)}"


_FROM_D_MODEL = ("wq", "wk", "wv", "w_gate", "w_up")


def _making(graph: Graph, op: Op, config: Config, parallel: Parallelism) -> str | None:
    """Spec of an einsum that makes the gradient of a matrix; None if it is none."""
    left, right = op.operand_dims
    if (len(left), len(right), len(op.result_dims[0])) != (3, 3, 2) or left[:2] != right[:2]:
        return None
    sizes = [graph.values[value].shape[-1] for value in op.operands]
    if parallel.tensor and sizes.count(config.d_model) != 1:
        return None
    tensor = {
        dims[-1]: parallel.tensor
        for dims, size in zip((left, right), sizes, strict=True)
        if size != config.d_model
    }
    return " | ".join(_activations(dims, tensor, parallel) for dims in (left, right))


def _activations(dims: Dims, tensor: dict[tuple[int, ...], str], parallel: Parallelism) -> str:
    """Spec of activations [b, l, ...]."""
    return ";".join([parallel.batch, "", _spec(dims[2:], tensor)])


def _spec(dims: Dims, tensor: dict[tuple[int, ...], str]) -> str:
    return ";".join(tensor.get(dim, "") for dim in dims)
