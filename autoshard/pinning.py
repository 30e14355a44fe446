"""Pins as text: `PATTERN=SPEC`, what the user fixes before the search.

PATTERN is a glob over argument paths, over result paths after the prefix ``result:``, or over the names of
einsums after the prefix ``einsum:``, as plans print them: name patterns (``layers/{0..79}/wi``) are expanded
first.  SPEC is the spec of a plan file: the mesh axes of each dim, dims joined by ``;``, axes by ``,``::

    params/layers/w_up=;x;y,z                  the argument: dim 1 over x, dim 2 over y and z
    result:1/keys=;x,y,z;;                     a result, `result/1/keys` in the plan
    einsum:layers/w_up=;;x | x;y,z -> ;;y,z    what an einsum reads, and in what layout it leaves its result

For einsums each part may be ``*`` (free), and parts at the end may be left out.  Axes that a result does not
name may be open sums.  The order of the axes within a dim is the search's own choice.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from autoshard.cost.layouts import REPLICATED
from autoshard.cost.torus import TorusMesh
from autoshard.errors import PlanError
from autoshard.name_patterns import expand_name
from autoshard.search.errors import PinError
from autoshard.search.graph import Graph
from autoshard.search.pins import OpPin, Pin, ValuePin, Wanted
from autoshard.specs import format_type, parse_spec

if TYPE_CHECKING:
    from autoshard.trace import Traced

RESULT, EINSUM = "result:", "einsum:"
FREE = "*"
_ROOT = "result/"
"""With which the paths of results begin in plans; a pin may leave it out."""
_ARROW, _BAR = "->", "|"
_NEAR = 3
_EXAMPLE = "`params/layers/w_up=;x;y,z` or `einsum:layers/w_up=;;x | x;y,z`"


@dataclass(frozen=True, slots=True)
class PinText:
    """A pin taken apart; what it names is not looked up yet.

    Attributes:
        text: As the user wrote it.
        kind: "" for arguments, `RESULT` or `EINSUM`.
        pattern: What it is a pin of.
        parts: Spec texts: that of the array, or those of an einsum's operands; None is free.
        result: Spec text of an einsum's result; None is free.
    """

    text: str
    kind: str
    pattern: str
    parts: tuple[str | None, ...]
    result: str | None = None

    @property
    def axes(self) -> frozenset[str]:
        """The mesh axes that it names."""
        specs = ";".join(spec for spec in (*self.parts, self.result) if spec is not None)
        return frozenset(specs.replace(";", ",").split(",")) - {""}


def parse_pin(text: str) -> PinText:
    """Take a pin apart.

    Raises:
        PinError: it is not of the form ``PATTERN=SPEC``.
    """
    pattern, equals, spec = text.rpartition("=")
    kind = next((prefix for prefix in (RESULT, EINSUM) if pattern.startswith(prefix)), "")
    pattern, spec = pattern.removeprefix(kind).strip(), "".join(spec.split())
    pattern = pattern.removeprefix(_ROOT) if kind == RESULT else pattern
    if not equals or not pattern:
        raise PinError(f"`{text}` is not a pin: expected PATTERN=SPEC, such as {_EXAMPLE}")
    if kind != EINSUM:
        if FREE in spec or _BAR in spec or _ARROW in spec:
            raise PinError(f"`{text}`: expected one spec; `*`, `|` and `->` are for pins of `{EINSUM}NAME`")
        return PinText(text, kind, pattern, (spec,))
    operands, arrow, result = spec.partition(_ARROW)
    parts = tuple(_part(part) for part in operands.split(_BAR)) if operands or not arrow else ()
    return PinText(text, kind, pattern, parts, _part(result) if arrow else None)


def _part(text: str) -> str | None:
    return None if text == FREE else text


def meshes_with_axes(meshes: Sequence[TorusMesh], pins: Sequence[str]) -> tuple[TorusMesh, ...]:
    """The meshes that have every axis that the pins name.

    Raises:
        PinError: none has.
    """
    named = {axis: pin for pin in pins for axis in sorted(parse_pin(pin).axes)}
    found = tuple(mesh for mesh in meshes if named.keys() <= set(mesh.names))
    if named and not found:
        known = ", ".join(dict.fromkeys(name for mesh in meshes for name in mesh.names))
        missing = next((a for a in named if not any(a in mesh.names for mesh in meshes)), None)
        raise PinError(
            f"`{named[missing]}` names the mesh axis `{missing}`, which no mesh of {meshes[0].slice.name} "
            f"that is tried has; their axes are {known}"
            if missing
            else f"no mesh of {meshes[0].slice.name} that is tried has all of the axes {sorted(named)} that "
            f"the pins name; the axes of the meshes are {known}"
        )
    return found


def resolve(
    pins: Sequence[str], traced: Traced, graph: Graph, mesh: TorusMesh, ordered: Collection[str] = ()
) -> tuple[Pin, ...]:
    """Look up what pins name, on a mesh that has their axes.

    Args:
        pins: Pins as text.
        traced: The function.
        graph: Its graph.
        mesh: The mesh.
        ordered: Those of the pins, of arguments or results, that fix the order of the axes in a dim too.

    Raises:
        PinError: a pin matches nothing, or its spec does not suit what it matches.
    """
    return tuple(
        pin for text in pins for pin in _resolved(parse_pin(text), traced, graph, mesh, text in ordered)
    )


def matches(text: str, traced: Traced, graph: Graph) -> bool:
    """Whether a pin matches anything of a function."""
    pin = parse_pin(text)
    if pin.kind == EINSUM:
        return bool(_found(pin, [op.name for op in graph.einsums]))
    names = traced.result_names if pin.kind == RESULT else traced.argument_names
    return bool(_found(pin, [name.removeprefix(_ROOT) if pin.kind else name for name in names]))


def _resolved(pin: PinText, traced: Traced, graph: Graph, mesh: TorusMesh, ordered: bool) -> Iterator[Pin]:
    if pin.kind == EINSUM:
        einsums = {op.name: op.index for op in graph.einsums}
        for name in _matching(pin, einsums, "einsum"):
            yield _einsum_pin(pin, einsums[name], graph, mesh)
        return
    names, values, avals = (
        (traced.result_names, graph.results, traced.out_avals)
        if pin.kind == RESULT
        else (traced.argument_names, graph.arguments, traced.in_avals)
    )
    places = {name.removeprefix(_ROOT) if pin.kind else name: place for place, name in enumerate(names)}
    for name in _matching(pin, places, "result" if pin.kind else "argument"):
        place = places[name]
        aval = avals[place]
        what = f"`{name}` {format_type(aval.dtype, aval.shape)}"
        spec, rank = pin.parts[0] or "", len(aval.shape)
        layout = _layout(pin.text, spec, what, rank, mesh)
        yield ValuePin(values[place], layout, pin.text, order=_order(spec, rank, mesh) if ordered else ())


def _einsum_pin(pin: PinText, index: int, graph: Graph, mesh: TorusMesh) -> OpPin:
    op = graph.ops[index]
    if len(pin.parts) > len(op.operands):
        raise PinError(
            f"`{pin.text}` has {len(pin.parts)} operands, and `{op.name}` ({op.equation}) has "
            f"{len(op.operands)}"
        )

    def layout(spec: str | None, value: int, what: str) -> Wanted | None:
        known = graph.values[value]
        what = f"{what} of `{op.name}` ({op.equation}) {format_type(known.dtype, known.shape)}"
        return None if spec is None else _layout(pin.text, spec, what, len(known.shape), mesh)

    pairs = zip(pin.parts, op.operands, strict=False)
    operands = tuple(layout(spec, value, f"operand {n}") for n, (spec, value) in enumerate(pairs))
    return OpPin(index, operands, layout(pin.result, op.results[0], "the result"), pin.text)


def _layout(text: str, spec: str, what: str, rank: int, mesh: TorusMesh) -> Wanted:
    """The layout that a spec text stands for."""
    try:
        dims = parse_spec(spec, rank)
    except PlanError as error:
        raise PinError(f"`{text}`, for {what}: {error}{_rank_hint(spec, rank)}") from None
    layout = [REPLICATED] * len(mesh.axes)
    for dim, axes in enumerate(dims):
        for axis in axes:
            if axis not in mesh.names:
                raise PinError(
                    f"`{text}` names the mesh axis `{axis}`; the axes of {mesh.slice.name} are "
                    f"{', '.join(mesh.names)}"
                )
            layout[mesh.names.index(axis)] = dim
    return tuple(layout)


def _order(spec: str, rank: int, mesh: TorusMesh) -> tuple[tuple[int, ...], ...]:
    """The axes of each dim in the order of a spec text that is known to be sound."""
    return tuple(tuple(mesh.names.index(axis) for axis in axes) for axes in parse_spec(spec, rank))


def _rank_hint(spec: str, rank: int) -> str:
    if len(spec.split(";")) == rank - 1:
        return (
            " All dims count, the first one of stacked layers too: it is left whole by a leading `;`, as in "
            f"`;{spec}`."
        )
    return ""


def _matching(pin: PinText, names: Mapping[str, int], kind: str) -> list[str]:
    """The names that a pin's pattern matches."""
    found = _found(pin, names)
    if not found:
        raise PinError(
            f"`{pin.text}` matches no {kind}: {_nearest(pin.pattern, names)}; a plan (`autoshard explain`) "
            "lists the names"
        )
    return found


def _found(pin: PinText, names: Iterable[str]) -> list[str]:
    try:
        globs = expand_name(pin.pattern)
    except PlanError as error:
        raise PinError(f"`{pin.text}`: {error}") from None
    return [name for name in names if any(name == glob or fnmatchcase(name, glob) for glob in globs)]


def _nearest(pattern: str, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(pattern, known, _NEAR, 0.4) or known[:_NEAR]
    return "near to it are " + ", ".join(f"`{name}`" for name in near) if near else "there is none"
