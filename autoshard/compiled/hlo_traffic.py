"""HBM bytes of the few compiled instructions for which the compiler counts no cycles.

Nearly all compute carries `estimated_cycles`. What does not is in-place updates, small copies, some gathers
and custom calls (Pallas kernels). Their time is filled in as bytes over HBM bandwidth, with bytes as the
hardware moves them: a dynamic-update-slice in place moves its update, a slice or gather what it takes, not
the array it takes it from. A value in on-chip memory moves no HBM bytes. Kernels that state their own cost
(`bytes_accessed`) are believed.
"""

from __future__ import annotations

import re

from autoshard.compiled.hlo import Computation, Instruction, Module, Shape

_NO_TRAFFIC = frozenset({
    "add-dependency", "after-all", "bitcast", "constant", "domain", "get-tuple-element", "iota",
    "opt-barrier", "parameter", "partition-id", "replica-id", "tuple", "rng-get-and-update-state",
})  # fmt: skip
_NO_TRAFFIC_TARGETS = frozenset(
    {
        "AllocateBuffer",
        "ConcatBitcast",
        "Sharding",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
        "AsyncCollectiveStart",
        "AsyncCollectiveDone",
    }
)
_TAKES_A_PART = frozenset({"dynamic-slice", "slice", "gather"})
_VIEWS = frozenset({"bitcast", "reshape", "copy", "convert"})
_STATED_BYTES = re.compile(r'"?bytes_accessed"?:\s*"?(\d+)')


def moved_bytes(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Return the HBM bytes that an instruction reads and writes.

    Args:
        instruction: one that is neither a collective nor a loop.
        computation: where it stands.
        module: the module of both.
    """
    target = instruction.attributes.get("custom_call_target", "").strip('"')
    if instruction.opcode in _NO_TRAFFIC or target in _NO_TRAFFIC_TARGETS:
        return 0.0
    if instruction.opcode == "custom-call" and (stated := _STATED_BYTES.search(instruction.backend_config)):
        return float(stated[1])
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _operand_bytes(instruction, 1, computation)
    if instruction.opcode in _TAKES_A_PART:
        return 2.0 * hbm_bytes(instruction.shapes)
    if instruction.opcode == "fusion":
        return _fusion_bytes(instruction, computation, module)
    return hbm_bytes(instruction.shapes) + sum(
        hbm_bytes(each.shapes) for each in computation.operands_of(instruction)
    )


def copied_bytes(instruction: Instruction) -> float:
    """Return the bytes that a copy between HBM and on-chip memory moves over the HBM's wires."""
    arrays = [shape for shape in instruction.shapes if shape.dims]  # the rest is the pair's context
    copied = min((shape.nbytes for shape in arrays), default=0.0)
    in_hbm = [shape for shape in arrays if hbm_bytes((shape,))]
    both_sides = instruction.opcode == "copy-start" and len(in_hbm) == 2
    return copied * (2 if both_sides else 1) if in_hbm else 0.0


def hbm_bytes(shapes: tuple[Shape, ...]) -> float:
    """Return the bytes of those arrays that lie in HBM."""
    return sum(shape.nbytes for shape in shapes if shape.memory_space == 0)


def _fusion_bytes(fusion: Instruction, computation: Computation, module: Module) -> float:
    called = module.called_by(fusion)
    if not called:
        return hbm_bytes(fusion.shapes) + sum(
            hbm_bytes(each.shapes) for each in computation.operands_of(fusion)
        )
    inner = called[0]
    reads = sum(
        _parameter_bytes(each, inner, fusion, computation)
        for each in inner.instructions
        if each.opcode == "parameter"
    )
    return reads + _written_bytes(fusion, inner)


def _parameter_bytes(
    parameter: Instruction, inner: Computation, fusion: Instruction, outer: Computation
) -> float:
    """Return how much of an operand a fusion reads."""
    number = int(parameter.argument)
    operand = outer.by_name.get(fusion.operands[number]) if number < len(fusion.operands) else None
    if operand is not None and hbm_bytes(operand.shapes) == 0:
        return 0.0
    users = _users(parameter.name, inner)
    if users and all(_uses_a_part(user, parameter.name) for user in users):
        return sum(_part_bytes(user, inner) for user in users)
    return parameter.nbytes


def _users(name: str, inner: Computation) -> list[Instruction]:
    """Return the users of a value, those of its mere views in their place."""
    users = []
    for each in inner.instructions:
        if name in each.operands:
            users += _users(each.name, inner) if each.opcode == "bitcast" and not each.is_root else [each]
    return users


def _uses_a_part(user: Instruction, name: str) -> bool:
    if user.opcode in _TAKES_A_PART:
        return True
    return user.opcode == "dynamic-update-slice" and name not in user.operands[1:]


def _part_bytes(user: Instruction, inner: Computation) -> float:
    return 0.0 if user.opcode == "dynamic-update-slice" else user.nbytes


def _written_bytes(fusion: Instruction, inner: Computation) -> float:
    root = inner.root
    while root.opcode in _VIEWS and root.operands and root.operands[0] in inner.by_name:
        root = inner.by_name[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and hbm_bytes(fusion.shapes):
        return inner.by_name[root.operands[1]].nbytes if root.operands[1] in inner.by_name else 0.0
    return hbm_bytes(fusion.shapes)


def _operand_bytes(instruction: Instruction, number: int, computation: Computation) -> float:
    operand = (
        computation.by_name.get(instruction.operands[number]) if number < len(instruction.operands) else None
    )
    return 0.0 if operand is None or not hbm_bytes(instruction.shapes) else operand.nbytes
