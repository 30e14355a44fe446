"""What a plan hands to the TPU compiler: its options, and the memory orders of stored arrays.

Options stand with what they decide (`autoshard.compiled.options`). Memory orders are those that the plan
names: arrays of like names and one order in one row, dims from the outermost to the innermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoshard.compiled.options import purpose_of
from autoshard.memory_orders import written_order
from autoshard.name_patterns import fold_names
from autoshard.plan import Plan
from autoshard.plan_records import ArgumentRecord, ResultRecord
from autoshard.specs import rank_of
from autoshard.text_table import align

_UNKNOWN = "an option that this version of autoshard does not know"

Role = Literal["argument", "result"]


@dataclass(frozen=True, slots=True)
class CompilerOption:
    """One option of the TPU compiler that belongs to the plan, and what it decides."""

    name: str
    value: str
    purpose: str


@dataclass(frozen=True, slots=True)
class MemoryOrder:
    """How stored arrays lie in memory.

    Attributes:
        role: whether they are arguments or results.
        name: pattern of their paths.
        order: their dims, outermost first.
        written: whether that is the order in which they are written.
    """

    role: Role
    name: str
    order: str
    written: bool


def compiler_options(plan: Plan) -> tuple[CompilerOption, ...]:
    """Return the options under which a plan is compiled."""
    return tuple(
        CompilerOption(name, value, purpose_of(name) or _UNKNOWN)
        for name, value in plan.compiler_options.items()
    )


def memory_orders(plan: Plan) -> tuple[MemoryOrder, ...]:
    """Return the memory orders that a plan names."""
    return (*_orders("argument", plan.arguments), *_orders("result", plan.results))


def _orders(role: Role, arrays: Mapping[str, ArgumentRecord | ResultRecord]) -> Iterator[MemoryOrder]:
    groups: dict[tuple[str, bool], list[str]] = {}
    for path, record in arrays.items():
        if record.order is not None:
            written = record.order == written_order(rank_of(record.type))
            groups.setdefault((record.order, written), []).append(path)
    for (order, written), paths in groups.items():
        for pattern in fold_names(paths):
            yield MemoryOrder(role, pattern, order, written)


def option_lines(options: Sequence[CompilerOption]) -> list[str]:
    """Return the options as a table, no lines where there are none."""
    if not options:
        return []
    rows = [(f"{each.name}={each.value}", each.purpose) for each in options]
    return align([("compiler option", "what it decides"), *rows])


def order_lines(orders: Sequence[MemoryOrder]) -> list[str]:
    """Return the memory orders as a table, no lines where there are none."""
    if not orders:
        return []
    rows = [
        (f"{each.role} {each.name}", each.order, "as written" if each.written else "chosen by the compiler")
        for each in orders
    ]
    return align([("memory order", "dims, outermost first", ""), *rows])
