"""Prefill and decode planned together: PaLM 540B on 64 TPU v4 chips with one layout of the weights at rest.

Run from the repository's root: ``python -m bench.joint``; with ``--compile 2`` the TPU compiler chooses among
the two best candidates on both sides, and its estimates are compared as well.

Pope et al. 2022, arXiv:2211.05102, section 3.2.3 and table 2: the weights lie as the 2D weight-stationary
feed-forward wants them, decode leaves them there, and prefill of many tokens gathers them.  Here each phase
is planned alone and both together; the layouts are named after the fact (`bench.palm_layouts`).

    loss = (runs of prefill x its time + runs of decode x its time + hand-over) together / the same apart - 1

Apart, nothing has to lie alike and the hand-over is free: that is what no real serving can have.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import autoshard
from autoshard.phases.result import JointPlans
from autoshard.text_table import align
from autoshard.units import format_percent, format_seconds
from bench.fidelity_verdicts import Verdict
from bench.palm_layouts import feed_forward
from examples import palm

SLICE = "v4:4x4x4"
MOST_LOSS = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """Two phases, how often each runs, and the paper's layouts of their feed-forwards.

    The first words of a layout are what is compared: "weight-gathered" over however many axes.
    """

    name: str
    prefill: Callable[..., Any]
    runs: tuple[float, float]
    handover: tuple[str, ...]
    layouts: tuple[str, str]


CASES = (
    Case(
        "512 prompts of 2048 tokens, then 64 steps for all of them",
        palm.prefill_540b,
        (1, 64),
        ("cache",),
        ("weight-gathered", "weight-stationary 2D"),
    ),
    Case(
        "the same with 1024 steps",
        palm.prefill_540b,
        (1, 1024),
        ("cache",),
        ("weight-gathered", "weight-stationary 2D"),
    ),
    Case(
        "prompts one by one, then 64 steps for 512 of them",
        palm.prefill_540b_single,
        (512, 64),
        (),
        ("weight-stationary 2D", "weight-stationary 2D"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan all cases; the exit code is 1 where a target is missed."""
    parser = argparse.ArgumentParser(description="Prefill and decode of PaLM 540B planned together.")
    parser.add_argument(
        "--compile",
        type=int,
        default=0,
        metavar="K",
        help="candidates that the TPU compiler judges (default: 0)",
    )
    compiled = parser.parse_args(arguments).compile
    verdicts = [verdict for case in CASES for verdict in show(case, compiled)]
    print("\n".join(verdict.line for verdict in verdicts))
    met = sum(verdict.met for verdict in verdicts)
    print(f"{met} of {len(verdicts)} targets met")
    return int(met < len(verdicts))


def show(case: Case, compiled: int) -> list[Verdict]:
    """Print one case; returns its verdicts."""
    options: dict[str, Any] = {
        "slice": SLICE,
        "refine": "compile" if compiled else "none",
        "top_k": max(1, compiled),
    }
    functions = (case.prefill, palm.decode_540b)
    joint = autoshard.tune_phases(
        *functions, share="params", handover=case.handover, weights=case.runs, **options
    )
    alone = [autoshard.tune(function, **options) for function in functions]
    print(f"{case.name}, on {SLICE}")
    print("\n".join(f"    {line}" for line in table(joint, alone)))
    print(
        f"    hand-over {format_seconds(joint.handover_seconds)}; all runs {format_seconds(joint.seconds)}, "
        f"apart {format_seconds(joint.separate_seconds)}: loss {format_percent(joint.loss)}; proven within "
        f"{format_percent(joint.gap)} of the best with one layout; search {joint.search_seconds:.1f} s\n"
    )
    return [*verdicts(case, joint), *([estimated(case, joint, alone)] if compiled else [])]


def table(joint: JointPlans, alone: Sequence[autoshard.Plan]) -> list[str]:
    """A line for each phase and way of planning it."""
    heading = ("phase", "planned", "runs", "predicted", "estimated", "feed-forward", "w_up at rest", "w_down")
    rows = []
    for phase, apart in zip(joint.phases, alone, strict=True):
        for how, plan in (("alone", apart), ("together", phase.plan)):
            rows.append(
                (
                    phase.name,
                    how,
                    f"{phase.runs:g}",
                    format_seconds(plan.predicted_seconds),
                    format_seconds(plan.estimated_seconds),
                    feed_forward(plan),
                    *(plan.arguments[f"params/layers/{name}"].spec for name in ("w_up", "w_down")),
                )
            )
    return align([heading, *rows], right=(2, 3, 4))


def verdicts(case: Case, joint: JointPlans) -> list[Verdict]:
    """What the paper does, and at what loss."""
    loss = Verdict(
        f"{case.name}: loss over separate plans",
        format_percent(joint.loss),
        f"at most {MOST_LOSS:.0%}",
        joint.loss <= MOST_LOSS,
    )
    first, second = joint.plans.values()
    differ = [name for name in joint.shared if first.arguments[name] != second.arguments[name]]
    alike = Verdict(
        f"{case.name}: weights that lie differently in the two phases",
        f"{len(differ)} of {len(joint.shared)}",
        "0",
        not differ,
    )
    layouts = [
        Verdict(f"{case.name}: {name}", feed_forward(plan), wanted, feed_forward(plan).startswith(wanted))
        for (name, plan), wanted in zip(joint.plans.items(), case.layouts, strict=True)
    ]
    return [loss, alike, *layouts]


def estimated(case: Case, joint: JointPlans, alone: Sequence[autoshard.Plan]) -> Verdict:
    """The loss by the compiler's estimates; hand-over and copies to another memory order are the model's."""
    together = [phase.plan.estimated_seconds for phase in joint.phases]
    apart = [plan.estimated_seconds for plan in alone]
    name, target = f"{case.name}: loss by the compiler's estimates", f"at most {MOST_LOSS:.0%}"
    pairs = list(zip(case.runs, together, apart, strict=True))
    if any(one is None or other is None for _, one, other in pairs):
        return Verdict(name, "not estimated", target, False)
    copies = sum(phase.runs * phase.reordered.seconds for phase in joint.phases)
    whole = joint.handover_seconds + copies + sum(runs * (one or 0.0) for runs, one, _ in pairs)
    loss = whole / sum(runs * (other or 0.0) for runs, _, other in pairs) - 1
    return Verdict(name, format_percent(loss), target, loss <= MOST_LOSS)


if __name__ == "__main__":
    sys.exit(main())
