"""One order of dims in memory for what phases share, where the compiler chose several.

Tier 2 lets the TPU compiler choose in which order the dims of each argument and result lie in memory
(`autoshard.memory_orders`), for each phase by itself.  An array that phases share lies in one order, and one
that is handed over is taken as it is left: that of the phase which runs most often.  In the others the array
is copied to the order that the program wants, which their estimates do not count: that is said, with the time
that the model gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import msgspec
import numpy as np

from autoshard.cost.chips import Chip
from autoshard.cost.traffic import copy_seconds
from autoshard.phases.joint_search import Links
from autoshard.phases.phase import Phase
from autoshard.plan import Plan
from autoshard.plan_records import ArgumentRecord, ResultRecord
from autoshard.specs import parse_spec, parse_type
from autoshard.tune_result import TuneResult

_Order = str | None


def with_one_order(phases: Sequence[Phase], links: Links, tuned: Sequence[TuneResult]) -> list[TuneResult]:
    """Return the results with plans that agree on the order of what is shared and handed over."""
    leader = max(range(len(phases)), key=lambda number: phases[number].runs)
    arguments: list[dict[str, _Order]] = [
        {name: tuned[leader].plan.arguments[name].order for name in links.shared} for _ in phases
    ]
    results: list[dict[str, _Order]] = [{} for _ in phases]
    for handed in links.handed:
        by_source = leader == handed.source
        given = tuned[handed.source].plan.results[handed.result].order
        taken = tuned[handed.target].plan.arguments[handed.argument].order
        taken = arguments[handed.target].setdefault(handed.argument, given if by_source else taken)
        results[handed.source].setdefault(handed.result, taken)
    return [
        replace(one, plan=_ordered(one.plan, own, left))
        for one, own, left in zip(tuned, arguments, results, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Reordered:
    """Arrays of a plan that lie in another order than its program wants, and the time of copying them once.

    The time is the model's: each part is read from HBM and written once.
    """

    paths: tuple[str, ...]
    seconds: float


def reordered(wanted: Plan, plan: Plan, chip: Chip) -> Reordered:
    """What a plan has in another order than the one that the compiler chose for its program."""
    pairs = [
        (path, record, record.order != old[path].order)
        for old, new in ((wanted.arguments, plan.arguments), (wanted.results, plan.results))
        for path, record in new.items()
    ]
    nbytes = np.array([_local_bytes(record, plan) for _, record, differs in pairs if differs])
    seconds = float(copy_seconds(nbytes, chip).sum())
    return Reordered(tuple(path for path, _, differs in pairs if differs), seconds)


def _local_bytes(record: ArgumentRecord | ResultRecord, plan: Plan) -> float:
    """Bytes of one chip's part of an array."""
    dtype, shape = parse_type(record.type)
    sizes = {axis.name: axis.size for axis in plan.mesh_axes}
    shards = math.prod(sizes[axis] for axes in parse_spec(record.spec, len(shape)) for axis in axes)
    return math.prod(shape) * jnp.dtype(dtype).itemsize / shards


def _ordered(plan: Plan, arguments: dict[str, _Order], results: dict[str, _Order]) -> Plan:
    """A plan with some arrays in other orders."""
    return msgspec.structs.replace(
        plan,
        arguments={
            path: msgspec.structs.replace(record, order=arguments.get(path, record.order))
            for path, record in plan.arguments.items()
        },
        results={
            path: msgspec.structs.replace(record, order=results.get(path, record.order))
            for path, record in plan.results.items()
        },
    )
