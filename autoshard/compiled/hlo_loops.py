"""How often a compiled loop runs.

TPU text states no trip count, but a scan's loop counts: its condition compares element k of the loop's
state with a bound, its body adds a constant to that element, and its initial value is a constant. All
three are read here, through copies and through state elements which the body hands on unchanged; so
``trips = ceil((bound - start) / step)``. A `known_trip_count` that the compiler states wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoshard.compiled.hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_PASSED_ON = frozenset({"copy", "bitcast", "convert", "reshape", "copy-done", "copy-start", "opt-barrier"})


@dataclass(frozen=True, slots=True)
class _Loop:
    module: Module
    caller: Computation
    instruction: Instruction

    @property
    def body(self) -> Computation:
        return self.module.computations[self.instruction.attributes["body"].lstrip("%")]

    @property
    def condition(self) -> Computation:
        return self.module.computations[self.instruction.attributes["condition"].lstrip("%")]


def trip_count(instruction: Instruction, caller: Computation, module: Module) -> int | None:
    """Return how often a `while` runs its body, None when its text does not tell.

    Args:
        instruction: the `while`.
        caller: the computation in which it stands.
        module: the module of both.
    """
    if known := _KNOWN.search(instruction.backend_config):
        return int(known[1])
    loop = _Loop(module, caller, instruction)
    found = _compared(loop)
    if found is None:
        return None
    direction, index, bound = found
    start, step = _start(loop, index), _step(loop, index)
    if start is None or not step:
        return None
    distance = bound - start + ({"LE": 1, "GE": -1}.get(direction, 0))
    return max(0, -(-distance // step))


def _compared(loop: _Loop) -> tuple[str, int, int] | None:
    """Return the direction of the condition's compare, the state's element, and the bound."""
    compare = _seen_through(loop.condition.root, loop.condition)
    if compare.opcode == "fusion":  # a condition that was fused: its operands stand outside
        inner = loop.module.called_by(compare)[0]
        root = _seen_through(inner.root, inner)
        operands = [_fused_operand(name, inner, compare) for name in root.operands]
        compare_direction = root.attributes.get("direction", "")
    else:
        operands, compare_direction = list(compare.operands), compare.attributes.get("direction", "")
    if len(operands) != 2 or compare_direction not in ("LT", "GT", "LE", "GE", "NE"):
        return None
    for counter, limit in (operands, operands[::-1]):
        index, bound = _state_index(counter, loop.condition), _condition_constant(limit, loop)
        if index is not None and bound is not None:
            return compare_direction, index, bound
    return None


def _fused_operand(name: str, inner: Computation, fusion: Instruction) -> str:
    """Return the name, outside of a fusion, of what its inner computation calls by a name."""
    instruction = inner.by_name[name]
    return fusion.operands[int(instruction.argument)] if instruction.opcode == "parameter" else name


def _condition_constant(name: str, loop: _Loop) -> int | None:
    direct = _constant(name, loop.condition)
    if direct is not None:
        return direct
    index = _state_index(name, loop.condition)
    unchanged = index is not None and _state_index(_element(loop.body.root, index), loop.body) == index
    return _start(loop, index) if unchanged and index is not None else _inner_constant(name, loop)


def _inner_constant(name: str, loop: _Loop) -> int | None:
    """Look a constant up that stands in a fused condition."""
    for computation in loop.module.called_by(loop.condition.root):
        if name in computation.by_name:
            return _constant(name, computation)
    return None


def _start(loop: _Loop, index: int) -> int | None:
    if not loop.instruction.operands:
        return None
    state = loop.caller.by_name.get(loop.instruction.operands[0])
    if state is None or state.opcode != "tuple":
        return None
    return _constant(_element(state, index), loop.caller)


def _step(loop: _Loop, index: int) -> int | None:
    body = loop.body
    if body.root.opcode != "tuple":
        return None
    update = _named(_element(body.root, index), body)
    if update is None or update.opcode != "add" or len(update.operands) != 2:
        return None
    for counter, step in (update.operands, update.operands[::-1]):
        constant = _constant(step, body)
        if _state_index(counter, body) == index and constant is not None:
            return constant
    return None


def _element(state: Instruction, index: int) -> str:
    return state.operands[index] if index < len(state.operands) else ""


def _constant(name: str, computation: Computation) -> int | None:
    instruction = _named(name, computation)
    if instruction is None or instruction.opcode != "constant":
        return None
    text = instruction.argument.strip("{} ")
    return int(text) if text.lstrip("-").isdigit() else None


def _state_index(name: str, computation: Computation) -> int | None:
    """Return which element of the computation's one parameter a value is, None when it is none."""
    instruction = _named(name, computation)
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    source = _named(instruction.operands[0], computation)
    return (
        int(instruction.attributes["index"]) if source is not None and source.opcode == "parameter" else None
    )


def _named(name: str, computation: Computation) -> Instruction | None:
    instruction = computation.by_name.get(name)
    return None if instruction is None else _seen_through(instruction, computation)


def _seen_through(instruction: Instruction, computation: Computation) -> Instruction:
    """Return what stands behind copies and casts."""
    while (
        instruction.opcode in _PASSED_ON
        and instruction.operands
        and instruction.operands[0] in computation.by_name
    ):
        instruction = computation.by_name[instruction.operands[0]]
    return instruction
