"""Trip counts of StableHLO loops: a counter that starts at a constant and is compared with another.

What `lax.scan` and `lax.fori_loop` lower to is ``i = start; while i < stop: ...; i = i + step``, with
``ceil((stop - start) / step)`` trips. Any other loop has a trip count that only its run decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoshard.partitioner.partitioned import Block, PartitionedOp

Constants = Mapping[int, int]
"""Scalar integer constants by SSA id."""


def constants_of(blocks: Iterable[Block]) -> dict[int, int]:
    """Return the scalar integer constants of blocks and all blocks within, by id."""
    found: dict[int, int] = {}
    for block in blocks:
        for op in block.ops:
            if op.number is not None:
                found[op.results[0]] = op.number
            found.update(constants_of(op.blocks))
    return found


def trip_count(loop: PartitionedOp, constants: Constants) -> int | None:
    """Return how often the body of a `stablehlo.while` runs, None where that cannot be read.

    Args:
        loop: the loop; its blocks are the condition and the body.
        constants: of the whole module.
    """
    condition, body = loop.blocks
    compared = next((op for op in condition.ops if op.results == condition.returned), None)
    if compared is None or compared.direction not in ("LT", "LE"):
        return None
    counter, stop = compared.operands
    if counter not in condition.arguments or stop not in constants:
        return None
    position = condition.arguments.index(counter)
    start = constants.get(loop.operands[position])
    step = _step(body, position, constants)
    if start is None or step is None or step <= 0:
        return None
    last = constants[stop] + (compared.direction == "LE")
    return max(0, -(-(last - start) // step))


def _step(body: Block, position: int, constants: Constants) -> int | None:
    """By how much the counter grows in an iteration."""
    counter, returned = body.arguments[position], body.returned[position]
    grown = next((op for op in body.ops if returned in op.results), None)
    if grown is None or grown.name != "stablehlo.add" or counter not in grown.operands:
        return None
    other = next((operand for operand in grown.operands if operand != counter), None)
    return None if other is None else constants.get(other)
