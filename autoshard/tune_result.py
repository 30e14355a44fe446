"""What one tuning run gives: the plan, and what finding it took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from autoshard.plan import Plan
from autoshard.verdict_records import RunnerUp


@dataclass(frozen=True, slots=True)
class TuneResult:
    """A plan and what finding it took.

    Attributes:
        plan: the winner.
        search_seconds: time of the search by the model alone, after tracing and before any compiler.
        total_seconds: time of the whole run.
        candidates: every candidate with what each tier said of it, the winner among them, best first.
        interrupted: whether Ctrl-C ended the run early, with the best plan known by then.
    """

    plan: Plan
    search_seconds: float
    total_seconds: float
    candidates: tuple[RunnerUp, ...]
    interrupted: bool = False


def to_json(result: TuneResult, plan_path: str | None) -> str:
    """Return one JSON object for programs; null stands where a tier did not run.

    Choices of the model and their combinations are in it where the function has some.

    Args:
        result: the tuning run.
        plan_path: where the plan was written; None where it was not: then the object holds the plan itself.
    """
    plan = result.plan
    facts: dict[str, Any] = {
        "plan": plan_path if plan_path is not None else msgspec.to_builtins(plan),
        "predicted_seconds": plan.predicted_seconds,
        "estimated_seconds": plan.estimated_seconds,
        "measured_seconds": plan.measured_seconds,
        "hbm_bytes_per_chip": plan.hbm_bytes_per_chip,
        "gap": plan.gap,
        "search_seconds": result.search_seconds,
        "total_seconds": result.total_seconds,
        "candidates": msgspec.to_builtins(result.candidates),
    }
    if plan.choices:
        facts |= {"choices": plan.choices, "combinations": msgspec.to_builtins(plan.combinations)}
    return json.dumps(facts, indent=2, ensure_ascii=False)
