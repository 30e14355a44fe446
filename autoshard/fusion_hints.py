"""Hints: which einsums of the model should be one, where that would pay.

Queries, keys and values, or gate and up, are often written as an einsum each. Where a step is short, starting
each kernel and each collective shows. A plan knows which einsums could be one and what that would save, by
the model (`autoshard.search.fusing`) and, once it is compiled, by the compiler's schedule
(`autoshard.fusion_times`); a hint goes by the surer of the two, and is not given for less than `WORTH_SHARE`
of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoshard.plan import Plan
from autoshard.plan_records import FusionRecord
from autoshard.units import format_percent, format_seconds

WORTH_SHARE = 0.01
"""Share of the step time that fusing must save for a hint."""

_CHANGE = (
    "Store their weights as one array in which the parts of every shard lie side by side along a dim that is "
    "not sharded (E,2,F for gate and up; E,K,G+2,D for K key-value heads of G queries), multiply once, and "
    "split the result along that dim"
)
_WHO = {"predicted": "by the model", "estimated": "by the compiler's schedule"}


@dataclass(frozen=True, slots=True)
class FusionHint:
    """Einsums that should be one.

    Attributes:
        einsums: their names in the plan.
        sources: where they are written, each line once.
        reads: the activation that they all read.
        seconds: their time in a step, collectives included.
        fused_seconds: that of the one einsum.
        share: what is saved, as a share of the step.
        tier: who says so.
        change: what to do, in words.
    """

    einsums: tuple[str, ...]
    sources: tuple[str, ...]
    reads: str
    seconds: float
    fused_seconds: float
    share: float
    tier: Literal["predicted", "estimated"]
    change: str = _CHANGE


def fusion_hints(plan: Plan) -> tuple[FusionHint, ...]:
    """Return what is worth saying of a plan's fusions, the largest saving first."""
    sources = {record.name: record.source for record in plan.einsums}
    hints = (_hint(plan, fusion, sources) for fusion in plan.fusions)
    worth = (hint for hint in hints if hint.share >= WORTH_SHARE)
    return tuple(sorted(worth, key=lambda hint: (-hint.share, hint.einsums)))


def _hint(plan: Plan, fusion: FusionRecord, sources: dict[str, str]) -> FusionHint:
    tier: Literal["predicted", "estimated"] = "predicted"
    before, after, step = fusion.seconds, fusion.fused_seconds, plan.predicted_seconds
    if None not in (fusion.estimated_seconds, fusion.estimated_fused_seconds, plan.estimated_seconds):
        tier = "estimated"
        before, after = fusion.estimated_seconds or 0.0, fusion.estimated_fused_seconds or 0.0
        step = plan.estimated_seconds or 0.0
    return FusionHint(
        einsums=fusion.einsums,
        sources=tuple(dict.fromkeys(sources[name] for name in fusion.einsums)),
        reads=fusion.reads,
        seconds=before,
        fused_seconds=after,
        share=(before - after) / step if step > 0 else 0.0,
        tier=tier,
    )


def hint_lines(hints: Sequence[FusionHint]) -> list[str]:
    """Return the hints as text, no lines where there are none."""
    lines = [
        f"hint: {', '.join(hint.einsums)} ({', '.join(hint.sources)}) all read {hint.reads}: "
        f"{format_seconds(hint.seconds)} of a step, as one einsum {format_seconds(hint.fused_seconds)} "
        f"{_WHO[hint.tier]} ({format_percent(hint.share)} of the step)"
        for hint in hints
    ]
    return [*lines, f"    {_CHANGE}"] if lines else []
