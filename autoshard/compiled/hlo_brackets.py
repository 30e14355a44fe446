"""Brackets in HLO text: `(..)`, `[..]` and `{..}` nest in each other, and mean nothing between quotes."""

from __future__ import annotations

from autoshard.errors import CompileError

_OPENING, _CLOSING = "([{", ")]}"


def split_top_level(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and quotes."""
    parts, start, depth, quoted = [], 0, 0, False
    for position, character in enumerate(text):
        if character == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part for part in (*parts, text[start:]) if part.strip()]


def group_end(text: str, start: int) -> int:
    """Return the position after the bracket that closes the one at `start`.

    Raises:
        CompileError: none closes it.
    """
    depth, quoted = 0, False
    for position in range(start, len(text)):
        character = text[position]
        if character == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif not quoted and character in _OPENING:
            depth += 1
        elif not quoted and character in _CLOSING:
            depth -= 1
            if depth == 0:
                return position + 1
    raise CompileError(f"An HLO line has an unclosed bracket: `{text[:120]}`.")
