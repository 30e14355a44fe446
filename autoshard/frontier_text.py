"""A Pareto front as a table for people, or as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from autoshard.frontier import Row, Wish
from autoshard.frontier_search import Frontier
from autoshard.text_table import align
from autoshard.tune_options import LATENCY
from autoshard.units import format_bytes, format_percent, format_seconds

_NUMBERS = ("step time", "chip-s/step", "chip-ms/token", "gap", "HBM/chip", "budget")
_NOTE = (
    "Predicted by the model (tier 0). Within a slice each plan is the fastest in its budget of memory per "
    "chip;\nbetween slices a plan is dominated by one that is as fast and costs no more chip-seconds. The "
    "gap is to the\nproven lower bound of the slice in that budget."
)


def to_json(frontier: Frontier, wish: Wish, plan_path: str | None) -> str:
    """Return one JSON object; times in seconds, memory in bytes.

    Args:
        frontier: What was found.
        wish: What was to be picked.
        plan_path: Where the picked plan was written; None where it was not.
    """
    facts: dict[str, Any] = {
        "function": frontier.function,
        "objective": wish.objective,
        "cost_limit_chip_seconds": wish.cost_limit,
        "latency_limit_seconds": wish.latency_limit_seconds,
        "rows": [_facts(row, frontier) for row in frontier.rows],
        "unfit": frontier.unfit,
        "picked": frontier.picked,
        "plan": plan_path,
        "interrupted": frontier.interrupted,
    }
    return json.dumps(facts, indent=2, ensure_ascii=False)


def _facts(row: Row, frontier: Frontier) -> dict[str, Any]:
    return {
        "slice": row.slice,
        "chips": row.n_chips,
        "mesh": row.mesh,
        "step_seconds": row.step_seconds,
        "lower_bound_seconds": row.lower_bound_seconds,
        "gap": row.gap,
        "chip_seconds_per_step": row.chip_seconds,
        "chip_seconds_per_token": row.chip_seconds_per_token,
        "hbm_bytes_per_chip": row.hbm_bytes_per_chip,
        "hbm_budget_bytes": row.hbm_budget_bytes,
        "dominated": row.dominated_by is not None,
        "dominated_by": row.dominated_by,
    }


def to_text(frontier: Frontier, wish: Wish, plan_path: str | None) -> str:
    """Return the table, what does not fit, and the pick."""
    columns = _columns(frontier)
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    table = align(rows, right=[i for i, name in enumerate(columns) if name in _NUMBERS])
    count = f"{len(rows) - 1} plan{'s' * (len(rows) > 2)}"
    lines = [f"{frontier.function}: {count}", _NOTE, "", *table]
    lines += [f"{name} does not fit: {reason}" for name, reason in frontier.unfit.items()]
    if frontier.interrupted:
        lines.append("interrupted: the front is not complete")
    return "\n".join([*lines, "", _verdict(frontier, wish, plan_path)])


def _columns(frontier: Frontier) -> dict[str, list[str]]:
    rows = frontier.rows
    columns = {
        "#": [f"{'*' if n == frontier.picked else ' '}{n + 1}" for n in range(len(rows))],
        "slice": [row.slice for row in rows],
        "mesh": [row.mesh for row in rows],
        "step time": [_four_digits(row.step_seconds) for row in rows],
        "chip-s/step": [f"{row.chip_seconds:.4g}" for row in rows],
    }
    if any(row.tokens for row in rows):
        per_token = [row.chip_seconds_per_token for row in rows]
        columns["chip-ms/token"] = ["-" if each is None else f"{1e3 * each:.4g}" for each in per_token]
    columns["gap"] = [format_percent(row.gap) for row in rows]
    columns["HBM/chip"] = [format_bytes(row.hbm_bytes_per_chip) for row in rows]
    columns["budget"] = [format_bytes(row.hbm_budget_bytes) for row in rows]
    columns["dominated"] = ["" if row.dominated_by is None else f"by {row.dominated_by + 1}" for row in rows]
    return columns


def _four_digits(seconds: float) -> str:
    """A time with a digit more than elsewhere: plans of one front differ little."""
    return f"{seconds * 1e3:.4g} ms"


def _verdict(frontier: Frontier, wish: Wish, plan_path: str | None) -> str:
    if frontier.picked is None:
        return frontier.why_none or ""
    row = frontier.rows[frontier.picked]
    adjective = "fastest" if wish.objective == LATENCY else "cheapest"
    if wish.cost_limit is not None:
        adjective += f" within the cost limit of {wish.cost_limit:.4g} chip-seconds a step"
    if wish.latency_limit_seconds is not None:
        adjective += f" within the latency limit of {format_seconds(wish.latency_limit_seconds)}"
    written = f"plan written to {plan_path}" if plan_path else "plan not written: give -o PLAN to keep it"
    return (
        f"* {adjective}: {row.slice}, {_four_digits(row.step_seconds)}, {row.chip_seconds:.4g} chip-seconds "
        f"a step, {format_bytes(row.hbm_bytes_per_chip)} per chip\n{written}"
    )
