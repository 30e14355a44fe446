"""The adapter to Shardy's op sharding rules, which jaxlib carries but JAX does not export.

Shardy keeps for every StableHLO op a rule that names the factor behind each dim, such as
`#sdy.op_sharding_rule<([i, j], [j, k])->([i, k]) reduction={j}>`. The pass
`sdy-populate-op-sharding-rules` writes the rules into a lowered module; this module runs it and hands the
result on as plain Python values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.stages import Lowered

from autoshard.partitioner.mlir import ir, run_passes, sdy

_PIPELINE = "builtin.module(func.func(sdy-populate-op-sharding-rules))"
_RULE = "sdy.sharding_rule"


@dataclass(frozen=True, slots=True)
class OpRule:
    """Shardy's rule of one StableHLO op; dims are tuples of indices into `sizes`."""

    sizes: tuple[int, ...]
    operand_dims: tuple[tuple[tuple[int, ...], ...], ...]
    result_dims: tuple[tuple[tuple[int, ...], ...], ...]
    reduction: frozenset[int]
    replicated: frozenset[int]


@dataclass(frozen=True, slots=True)
class LoweredOp:
    """One StableHLO op: its SSA operands and results as ids, its rule, and the function it calls, if any."""

    name: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    result_shapes: tuple[tuple[int, ...], ...]
    rule: OpRule | None
    callee: str | None


@dataclass(frozen=True, slots=True)
class LoweredFunction:
    """One function of a lowered module; ids are unique within the module."""

    name: str
    arguments: tuple[int, ...]
    argument_shapes: tuple[tuple[int, ...], ...]
    ops: tuple[LoweredOp, ...]
    returned: tuple[int, ...]
    returned_shapes: tuple[tuple[int, ...], ...]


def lowered_functions(lowered: Lowered) -> dict[str, LoweredFunction]:
    """Run Shardy's rule pass over a lowered module and return its functions by symbol name."""
    module = lowered.compiler_ir("stablehlo")
    if module is None:
        raise RuntimeError("the lowered computation has no StableHLO module")
    with module.context:
        run_passes(module, _PIPELINE)
        ids: dict[Any, int] = {}
        functions = (_function(op, ids) for op in module.body.operations if op.operation.name == "func.func")
        return {function.name: function for function in functions}


def _function(op: Any, ids: dict[Any, int]) -> LoweredFunction:
    block = op.regions[0].blocks[0]
    *inner, last = block.operations  # the last one returns
    return LoweredFunction(
        name=ir.StringAttr(op.attributes["sym_name"]).value,
        arguments=tuple(_ids(block.arguments, ids)),
        argument_shapes=tuple(map(_shape, block.arguments)),
        ops=tuple(_op(each, ids) for each in inner),
        returned=tuple(_ids(last.operands, ids)),
        returned_shapes=tuple(map(_shape, last.operands)),
    )


def _ids(values: Any, ids: dict[Any, int]) -> Iterator[int]:
    for value in values:
        yield ids.setdefault(value, len(ids))


def _op(op: Any, ids: dict[Any, int]) -> LoweredOp:
    attributes = op.attributes
    callee = ir.FlatSymbolRefAttr(attributes["callee"]).value if op.operation.name == "func.call" else None
    return LoweredOp(
        name=op.operation.name,
        operands=tuple(_ids(op.operands, ids)),
        results=tuple(_ids(op.results, ids)),
        result_shapes=tuple(map(_shape, op.results)),
        rule=_rule(attributes[_RULE]) if _RULE in attributes else None,
        callee=callee,
    )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.type.shape) if isinstance(value.type, ir.RankedTensorType) else ()


def _rule(attribute: Any) -> OpRule:
    rule = sdy.OpShardingRuleAttr(attribute)
    # A permutation factor (slice, pad, window) needs data of its neighbours: it is not split here.
    replicated = [*rule.need_replication_factors, *rule.permutation_factors]
    return OpRule(
        sizes=tuple(rule.factor_sizes),
        operand_dims=tuple(_dims(mapping) for mapping in rule.operand_mappings),
        result_dims=tuple(_dims(mapping) for mapping in rule.result_mappings),
        reduction=frozenset(rule.reduction_factors),
        replicated=frozenset(replicated),
    )


def _dims(mapping: Any) -> tuple[tuple[int, ...], ...]:
    dims = sdy.TensorMappingAttr(mapping).dim_mappings
    return tuple(tuple(sdy.DimMappingAttr(dim).factor_indices) for dim in dims)
