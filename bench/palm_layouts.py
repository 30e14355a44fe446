"""Do the paper's layouts come out of the search? PaLM 540B on 64 TPU v4 chips, by the analytical model alone.

Run from the repository's root: ``python -m bench.palm_layouts``.

The search knows no layout by name. Here the plans it finds are named after the fact, from their specs alone:
a feed-forward is *weight-gathered* over the axes that shard its weights at rest and no longer shard them
where the einsum reads them, else *weight-stationary*, 1D or 2D by how many dims of the weights are sharded.
They are set beside table 2 of Pope et al. 2022, arXiv:2211.05102, as are the step times (prefill of one
sequence: the paper has int8 weights, here they are bfloat16; its multiplications are bfloat16 too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autoshard
from examples import palm

SLICE = "v4:4x4x4"
CONTEXT = 2048
WEIGHTS = ("w_gate", "w_up", "w_down")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the paper's table 2 (a decode step is a 64th of its latency there)."""

    name: str
    function: Callable[..., Any]
    batch: int
    layout: str
    cache_over_batch: bool | None
    seconds: float


CASES = (
    Case(
        "decode, 512 sequences of context 2048", palm.decode_540b, 512, "weight-stationary 2D", True, 6.0 / 64
    ),
    Case("prefill, 512 x 2048 tokens", palm.prefill_540b, 512, "weight-gathered XYZ", None, 85.2),
    Case("prefill, 1 x 2048 tokens", palm.prefill_540b_single, 1, "weight-stationary 2D", None, 0.29),
)


def main() -> None:
    """Plan each case, name its layouts, compare."""
    verdicts = [show(case) for case in CASES]
    exact = sum(same for _, same in verdicts)
    family = sum(related for related, _ in verdicts)
    print(
        f"\n{family} of {len(CASES)} layouts of the paper's kind, {exact} of them over as many axes as there"
    )


def show(case: Case) -> tuple[bool, bool]:
    """Print one case; returns whether the layout is of the paper's kind, and whether it is the paper's."""
    plan = autoshard.tune(case.function, slice=SLICE, refine="none", top_k=1)
    found = feed_forward(plan)
    related, same = found.split()[0] == case.layout.split()[0], found == case.layout
    cache = cache_layout(plan, case.batch)
    if case.cache_over_batch is not None:
        as_there = cache.startswith("batch") == case.cache_over_batch
        related, same = related and as_there, same and as_there
    print(f"{case.name}, on {SLICE}")
    for einsum in plan.einsums:
        if einsum.name.rpartition("/")[2] in WEIGHTS:
            at_rest = weight_at_rest(plan, einsum.name)
            print(f"    {einsum.name:<15} {einsum.layout:<34} weight at rest {at_rest}")
    print(f"    feed-forward    {found:<34} paper: {case.layout}: {'agrees' if same else 'differs'}")
    print(f"    cache sharded   {cache}")
    ratio = plan.predicted_seconds / case.seconds
    print(f"    predicted       {plan.predicted_seconds:.4g} s; published {case.seconds:.4g} s ({ratio:.2f})")
    print(f"    optimal within  {plan.gap:.1%} of the model's proven bound")
    return related, same


def feed_forward(plan: autoshard.Plan) -> str:
    """Name the layout of the feed-forward: that of all its weights, or "mixed"."""
    names = {
        layout_of_weight(weight_at_rest(plan, einsum.name), einsum.operands[1])
        for einsum in plan.einsums
        if einsum.name.rpartition("/")[2] in WEIGHTS
    }
    return names.pop() if len(names) == 1 else "mixed: " + ", ".join(sorted(names))


def layout_of_weight(at_rest: str, as_read: str | None) -> str:
    """Name a weight's layout from its spec at rest and the chain of specs under which the einsum reads it."""
    rest, read = dims(at_rest), dims((as_read if as_read is not None else at_rest).rpartition(" > ")[2])
    gathered = {axis for dim in rest for axis in dim} - {axis for dim in read for axis in dim}
    if gathered:
        return "weight-gathered " + "XYZ"[: len(gathered)]
    return f"weight-stationary {sum(bool(dim) for dim in read)}D"


def weight_at_rest(plan: autoshard.Plan, einsum_name: str) -> str:
    """Spec of an einsum's stacked weight argument, without the dim of the layers."""
    weight = einsum_name.rpartition("/")[2]
    return plan.arguments[f"params/layers/{weight}"].spec.partition(";")[2]


def dims(spec: str) -> list[list[str]]:
    """The mesh axes of each dim of a spec such as "x;y,z"."""
    return [[axis for axis in dim.split(",") if axis] for dim in spec.split(";")]


def cache_layout(plan: autoshard.Plan, batch: int) -> str:
    """Say in words how the cache is sharded: that of the results, which decode takes over as it is."""
    cache = next(result for path, result in plan.results.items() if path.endswith("/keys"))
    sizes = [int(size) for size in cache.type.partition("[")[2].rstrip("]").split(",")]
    names = {batch: "batch", CONTEXT: "context"}  # the other dims are the layers and d_head
    sharded = {
        names.get(size, str(size)): axes for size, axes in zip(sizes, dims(cache.spec), strict=True) if axes
    }
    return "; ".join(f"{name} over {','.join(sharded[name])}" for name in sorted(sharded)) or "replicated"


if __name__ == "__main__":
    main()
