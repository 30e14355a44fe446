"""A joint plan as a person reads it, and as one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from autoshard.name_patterns import fold_names
from autoshard.phases.phase import DEFAULT_TOKENS
from autoshard.phases.result import JointPlans, PlannedHandOver
from autoshard.text_table import align
from autoshard.tune_result import to_json
from autoshard.units import format_bytes, format_percent, format_seconds


def joint_text(joint: JointPlans, paths: Sequence[str]) -> str:
    """Return the whole result in lines; `paths` are the plan files, none where none was written."""
    parts = [_phases(joint), _shared(joint)]
    if joint.handovers:
        parts.append(_handovers(joint))
    return "\n\n".join(["\n".join(part) for part in parts] + ["\n".join(_end(joint, paths))])


def joint_json(joint: JointPlans, paths: Sequence[str]) -> str:
    """Return one JSON object; of every phase it has what `tune` prints of one function."""
    facts: dict[str, Any] = {
        "phases": {
            phase.name: {
                "runs": phase.runs,
                "separate_seconds": phase.separate_seconds,
                "joint_seconds": phase.predicted_seconds,
                "loss": phase.loss,
                "reordered": list(phase.reordered.paths),
                "reorder_seconds": phase.reordered.seconds,
                **json.loads(to_json(phase.tuned, paths[number] if paths else None)),
            }
            for number, phase in enumerate(joint.phases)
        },
        "shared": list(joint.shared),
        "handovers": [
            {
                "source": each.source,
                "result": each.result,
                "given": each.given,
                "target": each.target,
                "argument": each.argument,
                "taken": each.taken,
                "runs": each.runs,
                "seconds": each.seconds,
            }
            for each in joint.handovers
        ],
        "handover_seconds": joint.handover_seconds,
        "moving_seconds": joint.moving_seconds,
        "joint_seconds": joint.seconds,
        "separate_seconds": joint.separate_seconds,
        "loss": joint.loss,
        "gap": joint.gap,
        "search_seconds": joint.search_seconds,
        "total_seconds": joint.total_seconds,
    }
    return json.dumps(msgspec.to_builtins(facts), indent=2, ensure_ascii=False)


def _phases(joint: JointPlans) -> list[str]:
    heading = ("phase", "runs", "alone", "together", "loss", "estimated", "measured", "HBM per chip")
    rows = [
        (
            phase.name,
            f"{phase.runs:g}",
            format_seconds(phase.separate_seconds),
            format_seconds(phase.predicted_seconds),
            format_percent(phase.loss),
            format_seconds(phase.plan.estimated_seconds),
            format_seconds(phase.plan.measured_seconds),
            format_bytes(phase.plan.hbm_bytes_per_chip),
        )
        for phase in joint.phases
    ]
    handed = () if not joint.handovers else (("hand-over", "", "", format_seconds(joint.handover_seconds)),)
    totals = (
        *handed,
        (
            "all runs",
            "",
            format_seconds(joint.separate_seconds),
            format_seconds(joint.seconds),
            format_percent(joint.loss),
        ),
    )
    padded = [(*row, *[""] * (len(heading) - len(row))) for row in totals]
    return align([heading, *rows, *padded], right=range(1, len(heading)))


def _shared(joint: JointPlans) -> list[str]:
    """What lies alike in all phases, arrays of like names and one spec in one line."""
    first = joint.phases[0].plan
    groups: dict[tuple[str, str], list[str]] = {}
    for name in joint.shared:
        record = first.arguments[name]
        groups.setdefault((record.type, record.spec), []).append(name)
    rows = [
        (pattern, type_text, _spec(spec))
        for (type_text, spec), names in groups.items()
        for pattern in fold_names(names)
    ]
    return (
        align([("shared, at rest in all phases", "type", "spec"), *rows]) if rows else ["nothing is shared"]
    )


def _handovers(joint: JointPlans) -> list[str]:
    """What goes from run to run, arrays of like names that are handed over alike in one line."""
    heading = ("handed over", "to", "times", "left as", "taken as", "time of one")
    groups: dict[tuple[object, ...], list[PlannedHandOver]] = {}
    for each in joint.handovers:
        key = (each.source, each.target, each.runs, each.given, each.taken, each.seconds)
        groups.setdefault(key, []).append(each)
    rows = [
        (
            f"{result} of {alike[0].source}",
            f"{argument} of {alike[0].target}",
            f"{alike[0].runs:g}",
            _spec(alike[0].given),
            _spec(alike[0].taken),
            format_seconds(alike[0].seconds) if alike[0].seconds else "nothing to move",
        )
        for alike in groups.values()
        for result, argument in _ends(alike)
    ]
    return align([heading, *rows], right=(2, 5))


def _ends(alike: Sequence[PlannedHandOver]) -> list[tuple[str, str]]:
    """Patterns of the results and of the arguments that they become; the names where they fold unlike."""
    results, arguments = (
        fold_names([each.result for each in alike]),
        fold_names([each.argument for each in alike]),
    )
    if len(results) == len(arguments):
        return list(zip(results, arguments, strict=True))
    return [(each.result, each.argument) for each in alike]


def _spec(text: str) -> str:
    return text if text.strip(";") else "whole"


def _reordered(joint: JointPlans) -> list[str]:
    """Where a phase takes arrays in the memory order of another."""
    return [
        f"{phase.name} has {', '.join(fold_names(phase.reordered.paths))} in the memory order of the phase "
        f"that runs most often: copies of some {format_seconds(phase.reordered.seconds)}, which its estimate "
        "lacks"
        for phase in joint.phases
        if phase.reordered.paths
    ]


def _moving(joint: JointPlans) -> str:
    if joint.moving_seconds is None:
        return "the plans are on different meshes: what they share would be laid anew between them"
    return f"moving it from one to the next would take {format_seconds(joint.moving_seconds)} more each time"


def _end(joint: JointPlans, paths: Sequence[str]) -> list[str]:
    chosen = (
        f"runs are assumed: {DEFAULT_TOKENS} of each later phase for one of the first; --weights says others"
        if joint.assumed_runs
        else "runs are those of --weights"
    )
    written = (
        f"plans written to {', '.join(paths)}: `autoshard explain PLAN` shows each"
        if paths
        else "plans not written: give -o PLAN to keep them"
    )
    return [
        *_reordered(joint),
        "alone, together: predicted by the analytical model; alone, nothing has to lie alike in two phases, "
        f"and {_moving(joint)}",
        f"one layout of what is shared: gap {format_percent(joint.gap)} to the proven bound; {chosen}",
        f"{written}; search took {format_seconds(joint.search_seconds)}, the whole run "
        f"{format_seconds(joint.total_seconds)}",
    ]
