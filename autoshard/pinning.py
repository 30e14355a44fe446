"""What pins and bans (`autoshard.pin_text`) name: arguments, results and einsums, and layouts on a mesh."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from autoshard.cost.layouts import REPLICATED
from autoshard.cost.torus import TorusMesh
from autoshard.errors import PlanError
from autoshard.name_patterns import expand_name
from autoshard.pin_text import ANY, EINSUM, FREE, RESULT, ROOT, PinText, parse_ban, parse_pin
from autoshard.search.errors import PinError
from autoshard.search.graph import Graph
from autoshard.search.pins import Banned, OpPin, Pin, ValuePin, Wanted
from autoshard.specs import format_type, parse_spec

if TYPE_CHECKING:
    from autoshard.trace import Traced

_NEAR = 3


def meshes_with_axes(
    meshes: Sequence[TorusMesh], pins: Sequence[str], bans: Sequence[str] = ()
) -> tuple[TorusMesh, ...]:
    """The meshes that have every axis that the pins and bans name.

    Raises:
        PinError: none has.
    """
    texts = (*map(parse_pin, pins), *map(parse_ban, bans))
    named = {axis: each.text for each in texts for axis in sorted(each.axes)}
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
    pins: Sequence[str],
    traced: Traced,
    graph: Graph,
    mesh: TorusMesh,
    ordered: Collection[str] = (),
    bans: Sequence[str] = (),
) -> tuple[Pin, ...]:
    """Look up what pins and bans name, on a mesh that has their axes.

    Args:
        pins: Pins as text.
        traced: The function.
        graph: Its graph.
        mesh: The mesh.
        ordered: Those of the pins, of arguments or results, that fix the order of the axes in a dim too.
        bans: Bans as text.

    Raises:
        PinError: a pin or a ban matches nothing, or its spec does not suit what it matches.
    """
    texts = (*map(parse_pin, pins), *map(parse_ban, bans))
    return tuple(pin for text in texts for pin in _resolved(text, traced, graph, mesh, text.text in ordered))


def matches(pin: PinText, traced: Traced, graph: Graph) -> bool:
    """Whether a pin or a ban matches anything of a function."""
    if pin.kind == EINSUM:
        return bool(_found(pin, [op.name for op in graph.einsums]))
    names = traced.result_names if pin.kind == RESULT else traced.argument_names
    return bool(_found(pin, [name.removeprefix(ROOT) if pin.kind else name for name in names]))


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
    places = {name.removeprefix(ROOT) if pin.kind else name: place for place, name in enumerate(names)}
    for name in _matching(pin, places, "result" if pin.kind else "argument"):
        place = places[name]
        aval = avals[place]
        what = f"`{name}` {format_type(aval.dtype, aval.shape)}"
        spec, rank = pin.parts[0] or "", len(aval.shape)
        layout = _layout(pin, spec, what, rank, mesh)
        yield ValuePin(values[place], layout, pin.text, order=_order(spec, rank, mesh) if ordered else ())


def _einsum_pin(pin: PinText, index: int, graph: Graph, mesh: TorusMesh) -> OpPin:
    op = graph.ops[index]
    if len(pin.parts) > len(op.operands):
        raise PinError(
            f"`{pin.text}` has {len(pin.parts)} operands, and `{op.name}` ({op.equation}) has "
            f"{len(op.operands)}"
        )

    def layout(spec: str | None, value: int, what: str) -> Wanted | Banned | None:
        known = graph.values[value]
        what = f"{what} of `{op.name}` ({op.equation}) {format_type(known.dtype, known.shape)}"
        return None if spec is None else _layout(pin, spec, what, len(known.shape), mesh)

    pairs = zip(pin.parts, op.operands, strict=False)
    operands = tuple(layout(spec, value, f"operand {n}") for n, (spec, value) in enumerate(pairs))
    return OpPin(index, operands, layout(pin.result, op.results[0], "the result"), pin.text)


def _layout(pin: PinText, spec: str, what: str, rank: int, mesh: TorusMesh) -> Wanted | Banned:
    """The layout that a spec text stands for, or those that it bans."""
    if pin.bans:
        return _banned(pin.text, spec, what, rank, mesh)
    try:
        dims = parse_spec(spec, rank)
    except PlanError as error:
        raise PinError(f"`{pin.text}`, for {what}: {error}{_rank_hint(spec, rank)}") from None
    layout = [REPLICATED] * len(mesh.axes)
    for dim, axes in enumerate(dims):
        for axis in axes:
            layout[_axis(pin.text, axis, mesh)] = dim
    return tuple(layout)


def _order(spec: str, rank: int, mesh: TorusMesh) -> tuple[tuple[int, ...], ...]:
    """The axes of each dim in the order of a spec text that is known to be sound."""
    return tuple(tuple(mesh.names.index(axis) for axis in axes) for axes in parse_spec(spec, rank))


def _banned(text: str, spec: str, what: str, rank: int, mesh: TorusMesh) -> Banned:
    dims = spec.split(";") if rank or spec else []
    if len(dims) != rank:
        found = f"`{spec}` names {len(dims)} dims (joined by `;`), but the array has rank {rank}."
        raise PinError(f"`{text}`, for {what}: {found}{_rank_hint(spec, rank, FREE)}")
    pairs: set[tuple[int, int]] = set()
    for dim, names in enumerate(dims):
        listed = [name for name in names.split(",") if name not in ("", FREE)]
        for name in mesh.names if ANY in listed else listed:
            pairs.add((_axis(text, name, mesh), dim))
    return Banned(frozenset(pairs))


def _axis(text: str, axis: str, mesh: TorusMesh) -> int:
    if axis not in mesh.names:
        known = ", ".join(mesh.names)
        raise PinError(f"`{text}` names the mesh axis `{axis}`; the axes of {mesh.slice.name} are {known}")
    return mesh.names.index(axis)


def _rank_hint(spec: str, rank: int, free: str = "") -> str:
    if len(spec.split(";")) == rank - 1:
        left = "free" if free else "whole"
        return (
            f" All dims count, the first one of stacked layers too: it is left {left} by a leading "
            f"`{free};`, as in `{free};{spec}`."
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
