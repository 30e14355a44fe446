"""The reshards of a program that replicate the whole tensor: at which operation, from which spec to which.

The compiler's warning (`autoshard.compiled.rematerialisation`) has shardings in XLA's notation. A sharding
``devices=[2,1,4]<=[2,2,2]T(1,0,2) last_tile_dim_replicate`` cuts the first dim in 2, the second not, and has
4 copies of each shard; its devices are 0..7 in an array of shape [2,2,2], transposed, reshaped to [2,1,4].
The mesh axes along which a dim's devices differ are those that the dim is sharded over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from autoshard.audit.attribution import label_of
from autoshard.audit.attribution_source import own_lines, short
from autoshard.audit.records import Replicated
from autoshard.compiled.hlo import Module
from autoshard.compiled.hlo_metadata import stack_of
from autoshard.compiled.rematerialisation import parse_warning
from autoshard.compiled.replica_groups import varying_axes
from autoshard.cost.torus import TorusMesh
from autoshard.equations import Equation
from autoshard.marks import mark_in
from autoshard.specs import format_spec

_TILES = re.compile(r"\{devices=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?( last_tile_dim_replicate)?\}")


def replicated(
    warnings: Iterable[str], module: Module, mesh: TorusMesh, by_mark: Mapping[str, Equation] | None = None
) -> tuple[Replicated, ...]:
    """Say of each warning which operation it is about.

    Args:
        warnings: What the compiler logged.
        module: The compiled program.
        mesh: Its mesh.
        by_mark: Equations of a planned function, by their marks.
    """
    return tuple(_replicated(text, module, mesh, by_mark or {}) for text in warnings)


def spec_text(sharding: str, mesh: TorusMesh) -> str:
    """Return a sharding in XLA's notation as the spec text of plans, such as ``[x;y,z]``.

    A sharding that is no spec over the mesh, or in another notation, is returned as it is.
    """
    match = _TILES.fullmatch(sharding)
    if match is None:
        return sharding
    tiles, dims = _numbers(match[1]), _numbers(match[2])
    order = _numbers(match[3]) if match[3] else list(range(len(dims)))
    ids = np.arange(mesh.n_chips).reshape(dims).transpose(order).reshape(tiles)
    spec = []
    for dim in range(len(tiles) - bool(match[4])):
        groups = np.moveaxis(ids, dim, -1).reshape(-1, tiles[dim])
        axes = varying_axes(groups.tolist(), mesh)
        if np.prod([mesh.shape[axis] for axis in axes], dtype=int) != tiles[dim]:
            return sharding
        names = [mesh.names[axis] for axis in axes]
        spec.append(tuple(dict.fromkeys(names)))
    return f"[{format_spec(tuple(spec))}]"


def _replicated(text: str, module: Module, mesh: TorusMesh, by_mark: Mapping[str, Equation]) -> Replicated:
    warning = parse_warning(text)
    equation = by_mark.get(mark_in(warning.op_name) or "")
    lines = own_lines(stack_of(warning.metadata, module.frames))
    line = short(lines[0]) if lines else ""
    return Replicated(
        op=equation.name if equation is not None else label_of(warning.op_name),
        source=equation.source or line if equation is not None else line,
        tensor=warning.tensor,
        held=spec_text(warning.held, mesh),
        wanted=spec_text(warning.wanted, mesh),
        warning=text,
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
