"""Marks that tie a compiled operation to the equation it came from, through every pass of the compiler.

A function under a plan is run again equation by equation (`autoshard.constraining`). Each equation, together
with the constraints that the plan puts on what it reads and makes, is bound under a name scope of its own:
``plan.`` and the equation's path, the path's separators being dots. XLA keeps name scopes in the metadata of
its instructions (`op_name`), so a collective of the compiled program says which equation it serves::

    jit(step)/while/body/closed_call/ffn/ble,ef->blf/plan.27.14/sharding_constraint     equation 27/14
    jit(step)/plan.27.carry0/sharding_constraint                                        slot 27:carry0

A mark is metadata: the program itself is the same with and without it.
"""

from __future__ import annotations

import re

_SLOT = r"(?:carry|init|branch|out|y)\d+|cond"
_MARK = re.compile(rf"(?:^|[/(])plan\.((?:\d+|{_SLOT})(?:\.(?:\d+|{_SLOT}))*)(?=$|[/)])")
_SEPARATORS = re.compile(r"[/:]")


def mark_of(path: str) -> str:
    """Return the name scope of the equation or the slot at a path, such as ``plan.27.14`` for ``27/14``."""
    return f"plan.{marked_key(path)}"


def marked_key(path: str) -> str:
    """Return how a mark writes a path: two different paths of one program never read the same."""
    return _SEPARATORS.sub(".", path)


def mark_in(op_name: str) -> str | None:
    """Return the key (see `marked_key`) of the innermost mark in an `op_name`, None without one."""
    found = _MARK.findall(op_name)
    return found[-1] if found else None


def without_marks(op_name: str) -> str:
    """Return an `op_name` as it would read without marks."""
    return _MARK.sub("", op_name).removeprefix("/")
