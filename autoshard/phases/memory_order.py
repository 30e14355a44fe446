"""One order of dims in memory for what phases share, where the compiler chose several.

Tier 2 lets the TPU compiler choose in which order the dims of each argument and result lie in memory
(`autoshard.memory_orders`), for each phase by itself.  An array that phases share lies in one order, and one
that is handed over is taken as it is left: that of the phase which runs most often.  In the others the array
is copied to the order that the program wants, which their estimates do not count; that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from autoshard.name_patterns import fold_names
from autoshard.phases.joint_search import Links
from autoshard.phases.phase import Phase
from autoshard.plan import Plan
from autoshard.tune_result import TuneResult

_Order = str | None


def with_one_order(
    phases: Sequence[Phase], links: Links, tuned: Sequence[TuneResult], note: Callable[[str], None]
) -> list[TuneResult]:
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
        replace(one, plan=_ordered(phase.name, one.plan, own, left, note))
        for phase, one, own, left in zip(phases, tuned, arguments, results, strict=True)
    ]


def _ordered(
    name: str,
    plan: Plan,
    arguments: dict[str, _Order],
    results: dict[str, _Order],
    note: Callable[[str], None],
) -> Plan:
    """A plan with some arrays in other orders."""
    moved = [path for path, order in arguments.items() if plan.arguments[path].order != order]
    moved += [path for path, order in results.items() if plan.results[path].order != order]
    if not moved:
        return plan
    note(
        f"`{name}` wants {', '.join(fold_names(moved))} in another order of dims in memory than the phase "
        f"that runs most often: they lie in the order of that one, and `{name}` copies them, which its "
        "estimate does not count"
    )
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
