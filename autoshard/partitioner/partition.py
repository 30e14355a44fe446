"""Partition a program by Shardy's passes, which jaxlib carries and the compilers run too.

`sdy-propagation-pipeline` shards every tensor from the constraints of a program;
`sdy-insert-explicit-reshards` puts a reshard wherever a sharding has to change, and
`sdy-reshard-to-collectives` says by which collectives.

The last two are not what compilers do: these leave it to XLA's own partitioner, which keeps the sum over a
contracted dim that both operands split alike, whatever the result is to be. Shardy may take the operands
apart instead, so such sums are left open before (`_leave_sums_open`). With that the collectives of 16 of 17
plans of both examples have the bytes that the TPU compiler gives them to 1 %; in the last the compiler does
one gather twice (`bench/tier1.py`).

A pass may abort the process where it meets what it does not know: partition in a child process.
"""

from __future__ import annotations

from typing import Any

from autoshard.partitioner.mlir import read_artifact, run_passes, sdy, stablehlo
from autoshard.partitioner.partitioned import Block
from autoshard.partitioner.reading import SHARDING, read_functions, sharding_of

_PROPAGATE = "builtin.module(sdy-propagation-pipeline)"
_RESHARDS = "builtin.module(func.func(sdy-insert-explicit-reshards{enable-full-version=true}))"
_COLLECTIVES = "builtin.module(func.func(sdy-reshard-to-collectives))"


def partition(artifact: bytes, *, to_collectives: bool = True) -> dict[str, Block]:
    """Run Shardy over a program with sharding constraints and return its functions by symbol name.

    Args:
        artifact: a portable StableHLO artifact, as `jax.export` keeps it.
        to_collectives: say by which collectives each reshard is done; else `sdy.reshard` ops stay.

    Raises:
        ValueError: the bytes are no artifact that this jaxlib reads, or it lacks a pass.
        Exception: jaxlib's error where a pass refuses the program. It may also end the process.
    """
    module = read_artifact(artifact)
    run_passes(module, _PROPAGATE)
    with module.context:
        for function in _functions(module):
            _leave_sums_open(function.regions[0].blocks[0])
    for stage in (_RESHARDS, _COLLECTIVES) if to_collectives else (_RESHARDS,):
        run_passes(module, stage)
    with module.context:
        return read_functions(_functions(module), _mesh_sizes(module))


def _functions(module: Any) -> list[Any]:
    return [op for op in module.body.operations if op.operation.name == "func.func"]


def _mesh_sizes(module: Any) -> dict[str, int]:
    """Sizes of the mesh axes by name; all meshes of a program name the same axes."""
    meshes = [
        sdy.MeshAttr(op.attributes["mesh"])
        for op in module.body.operations
        if op.operation.name == "sdy.mesh"
    ]
    axes = [sdy.MeshAxisAttr(axis) for mesh in meshes for axis in mesh.axes]
    return {axis.name: axis.size for axis in axes}


def _leave_sums_open(block: Any) -> None:
    """Free the results of contractions from the axes that both operands split a contracted dim by.

    What reads them still wants its sharding, so the sum is then reduced and sliced.
    """
    for op in block.operations:
        for region in op.operation.regions:
            for inner in region.blocks:
                _leave_sums_open(inner)
        if op.operation.name == "stablehlo.dot_general" and SHARDING in op.attributes:
            _free_result(op, _summed_axes(op))


def _summed_axes(op: Any) -> set[str]:
    dims = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    sides = []
    pairs = ((0, dims.lhs_contracting_dimensions), (1, dims.rhs_contracting_dimensions))
    for position, contracted in pairs:
        sharding = sharding_of(op.operands[position])
        if sharding is None:
            return set()
        splits = [sdy.DimensionShardingAttr(sharding.dimension_shardings[dim]) for dim in contracted]
        sides.append({str(axis) for split in splits for axis in split.axes})
    return sides[0] & sides[1]


def _free_result(op: Any, summed: set[str]) -> None:
    if not summed:
        return
    (sharding,) = sdy.TensorShardingPerValueAttr(op.attributes[SHARDING]).shardings
    old = sdy.TensorShardingAttr(sharding)
    kept = [
        [axis for axis in sdy.DimensionShardingAttr(dim).axes if str(axis) not in summed]
        for dim in old.dimension_shardings
    ]
    new = sdy.TensorShardingAttr.get(
        old.mesh_or_ref, [sdy.DimensionShardingAttr.get(axes, is_closed=True) for axes in kept]
    )
    op.attributes[SHARDING] = sdy.TensorShardingPerValueAttr.get([new])
