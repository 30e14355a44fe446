"""What plans made alone would have to move: the weights, from one phase's layout to that of the next.

Each phase alone is free to have its own layout of what it shares with others.  Run one after the other, such
plans need two copies of it, or move it: per array the reshard between its two layouts, over all the links and
with nothing to hide behind.  (Orders of axes in a dim are not counted.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoshard.cost.layouts import REPLICATED, Layouts
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.phases.joint_search import Links
from autoshard.phases.phase import Phase
from autoshard.plan import Plan
from autoshard.plan_records import ArgumentRecord, ResultRecord
from autoshard.search.joining import moving_seconds
from autoshard.specs import parse_spec, rank_of


def moving_apart(phases: Sequence[Phase], plans: Sequence[Plan], links: Links) -> float | None:
    """Seconds to bring what is shared and handed over from each phase's layouts to the next phase's.

    Args:
        phases: The phases.
        plans: The plan of each, made alone.
        links: What they share and hand over.

    Returns:
        The sum over one pass through all phases; None where the plans have different meshes.
    """
    if any(plan.mesh_axes != plans[0].mesh_axes for plan in plans):
        return None
    mesh = _mesh(phases[0], plans[0])
    moves = [
        (plans[number].arguments[name], plans[number + 1].arguments[name], number, name)
        for number in range(len(phases) - 1)
        for name in links.shared
    ]
    total = sum(_seconds(phases[number], name, have, want, mesh) for have, want, number, name in moves)
    return total + sum(
        _seconds(
            phases[handed.target],
            handed.argument,
            plans[handed.source].results[handed.result],
            plans[handed.target].arguments[handed.argument],
            mesh,
        )
        for handed in links.handed
        if handed.source != handed.target
    )


def _seconds(
    phase: Phase, name: str, have: ArgumentRecord | ResultRecord, want: ArgumentRecord, mesh: TorusMesh
) -> float:
    """Time to move an array that is the argument `name` of a phase."""
    session = phase.session
    value = session.graph.values[session.graph.arguments[session.traced.argument_names.index(name)]]
    return float(moving_seconds(value, _layout(have, mesh), _layout(want, mesh), mesh)[0, 0])


def _layout(record: ArgumentRecord | ResultRecord, mesh: TorusMesh) -> Layouts:
    """[1, A] the layout that a plan's spec stands for."""
    layout = np.full((1, len(mesh.axes)), REPLICATED, dtype=np.int8)
    for dim, axes in enumerate(parse_spec(record.spec, rank_of(record.type))):
        for axis in axes:
            layout[0, mesh.names.index(axis)] = dim
    return layout


def _mesh(phase: Phase, plan: Plan) -> TorusMesh:
    axes = (MeshAxis(axis.name, axis.size, axis.torus_dim, axis.stride) for axis in plan.mesh_axes)
    return TorusMesh(phase.session.slice_, tuple(axes))
