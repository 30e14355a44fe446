"""The instructions around a compiled collective: what it reads and what reads it, as far as they have names.

Views, copies and tuples often have none: the search goes through what has no name, a few steps, and stops at
the first instruction that has one. A collective inside of a fusion reads what the fusion reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from autoshard.compiled.collectives import base_opcode, inner_collective
from autoshard.compiled.hlo import Computation, Instruction, Module, Shape

_STEPS = 6


@dataclass(frozen=True, slots=True)
class Part:
    """A collective, or one operand of one that the compiler combined.

    Attributes:
        wrapper: The instruction of the schedule.
        inner: The collective itself: inside of the wrapper, or the wrapper.
        computation: Where the wrapper stands.
        operands: Names of what it reads, in `computation`.
        index: Number of the operand among those of a combined one.
        share: Its part of the collective's bytes.
        tensor: Type of what a chip holds: of the output of an all-gather, of the input of others.
    """

    wrapper: Instruction
    inner: Instruction
    computation: Computation
    operands: tuple[str, ...]
    index: int
    share: float
    tensor: str

    @property
    def gathers(self) -> bool:
        """Whether it brings an operand of its readers to them, rather than completes what was computed."""
        return _gathers(self.inner)


@dataclass(slots=True)
class Search:
    """Finds instructions in a module."""

    module: Module
    _places: dict[str, tuple[Instruction, Computation]] = field(default_factory=dict)
    _users: dict[str, dict[str, list[Instruction]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for computation in self.module.computations.values():
            for instruction in computation.instructions:
                self._places[instruction.name] = instruction, computation

    def parts(self, name: str) -> tuple[Part, ...]:
        """Return the parts of the collective that an instruction is or holds."""
        wrapper, computation = self._places[name]
        inner, inside = inner_collective(wrapper, self.module) or (wrapper, computation)
        arrays = [each for each in inside.operands_of(inner) if each.nbytes]  # and no tokens
        if len(arrays) < 2:
            moved = inner if _gathers(inner) or not arrays else arrays[0]
            return (Part(wrapper, inner, computation, wrapper.operands, 0, 1.0, _largest(moved.shapes)),)
        total = sum(each.nbytes for each in arrays)
        return tuple(
            Part(
                wrapper=wrapper,
                inner=inner,
                computation=computation,
                operands=(each.name,) if inner is wrapper else _passed(each.name, inside, wrapper),
                index=index,
                share=each.nbytes / total,
                tensor=_largest(inner.shapes[index : index + 1] if _gathers(inner) else each.shapes),
            )
            for index, each in enumerate(arrays)
        )

    def producers(self, part: Part) -> Iterator[Instruction]:
        """Yield the named instructions nearest before a part."""
        starts = [
            part.computation.by_name[name] for name in part.operands if name in part.computation.by_name
        ]
        return self._named(starts, lambda each: list(part.computation.operands_of(each)))

    def readers(self, part: Part) -> Iterator[Instruction]:
        """Yield the named instructions nearest behind a part."""
        users = self._users_in(part.computation)
        starts = [
            user
            for user in users.get(part.wrapper.name, [])
            if part.share == 1.0 or user.attributes.get("index") in (None, str(part.index))
        ]
        return self._named(starts, lambda each: users.get(each.name, []))

    def _named(
        self, starts: list[Instruction], following: Callable[[Instruction], list[Instruction]]
    ) -> Iterator[Instruction]:
        seen: set[str] = set()
        front = starts
        for _ in range(_STEPS):
            unnamed = []
            for each in front:
                if each.name in seen:
                    continue
                seen.add(each.name)
                if each.op_name:
                    yield each
                else:
                    unnamed.append(each)
            front = [after for each in unnamed for after in following(each)]

    def _users_in(self, computation: Computation) -> dict[str, list[Instruction]]:
        if computation.name not in self._users:
            users: dict[str, list[Instruction]] = {}
            for instruction in computation.instructions:
                for operand in dict.fromkeys(instruction.operands):
                    users.setdefault(operand, []).append(instruction)
            self._users[computation.name] = users
        return self._users[computation.name]


def _gathers(instruction: Instruction) -> bool:
    return base_opcode(instruction.opcode) in ("all-gather", "collective-broadcast")


def _largest(shapes: Sequence[Shape]) -> str:
    """The type of the largest array, such as `bf16[8,64]`: a pair's start lists its operands, too."""
    if not shapes:
        return ""
    largest = max(shapes, key=lambda shape: shape.nbytes)
    return f"{largest.dtype}[{','.join(map(str, largest.dims))}]"


def _passed(name: str, inside: Computation, wrapper: Instruction) -> tuple[str, ...]:
    """Return which operand of a fusion a value inside of it is; all of them for one that is made there."""
    instruction = inside.by_name[name]
    while len(instruction.operands) == 1 and instruction.operands[0] in inside.by_name:
        instruction = inside.by_name[instruction.operands[0]]
    if instruction.opcode != "parameter" or inside.name not in wrapper.called:
        return wrapper.operands
    return wrapper.operands[int(instruction.argument) :][:1]
