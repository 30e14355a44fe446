"""Whose collective is it: every collective of a compiled program with the operation and line behind it.

The evidence is XLA's metadata (`autoshard.compiled.hlo_metadata`), in this order:

1. of the instruction itself;
2. of what it reads and of what reads it, where it has none (the partitioner inserts some without), and where
   the compiler combined several collectives into one with many operands: each operand is then a collective of
   its own here, with its share of the bytes and the seconds, while only one of their names was kept.

The operation is written as the path of name scopes that the user put around it, without what JAX's own
machinery adds, and the line is the innermost one of the user's own code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from autoshard.audit.attribution_search import Part, Search
from autoshard.audit.attribution_source import own_lines
from autoshard.compiled.hlo import Instruction, Module
from autoshard.compiled.hlo_metadata import Position, stack_of
from autoshard.compiled.timeline import CompiledCollective
from autoshard.marks import mark_in, without_marks

_MACHINERY = frozenset(
    {"body", "call_exported", "checkpoint", "closed_call", "cond", "core_call", "custom_jvp_call"}
    | {"custom_vjp_call", "custom_vjp_call_jaxpr", "remat", "remat2", "rematted_computation", "while"}
)
_CALL = re.compile(r"p?jit(?:\(.*\))?|branch_\d+_fun")
_TRANSFORMATION = re.compile(r"(?:jvp|vmap|transpose|remat|checkpoint)\((.*)\)")
_EINSUM = re.compile(r"[a-zA-Z. ]*,[a-zA-Z., ]*(->[a-zA-Z. ]*)?")
_CONTRACTION = "dot_general"


@dataclass(frozen=True, slots=True)
class Attributed:
    """One collective of the schedule, or one operand of a combined one; bytes and seconds of one execution.

    Attributes:
        name: Of the HLO instruction.
        kind: As in `CompiledCollective`.
        axes: Mesh axes that its groups span, in the order of the mesh.
        exact: Whether the groups are exactly the chips along these axes.
        bytes_per_chip: All-gather: output; others: input.
        trips: How often it runs.
        seconds: Its time on the links.
        exposed_seconds: The part of it that nothing hides.
        asynchronous: Whether it runs beside compute.
        tensor: Type of what a chip holds: of the output of an all-gather, of the input of others.
        op: The operation, such as `ffn/be,ef->bf` or `attention/reshape`; empty where nothing is known.
        marks: Marks (`autoshard.marks`) of the operations in question, the surest first.
        stack: Lines of the user's code, innermost first.
        neighbour: Whether `op` is that of what it reads or what reads it: it has no name of its own.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    exact: bool
    bytes_per_chip: float
    trips: int
    seconds: float
    exposed_seconds: float
    asynchronous: bool
    tensor: str
    op: str
    marks: tuple[str, ...]
    stack: tuple[Position, ...]
    neighbour: bool

    @property
    def total_bytes(self) -> float:
        """Bytes per chip of all executions."""
        return self.bytes_per_chip * self.trips

    @property
    def total_seconds(self) -> float:
        """Time on the links of all executions."""
        return self.seconds * self.trips


def attributed(module: Module, collectives: Iterable[CompiledCollective]) -> tuple[Attributed, ...]:
    """Attribute the collectives that a timeline found in a module; raises `KeyError` for another module's."""
    search = Search(module)
    return tuple(_attributed(each, part, search) for each in collectives for part in search.parts(each.name))


def label_of(op_name: str) -> str:
    """Return an `op_name` without what JAX puts around the user's scopes.

    An einsum is named by its letters, other operations by their primitive; what a gradient made ends in
    `.grad`. Empty for an `op_name` of machinery alone.
    """
    words = [word for part in without_marks(op_name).split("/") if (word := _word(part))]
    if len(words) > 1 and words[-1] == _CONTRACTION and _EINSUM.fullmatch(words[-2]):
        words.pop()
    return "/".join(words) + (".grad" if words and "transpose(" in op_name else "")


def _word(part: str) -> str:
    while match := _TRANSFORMATION.fullmatch(part):
        part = match[1]
    return "" if part in _MACHINERY or _CALL.fullmatch(part) else part


def _attributed(collective: CompiledCollective, part: Part, search: Search) -> Attributed:
    evidence = list(_evidence(part, search))
    named = next((each for each in evidence if label_of(each.op_name)), None)
    return Attributed(
        name=collective.name,
        kind=collective.kind,
        axes=collective.axes,
        exact=collective.exact,
        bytes_per_chip=collective.bytes_per_chip * part.share,
        trips=collective.trips,
        seconds=collective.seconds * part.share,
        exposed_seconds=collective.exposed_seconds * part.share,
        asynchronous=collective.asynchronous,
        tensor=part.tensor,
        op=label_of(named.op_name) if named else "",
        marks=_marks(evidence),
        stack=_stack(evidence, search.module),
        neighbour=named is not None and named.name != part.wrapper.name and named.name != part.inner.name,
    )


def _evidence(part: Part, search: Search) -> Iterator[Instruction]:
    """What may say whose a collective is, the surest first."""
    own = [part.wrapper, part.inner] if part.inner is not part.wrapper else [part.wrapper]
    if part.share == 1.0:
        yield from own
    around = search.readers(part), search.producers(part)
    for found in around if part.gathers else around[::-1]:
        yield from found
    if part.share < 1.0:
        yield from own


def _marks(evidence: Sequence[Instruction]) -> tuple[str, ...]:
    marks = (mark_in(each.op_name) for each in evidence)
    return tuple(dict.fromkeys(mark for mark in marks if mark is not None))


def _stack(evidence: Sequence[Instruction], module: Module) -> tuple[Position, ...]:
    """The user's lines of the first instruction that has any."""
    for each in evidence:
        lines = own_lines(stack_of(each.metadata, module.frames))
        if lines:
            return lines
    return ()
