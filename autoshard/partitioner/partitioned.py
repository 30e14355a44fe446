"""A partitioned module as plain data: what `autoshard.partitioner.reading` reads out of Shardy's result.

Only what moves data, and what says how often it runs, is kept in detail: collectives, calls, loops, additions
and scalar constants. Tensors keep their whole shape; a sharding says how a chip's share comes about.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class AxisPart:
    """A mesh axis, or a part of one.

    Attributes:
        name: of the axis.
        before: the product of the parts that are more major; 1 for a whole axis.
        size: how many shards it makes.
    """

    name: str
    before: int
    size: int


Sharding = tuple[tuple[AxisPart, ...], ...]
"""For each dim of a tensor the axes that split it, major first."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as an op sees it; `sharding` is None where the chip has all of `shape` (in a `shard_map`)."""

    shape: tuple[int, ...]
    itemsize: float
    sharding: Sharding | None

    @property
    def bytes_per_chip(self) -> float:
        """Bytes of the largest shard."""
        splits = self.sharding or ((),) * len(self.shape)
        shards = (
            -(-size // prod(part.size for part in parts))
            for size, parts in zip(self.shape, splits, strict=True)
        )
        return prod(shards) * self.itemsize


@dataclass(frozen=True, slots=True)
class Move:
    """What a collective or a reshard moves.

    Attributes:
        source: the operand.
        target: the result.
        axes: over which it runs, where they are known.
        groups: partition ids of each group, where only these are known.
        pairs: (source, target) partition ids of a permute, where they are written down.
        location: MLIR's text of where it comes from.
    """

    source: Tensor
    target: Tensor
    axes: tuple[AxisPart, ...]
    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    location: str


@dataclass(frozen=True, slots=True)
class PartitionedOp:
    """One op; SSA values are ids, unique within the module.

    Attributes:
        name: such as ``stablehlo.add``.
        operands: ids.
        results: ids.
        callee: the function that it calls, if any.
        blocks: the first block of each region, of loops, conditionals and `shard_map`s only.
        number: value of a scalar integer constant.
        direction: of a comparison: ``LT``, ...
        move: what a collective or reshard moves.
    """

    name: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    callee: str | None = None
    blocks: tuple[Block, ...] = ()
    number: int | None = None
    direction: str = ""
    move: Move | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Arguments and ops; the last op returns."""

    arguments: tuple[int, ...]
    ops: tuple[PartitionedOp, ...]

    @property
    def returned(self) -> tuple[int, ...]:
        """Ids of what the block returns."""
        return self.ops[-1].operands if self.ops else ()
