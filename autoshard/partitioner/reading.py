"""Read a partitioned module of Shardy's into plain Python values (`autoshard.partitioner.partitioned`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoshard.partitioner.mlir import ir, sdy, stablehlo
from autoshard.partitioner.partitioned import AxisPart, Block, Move, PartitionedOp, Sharding, Tensor

SHARDING = "sdy.sharding"
"""Attribute of ops and arguments that holds the shardings."""

_MOVING = frozenset(
    (
        *(f"sdy.{name}" for name in ("all_gather", "all_reduce", "all_slice", "all_to_all")),
        *("sdy.collective_permute", "sdy.reduce_scatter", "sdy.reshard", "stablehlo.collective_broadcast"),
        *(f"stablehlo.{name}" for name in ("all_gather", "all_reduce", "all_to_all", "reduce_scatter")),
        "stablehlo.collective_permute",
    )
)
_NESTING = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if", "sdy.manual_computation"})
_AXES_OF = ("gathering_axes", "reduction_axes", "reduce_scatter_axes", "slicing_axes", "params")
_QUOTED_AXIS = re.compile(r'"([^"]+)"(?::\((\d+)\)(\d+))?')
_NAMED_AXIS = re.compile(r'axis_ref<name = "([^"]+)"(?:, sub_axis_info = \((\d+)\)(\d+))?')
_BITS = re.compile(r"\d+")


def read_functions(functions: Sequence[Any], axis_sizes: Mapping[str, int]) -> dict[str, Block]:
    """Return the functions of a partitioned module by symbol name.

    Args:
        functions: its `func.func` ops.
        axis_sizes: sizes of the mesh axes by name.
    """
    reader = _Reader(axis_sizes)
    return {
        ir.StringAttr(each.attributes["sym_name"]).value: reader.block(each.regions[0].blocks[0])
        for each in functions
    }


def sharding_of(value: Any) -> Any:
    """The sharding of an SSA value, None where it has none: it is then whole on every chip."""
    if isinstance(value, ir.BlockArgument):
        owner, position = value.owner.owner, value.arg_number
        if owner.operation.name == "func.func":
            return _argument_sharding(owner.attributes, position)
        if owner.operation.name != "stablehlo.while":
            return None
    else:
        owner, position = value.owner, ir.OpResult(value).result_number
    attributes = owner.attributes
    for name in ("out_sharding", "sharding"):
        if name in attributes:
            return sdy.TensorShardingAttr(attributes[name])
    if SHARDING not in attributes:
        return None
    return sdy.TensorShardingAttr(sdy.TensorShardingPerValueAttr(attributes[SHARDING]).shardings[position])


def _argument_sharding(attributes: Any, position: int) -> Any:
    if "arg_attrs" not in attributes:
        return None
    given = ir.DictAttr(ir.ArrayAttr(attributes["arg_attrs"])[position])
    return sdy.TensorShardingAttr(given[SHARDING]) if SHARDING in given else None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns ops into plain values."""

    sizes: Mapping[str, int]
    ids: dict[Any, int] = field(default_factory=dict)

    def block(self, block: Any) -> Block:
        arguments = self.values(block.arguments)
        return Block(arguments, tuple(map(self.op, block.operations)))

    def op(self, op: Any) -> PartitionedOp:
        name, attributes = op.operation.name, op.attributes
        nested = name in _NESTING
        return PartitionedOp(
            name,
            self.values(op.operands),
            self.values(op.results),
            callee=ir.FlatSymbolRefAttr(attributes["callee"]).value if name == "func.call" else None,
            blocks=tuple(self.block(region.blocks[0]) for region in op.regions) if nested else (),
            number=_number(attributes["value"]) if name in ("sdy.constant", "stablehlo.constant") else None,
            direction=_direction(attributes) if name == "stablehlo.compare" else "",
            move=self.move(op) if name in _MOVING else None,
        )

    def values(self, values: Any) -> tuple[int, ...]:
        return tuple(self.ids.setdefault(value, len(self.ids)) for value in values)

    def move(self, op: Any) -> Move:
        attributes = op.attributes
        texts = [str(attributes[name]) for name in _AXES_OF if name in attributes]
        axes = [self.part(*found) for text in texts for found in _QUOTED_AXIS.findall(text)]
        groups: tuple[tuple[int, ...], ...] = ()
        if "replica_groups" in attributes:
            named = _NAMED_AXIS.findall(str(attributes["replica_groups"]))
            axes += [self.part(*found) for found in named]
            groups = () if named else _rows(attributes["replica_groups"])
        return Move(
            source=self.tensor(op.operands[0]),
            target=self.tensor(op.results[0]),
            axes=tuple(axes),
            groups=groups,
            pairs=tuple((a, b) for a, b in _rows(attributes["source_target_pairs"]))
            if "source_target_pairs" in attributes
            else (),
            location=str(op.location),
        )

    def tensor(self, value: Any) -> Tensor:
        found = sharding_of(value)
        element = str(value.type.element_type)
        bits = _BITS.search(element)
        itemsize = (int(bits[0]) if bits else 8) / 8 * (2 if element.startswith("complex") else 1)
        one_bit = element == "i1"
        return Tensor(tuple(value.type.shape), 1.0 if one_bit else itemsize, self.sharding(found))

    def sharding(self, attribute: Any) -> Sharding | None:
        if attribute is None:
            return None
        dims = [sdy.DimensionShardingAttr(dim) for dim in attribute.dimension_shardings]
        return tuple(tuple(self.axis(axis) for axis in dim.axes) for dim in dims)

    def axis(self, attribute: Any) -> AxisPart:
        axis = sdy.AxisRefAttr(attribute)
        if axis.sub_axis_info is None:
            return self.part(axis.name)
        part = sdy.SubAxisInfoAttr(axis.sub_axis_info)
        return AxisPart(axis.name, part.pre_size, part.size)

    def part(self, name: str, before: str = "", size: str = "") -> AxisPart:
        return AxisPart(name, int(before or 1), int(size or self.sizes[name]))


def _number(value: Any) -> int | None:
    """The value of a scalar integer constant."""
    if not isinstance(value, ir.DenseIntElementsAttr) or ir.ShapedType(value.type).rank > 0:
        return None
    return int(value[0])


def _direction(attributes: Any) -> str:
    return str(stablehlo.ComparisonDirectionAttr(attributes["comparison_direction"]).value)


def _rows(attribute: Any) -> tuple[tuple[int, ...], ...]:
    """The rows of a matrix of integers."""
    _, width = ir.ShapedType(attribute.type).shape
    numbers = ir.DenseIntElementsAttr(attribute)
    flat = [int(numbers[place]) for place in range(len(numbers))]
    return tuple(tuple(flat[start : start + width]) for start in range(0, len(flat), width))
