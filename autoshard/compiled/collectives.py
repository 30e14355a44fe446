"""The collectives of a compiled program, under whichever form the TPU compiler gave them.

A collective is an instruction of its own (`all-gather`), a pair (`all-gather-start`, `all-gather-done`), or
hides in a fusion:

* `fusion(kind=kCustom, calls=%all-reduce-scatter...)` is a reduce-scatter: inside is an all-reduce and a
  slice;
* `async-collective-start` and `-done` are fusions that hold the collective and a custom call
  `AsyncCollectiveStart` or `AsyncCollectiveDone`; compute fusions between them carry a copy of it, with the
  same channel;
* `call-start`, `call-update` and `call-done` run a computation that holds the collective on a SparseCore,
  beside the TensorCore's work;
* between slices the compiler leaves `send` and `recv` for the megascale runtime, one rendezvous for both.

Each is found once, with the bytes that its kind is priced by (`autoshard.cost.collectives`): all-gather its
output, the others their input, per chip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autoshard.compiled.hlo import Computation, Instruction, Module
from autoshard.compiled.hlo_loops import trip_count
from autoshard.compiled.replica_groups import Groups, parse_groups, parse_pairs
from autoshard.cost.collectives import Kind

Role = Literal["whole", "start", "update", "done", "carrier"]

_KINDS = {
    "all-gather": Kind.ALL_GATHER,
    "reduce-scatter": Kind.REDUCE_SCATTER,
    "all-reduce": Kind.ALL_REDUCE,
    "all-to-all": Kind.ALL_TO_ALL,
    "ragged-all-to-all": Kind.ALL_TO_ALL,
    "collective-permute": Kind.COLLECTIVE_PERMUTE,
    "collective-broadcast": Kind.ALL_GATHER,
}
_ASYNC_ROLES: dict[str, Role] = {
    "async-start": "start",
    "async-update": "update",
    "async-done": "done",
    "call-start": "start",
    "call-update": "update",
    "call-done": "done",
}
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="([^"]*)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([^}]*)\}')


@dataclass(frozen=True, slots=True)
class HloCollective:
    """One instruction's part in a collective.

    Attributes:
        name: of the instruction.
        key: the same for the start, the carriers and the done of one collective.
        role: `whole` for a synchronous one.
        kind: which collective.
        bytes_per_chip: all-gather: output; others: input.
        groups: partition ids; empty for a permute and for a transfer between slices.
        pairs: (source, target) partition ids of a permute, else empty.
        between_slices: whether it runs over the data-center network, among all slices.
        op_name: path of the JAX operation, empty where unknown.
    """

    name: str
    key: str
    role: Role
    kind: Kind
    bytes_per_chip: float
    groups: Groups
    pairs: tuple[tuple[int, int], ...]
    between_slices: bool
    op_name: str

    @property
    def group_size(self) -> int:
        """Chips of the largest group; 0 where there are no groups."""
        return max((len(group) for group in self.groups), default=0)


def collective_of(instruction: Instruction, computation: Computation, module: Module) -> HloCollective | None:
    """Return what part an instruction has in a collective, None when it has none.

    A compute fusion that holds a collective between its start and its done is a `carrier`; an `update` does
    no work.
    """
    opcode = instruction.opcode
    if opcode in ("send", "recv-done"):
        return _between_slices(instruction, computation)
    base, role = _base_and_role(opcode)
    start = _start_of(instruction, computation)
    if base in _KINDS:
        return _described(instruction, computation, role, module, key=start.name)
    if opcode != "fusion" and opcode not in _ASYNC_ROLES:
        return None
    found = inner_collective(start, module)
    if found is None:
        return None
    inner, where = found
    key = start.name
    if opcode == "fusion":
        key = f"channel {inner.attributes.get('channel_id', start.name)}"
    return _described(inner, where, _wrapped_role(instruction, module), module, key=key, wrapper=instruction)


def executed_collectives(module: Module) -> tuple[tuple[HloCollective, int], ...]:
    """Return every collective that the program runs, in its order, with how often it runs.

    A loop whose trip count is not known counts once; of a conditional all branches are listed.
    """
    return tuple(_executed(module.computations[module.entry], module, 1))


def _executed(computation: Computation, module: Module, trips: int) -> Iterator[tuple[HloCollective, int]]:
    for instruction in computation.instructions:
        found = collective_of(instruction, computation, module)
        if found is not None and found.role in ("whole", "start"):
            yield found, trips
        if instruction.opcode == "while":
            body = module.computations[instruction.attributes["body"].lstrip("%")]
            yield from _executed(body, module, trips * (trip_count(instruction, computation, module) or 1))
        elif instruction.opcode in ("call", "conditional"):
            for called in module.called_by(instruction):
                yield from _executed(called, module, trips)


def _base_and_role(opcode: str) -> tuple[str, Role]:
    if opcode.endswith("-start"):
        return opcode.removesuffix("-start"), "start"
    if opcode.endswith("-done"):
        return opcode.removesuffix("-done"), "done"
    return opcode, "whole"


def base_opcode(opcode: str) -> str:
    """Return the opcode of the whole collective that an opcode is or is a half of."""
    return _base_and_role(opcode)[0]


def inner_collective(instruction: Instruction, module: Module) -> tuple[Instruction, Computation] | None:
    """Return the collective inside of an instruction (a fusion, say) and where it stands, None if none."""
    for computation in module.called_by(instruction):
        for inner in computation.instructions:
            if _base_and_role(inner.opcode)[0] in _KINDS:
                return inner, computation
            if inner.opcode == "fusion" and (found := inner_collective(inner, module)) is not None:
                return found
    return None


def _start_of(instruction: Instruction, computation: Computation) -> Instruction:
    """The first of the instructions of an asynchronous collective, which alone may name what is called."""
    while instruction.opcode.endswith(("-update", "-done")) and instruction.operands:
        before = computation.by_name.get(instruction.operands[0])
        if before is None:
            break
        instruction = before
    return instruction


def _wrapped_role(wrapper: Instruction, module: Module) -> Role:
    if wrapper.opcode != "fusion":
        return _ASYNC_ROLES[wrapper.opcode]
    targets = {
        inner.attributes.get("custom_call_target", "")
        for computation in module.called_by(wrapper)
        for inner in computation.instructions
    }
    starts, ends = '"AsyncCollectiveStart"' in targets, '"AsyncCollectiveDone"' in targets
    if starts != ends:
        return "start" if starts else "done"
    return "whole" if starts or wrapper.cycles is None else "carrier"


def _described(
    instruction: Instruction,
    computation: Computation,
    role: Role,
    module: Module,
    *,
    key: str,
    wrapper: Instruction | None = None,
) -> HloCollective:
    shown = wrapper or instruction
    kind = _KINDS[_base_and_role(instruction.opcode)[0]]
    if (
        wrapper is not None
        and kind is Kind.ALL_REDUCE
        and any("reduce-scatter" in name for name in wrapper.called)
    ):
        kind = Kind.REDUCE_SCATTER
    groups, pairs = _members(instruction, kind, module)
    operand_bytes = sum(operand.nbytes for operand in computation.operands_of(instruction))
    scale = len(groups[0]) if kind is Kind.ALL_GATHER and groups else 1
    return HloCollective(
        name=shown.name,
        key=key,
        role=role,
        kind=kind,
        bytes_per_chip=operand_bytes * scale,
        groups=groups,
        pairs=pairs,
        between_slices=False,
        op_name=shown.op_name or instruction.op_name,
    )


def _members(
    instruction: Instruction, kind: Kind, module: Module
) -> tuple[Groups, tuple[tuple[int, int], ...]]:
    if kind is Kind.COLLECTIVE_PERMUTE:
        return (), parse_pairs(instruction.attributes.get("source_target_pairs", "{}"))
    return parse_groups(instruction.attributes.get("replica_groups", "{}"), module.n_partitions), ()


def _between_slices(instruction: Instruction, computation: Computation) -> HloCollective | None:
    source = instruction
    if instruction.opcode == "recv-done":
        source = next(computation.operands_of(instruction), instruction)
    text = source.attributes.get("frontend_attributes", "")
    rendezvous, transfer = _RENDEZVOUS.search(text), _TRANSFER.search(text)
    if rendezvous is None:
        return None
    kind = _KINDS.get(transfer[1].lower().replace("_", "-") if transfer else "", Kind.COLLECTIVE_PERMUTE)
    sent = source.shapes[0].nbytes if source.shapes else 0.0
    return HloCollective(
        name=instruction.name,
        key=f"rendezvous {rendezvous[1]}",
        role="start" if instruction.opcode == "send" else "done",
        kind=kind,
        bytes_per_chip=sent * (_n_slices(text) if kind is Kind.ALL_GATHER else 1),
        groups=(),
        pairs=(),
        between_slices=True,
        op_name=source.op_name,
    )


def _n_slices(attributes: str) -> int:
    match = _SLICES.search(attributes)
    return match[1].count(",") + 1 if match else 1
