"""Pins and bans as text: `PATTERN=SPEC`, what the user fixes or forbids before the search.

PATTERN is a glob over argument paths, over result paths after the prefix ``result:``, or over the names of
einsums after the prefix ``einsum:``, as plans print them: name patterns (``layers/{0..79}/wi``) are expanded
first.  SPEC is the spec of a plan file: the mesh axes of each dim, dims joined by ``;``, axes by ``,``::

    params/layers/w_up=;x;y,z                  the argument: dim 1 over x, dim 2 over y and z
    result:1/keys=;x,y,z;;                     a result, `result/1/keys` in the plan
    einsum:layers/w_up=;;x | x;y,z -> ;;y,z    what an einsum reads, and in what layout it leaves its result

For einsums each part may be ``*`` (free), and parts at the end may be left out.  Axes that a result does not
name may be open sums.  The order of the axes within a dim is the search's own choice.

A ban has the same form. Its spec names the axes that each dim may *not* be sharded along, ``*`` being none
and ``any`` all of the mesh::

    params/*/wq=x;*;*                  dim 0 of these arguments not along x
    result:1/keys=*;*;any;*            dim 2 of a result stays whole
    einsum:layers/w_up=* | *;y,z -> *  the einsum does not read its weight with dim 1 along y or z
"""

from __future__ import annotations

from dataclasses import dataclass

from autoshard.search.errors import PinError

RESULT, EINSUM = "result:", "einsum:"
FREE, ANY = "*", "any"
ROOT = "result/"
"""With which the paths of results begin in plans; a pin may leave it out."""
_ARROW, _BAR = "->", "|"
_EXAMPLE = "`params/layers/w_up=;x;y,z` or `einsum:layers/w_up=;;x | x;y,z`"
_EXAMPLE_OF_BAN = "`params/layers/w_up=*;x;y,z` or `einsum:layers/w_up=* | x;any`"


@dataclass(frozen=True, slots=True)
class PinText:
    """A pin or a ban taken apart; what it names is not looked up yet.

    Attributes:
        text: As the user wrote it.
        kind: "" for arguments, `RESULT` or `EINSUM`.
        pattern: What it is a pin of.
        parts: Spec texts: that of the array, or those of an einsum's operands; None is free.
        result: Spec text of an einsum's result; None is free.
        bans: Whether the axes are forbidden ones.
    """

    text: str
    kind: str
    pattern: str
    parts: tuple[str | None, ...]
    result: str | None = None
    bans: bool = False

    @property
    def axes(self) -> frozenset[str]:
        """The mesh axes that it names."""
        specs = ";".join(spec for spec in (*self.parts, self.result) if spec is not None)
        return frozenset(specs.replace(";", ",").split(",")) - ({"", FREE, ANY} if self.bans else {""})


def parse_pin(text: str) -> PinText:
    """Take a pin apart.

    Raises:
        PinError: it is not of the form ``PATTERN=SPEC``.
    """
    kind, pattern, spec = _taken_apart(text, "pin", _EXAMPLE)
    if kind != EINSUM:
        if FREE in spec or _BAR in spec or _ARROW in spec:
            raise PinError(f"`{text}`: expected one spec; `*`, `|` and `->` are for pins of `{EINSUM}NAME`")
        return PinText(text, kind, pattern, (spec,))
    return PinText(text, kind, pattern, *_tensors(spec))


def parse_ban(text: str) -> PinText:
    """Take a ban apart.

    Raises:
        PinError: it is not of the form ``PATTERN=SPEC``.
    """
    kind, pattern, spec = _taken_apart(text, "ban", _EXAMPLE_OF_BAN)
    if kind == EINSUM:
        return PinText(text, kind, pattern, *_tensors(spec), bans=True)
    if _BAR in spec or _ARROW in spec:
        raise PinError(f"`{text}`: expected one spec; `|` and `->` are for bans of `{EINSUM}NAME`")
    return PinText(text, kind, pattern, (spec,), bans=True)


def _taken_apart(text: str, word: str, example: str) -> tuple[str, str, str]:
    """Kind, pattern and spec of a text of the form ``PATTERN=SPEC``."""
    pattern, equals, spec = text.rpartition("=")
    kind = next((prefix for prefix in (RESULT, EINSUM) if pattern.startswith(prefix)), "")
    pattern, spec = pattern.removeprefix(kind).strip(), "".join(spec.split())
    pattern = pattern.removeprefix(ROOT) if kind == RESULT else pattern
    if not equals or not pattern:
        raise PinError(f"`{text}` is not a {word}: expected PATTERN=SPEC, such as {example}")
    return kind, pattern, spec


def _tensors(spec: str) -> tuple[tuple[str | None, ...], str | None]:
    """The specs of an einsum's operands and of its result."""
    operands, arrow, result = spec.partition(_ARROW)
    parts = tuple(_part(part) for part in operands.split(_BAR)) if operands or not arrow else ()
    return parts, _part(result) if arrow else None


def _part(text: str) -> str | None:
    return None if text == FREE else text
