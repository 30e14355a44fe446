"""Scheduled HLO text, parsed: computations, instructions, shapes, attributes, cycles and loops.

`compiled.as_text()` of a TPU program is a schedule: the instructions of a computation stand in the order in
which they run, and nearly every one that computes carries the compiler's own `estimated_cycles`. Only the
text holds all of it (the Python bindings of jaxlib give neither shapes nor attributes), and it looks like
this::

    %wide.body (param: (s32[], bf16[512,64])) -> (s32[], bf16[512,64]) {
      %param = (s32[]{:T(128)}, bf16[512,64]{0,1:T(8,128)(2,1)S(3)}) parameter(0) %all-gather.4 =
      bf16[512,1024]{0,1} all-gather(%x), replica_groups=[4,16]<=[64], dimensions={1}, metadata={...} ROOT
      %tuple = (...) tuple(%a, /*index=1*/%b)
    }

Nothing is assumed of opcodes: an unknown instruction has a name, shapes, operands and attributes like any
other. Grammar: https://openxla.org/xla/operation_semantics and `xla/hlo/parser`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from autoshard.compiled.hlo_brackets import group_end, split_top_level
from autoshard.compiled.hlo_metadata import Frames, op_name_of, parse_frames
from autoshard.errors import CompileError

_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_ARRAY = re.compile(r"(?P<dtype>[a-z][a-z0-9]*)\[(?P<dims>[0-9,<=?]*)\](?:\{(?P<layout>[^{}]*)\})?")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_DEVICE_ORDER = "device_ids"  # "replica_groups=mesh[..], device_ids=(..) {..}" is one attribute
_ATTRIBUTE = re.compile(r"\s*(?P<name>\w+)=")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_PARTITIONS = re.compile(r"\bnum_partitions=(\d+)")
_BITS = re.compile(r"(\d+)")
_CALL_ATTRIBUTES = (
    "calls",
    "to_apply",
    "body",
    "condition",
    "branch_computations",
    "called_computations",
    "true_computation",
    "false_computation",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One array of an instruction's result.

    Attributes:
        dtype: HLO name of the element type, such as `bf16`.
        dims: sizes.
        memory_space: 0 is HBM; other numbers are memories on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    memory_space: int = 0

    @property
    def nbytes(self) -> float:
        """Bytes of the elements, without the padding of tiles."""
        return prod(self.dims) * element_bytes(self.dtype)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in its module.
        opcode: such as `fusion`.
        shapes: arrays of the result; several for a tuple, whose nesting is flattened.
        operands: names of the operands, in the same computation.
        attributes: raw text by name; `metadata` and `backend_config` are left out.
        argument: raw text between the parentheses: a constant's value, a parameter's number.
        cycles: the compiler's `estimated_cycles`, None where it gives none.
        op_name: path of the JAX operation, empty where unknown.
        backend_config: raw text, empty without one.
        is_root: whether this is the computation's result.
        metadata: raw text, empty without any (`autoshard.compiled.hlo_metadata`).
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: Mapping[str, str]
    argument: str
    cycles: int | None
    op_name: str
    backend_config: str
    is_root: bool
    metadata: str = ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls, a loop's body and condition included."""
        texts = (self.attributes[name] for name in _CALL_ATTRIBUTES if name in self.attributes)
        return tuple(name for text in texts for name in _names(text))

    @property
    def nbytes(self) -> float:
        """Bytes of all arrays of the result."""
        return sum(shape.nbytes for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Computation:
    """Instructions in the order of the schedule, and the same by name."""

    name: str
    instructions: tuple[Instruction, ...]
    by_name: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next((each for each in self.instructions if each.is_root), self.instructions[-1])

    def operands_of(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yield the instructions that produce an instruction's operands."""
        return (self.by_name[name] for name in instruction.operands if name in self.by_name)


@dataclass(frozen=True, slots=True)
class Module:
    """A program.

    Attributes:
        computations: by name.
        entry: name of the computation that runs.
        n_partitions: over how many chips it is partitioned.
        frames: lines of Python that its instructions come from.
    """

    computations: Mapping[str, Computation]
    entry: str
    n_partitions: int
    frames: Frames = field(default_factory=Frames)

    def called_by(self, instruction: Instruction) -> tuple[Computation, ...]:
        """Return the computations that an instruction calls."""
        return tuple(self.computations[name] for name in instruction.called if name in self.computations)


def parse_module(text: str) -> Module:
    """Parse the text of an HLO module.

    Raises:
        CompileError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, name, instructions = "", "", list[Instruction]()
    lines = text.splitlines()
    for line in lines:
        if header := _HEADER.match(line):
            name, instructions = header["name"], []
            entry = name if header["entry"] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(
                name, tuple(instructions), {each.name: each for each in instructions}
            )
            name = ""
        elif name and (match := _INSTRUCTION.match(line)):
            instructions.append(_parse_instruction(line, match))
    if entry not in computations:
        raise CompileError(
            "The text is not an HLO module: it has no ENTRY computation. Pass `compiled.as_text()`."
        )
    partitions = _PARTITIONS.search(text.partition("\n")[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1, parse_frames(lines))


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Return the arrays of a shape text; a tuple's arrays in order, without its nesting."""
    return tuple(_parse_array(match) for match in _ARRAY.finditer(_COMMENT.sub("", text)))


def element_bytes(dtype: str) -> float:
    """Return the bytes of one element of an HLO type: a half for `s4`, 0 for a token."""
    if dtype == "pred":
        return 1.0
    bits = _BITS.search(dtype)
    return 0.0 if bits is None else int(bits[1]) / 8


def _parse_instruction(line: str, match: re.Match[str]) -> Instruction:
    body, _, backend_config = line[match.end() :].partition(", backend_config=")
    body, _, metadata = body.partition(", metadata=")
    shape_end = group_end(body, 0) if body.startswith("(") else body.index(" ")
    opcode, _, _ = body[shape_end:].strip().partition("(")
    arguments_start = body.index("(", shape_end)
    arguments_end = group_end(body, arguments_start)
    argument = body[arguments_start + 1 : arguments_end - 1]
    cycles = _CYCLES.search(backend_config)
    return Instruction(
        name=match["name"],
        opcode=opcode,
        shapes=parse_shapes(body[:shape_end]),
        operands=() if opcode in ("constant", "parameter") else _operand_names(argument),
        attributes=_parse_attributes(body[arguments_end:]),
        argument=argument,
        cycles=int(cycles[1]) if cycles else None,
        op_name=op_name_of(metadata),
        backend_config=backend_config,
        is_root=match["root"] is not None,
        metadata=metadata,
    )


def _parse_attributes(text: str) -> dict[str, str]:
    """Attributes by name; the device order of replica groups belongs to them, in spite of its comma."""
    attributes: dict[str, str] = {}
    name = ""
    for part in split_top_level(text):
        match = _ATTRIBUTE.match(part)
        if match and not (match["name"] == _DEVICE_ORDER and name == "replica_groups"):
            name = match["name"]
            attributes[name] = part[match.end() :].strip()
        elif match:
            attributes[name] += f", {part.strip()}"
    return attributes


def _operand_names(text: str) -> tuple[str, ...]:
    parts = split_top_level(_COMMENT.sub("", text))
    return tuple(part.split()[-1].lstrip("%") for part in parts)


def _names(text: str) -> list[str]:
    return _NAME.findall(text) or [part.strip() for part in text.strip("{}").split(",") if part.strip()]


def _parse_array(match: re.Match[str]) -> Shape:
    dims = tuple(int(size.lstrip("<=?") or 0) for size in match["dims"].split(",") if size)
    space = _MEMORY_SPACE.search(match["layout"] or "")
    return Shape(match["dtype"], dims, int(space[1]) if space else 0)
