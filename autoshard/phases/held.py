"""What the joint solution settles for each phase: the specs of what is shared and handed over, as pins.

The layouts say which axes shard a dim; the order of several axes in one dim is chosen after a search, for
each phase by itself (`autoshard.search.ordering`).  Shared arrays need one order as well, so each phase's own
choice is offered to all the others, and that is taken under which all runs together permute least.  What is
handed over in one layout has one order, too.  Each phase is then planned under these pins like any function:
what the phases still decide does not touch the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoshard.name_patterns import fold_names
from autoshard.phases.joint_search import Found, Links
from autoshard.phases.phase import Phase
from autoshard.pin_text import RESULT
from autoshard.search.joining import Joint, Shared
from autoshard.search.ordering import Orders, Spec, orders_of
from autoshard.search.problem import Problem
from autoshard.specs import format_spec

Held = tuple[dict[int, Spec], ...]
"""For each phase the specs of its values that are settled for all phases."""


def held_specs(found: Found, shared: Sequence[Shared]) -> Held:
    """Settle the specs of what is shared and handed over, under the cheapest phase's orders of axes."""
    joint, labels = found.joint, found.solution.labels
    own = [Orders(problem, own) for problem, own in zip(joint.problems, labels, strict=True)]
    choices = [_led_by(lead, joint, own, shared) for lead in range(len(own))]
    return min(choices, key=lambda held: _permute_seconds(joint, labels, held))


def pins_of(phases: Sequence[Phase], found: Found, links: Links, held: Held) -> list[tuple[str, ...]]:
    """The pins of each phase, in the order of its arrays; arrays of like names and one spec have one pin."""
    pins = []
    for number, phase in enumerate(phases):
        traced, graph = phase.session.traced, phase.session.graph
        arguments = {*links.shared, *(h.argument for h in links.handed if h.target == number)}
        results = {h.result for h in links.handed if h.source == number}
        specs = {
            kind: {
                name: _text(held[number][value], found)
                for name, value in zip(names, values, strict=True)
                if name in wanted
            }
            for kind, names, values, wanted in (
                ("", traced.argument_names, graph.arguments, arguments),
                (RESULT, traced.result_names, graph.results, results),
            )
        }
        pins.append(tuple(pin for kind, by_name in specs.items() for pin in _folded(kind, by_name)))
    return pins


def _led_by(lead: int, joint: Joint, own: Sequence[Orders], shared: Sequence[Shared]) -> Held:
    """The specs where one phase's orders hold for all."""
    held: Held = tuple({} for _ in own)
    for each in shared:
        leader = lead if lead in each.values else min(each.values)
        spec = _spec(joint.problems[leader], own[leader], each.values[leader])
        for phase, value in each.values.items():
            held[phase][value] = spec
    for handover in joint.handovers:
        (source, given), (target, taken) = handover.source, handover.target
        specs = [
            held[phase].get(value) or _spec(joint.problems[phase], own[phase], value)
            for phase, value in (handover.source, handover.target)
        ]
        if _axes(specs[0]) == _axes(specs[1]):
            from_target = taken in held[target] or (lead == target and given not in held[source])
            specs = [specs[from_target]] * 2
        held[source][given], held[target][taken] = specs
    return held


def _spec(problem: Problem, orders: Orders, value: int) -> Spec:
    if value not in problem.value_variable:
        return ((),) * len(problem.graph.values[value].shape)
    return orders.spec_of_value(value)


def _axes(spec: Spec) -> list[set[int]]:
    return [set(axes) for axes in spec]


def _permute_seconds(joint: Joint, labels: Sequence[Sequence[int]], held: Held) -> float:
    """Time of the permutes of all runs when the held specs' orders are kept."""
    phases = zip(joint.problems, labels, held, joint.runs, strict=True)
    return sum(
        runs
        * Orders(
            replace(problem, orders={**problem.orders, **orders_of(problem, specs)}), own
        ).permute_seconds
        for problem, own, specs, runs in phases
    )


def _text(spec: Spec, found: Found) -> str:
    return format_spec(tuple(tuple(found.mesh.names[axis] for axis in axes) for axes in spec))


def _folded(kind: str, specs: Mapping[str, str]) -> list[str]:
    """Pins of arrays: one for all of one spec whose names fold."""
    by_spec: dict[str, list[str]] = {}
    for name, spec in specs.items():
        by_spec.setdefault(spec, []).append(name.removeprefix("result/") if kind else name)
    return [f"{kind}{pattern}={spec}" for spec, names in by_spec.items() for pattern in fold_names(names)]
