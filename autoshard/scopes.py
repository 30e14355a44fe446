"""The scope of an equation: what its name stack says, and those of the equations around it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

_TRANSFORMATION = re.compile(r"\b(?:jit|jvp|vmap|transpose|remat|checkpoint)(?=\()")
_MACHINERY = frozenset(
    {"remat", "checkpoint", "rematted_computation", "closed_call", "while", "body", "cond"}
)
_EINSUM = re.compile(r"[a-zA-Z. ]*,[a-zA-Z., ]*(->[a-zA-Z. ]*)?|[a-zA-Z. ]+->[a-zA-Z. ]*")
"""What `jnp.einsum` puts on the name stack: the equation as it was written."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an equation stands in the user's named scopes.

    Attributes:
        parts: The user's scopes, outermost first.
        einsum: What `jnp.einsum` was called with, such as "be,ef->bf", or "".
        backward: Whether the equation runs backward.
        name: The scopes as a path, with ".grad" behind it where the equation runs backward.
    """

    parts: tuple[str, ...] = ()
    einsum: str = ""
    backward: bool = False

    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the path once: every equation below asks for it."""
        object.__setattr__(self, "name", "/".join(self.parts) + (".grad" if self.backward else ""))

    def under(self, stack: object) -> Scope:
        """Return the scope of an equation here with a name stack such as "transpose(jvp(block))/be,ef->bf".

        Transformations, and some calls (remat), say the outer scopes again: they are not kept twice.
        """
        return _under(self, str(stack))


@functools.lru_cache(maxsize=2**16)
def _under(outer: Scope, stack: str) -> Scope:
    parts, einsum = outer.parts, outer.einsum
    segment: tuple[str, ...] = ()
    for text in stack.split("/"):
        if _TRANSFORMATION.match(text):
            parts, segment = _joined(parts, segment), ()
        word = _TRANSFORMATION.sub("", text).strip("() ")
        if _EINSUM.fullmatch(word):
            einsum = word.replace(" ", "")
        elif word and word not in _MACHINERY:
            segment = (*segment, word)
    return Scope(_joined(parts, segment), einsum, outer.backward or "transpose(" in stack)


def _joined(outer: tuple[str, ...], inner: tuple[str, ...]) -> tuple[str, ...]:
    """`inner` behind `outer`, without what it repeats of its end."""
    most = range(min(len(outer), len(inner)), 0, -1)
    known = next((n for n in most if outer[-n:] == inner[:n]), 0)
    return outer + inner[known:]
