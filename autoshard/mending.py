"""The command that makes a plan again.

It names the plan's target or, of phases planned together, all of them, and what the user asked for: choices
of the model, pins, bans, a memory limit, shardings to keep. Of phases planned together each plan says what
the others are and what they share, since it is only of use together with theirs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoshard.choices import choice_text
from autoshard.plan import Plan
from autoshard.plan_records import PhaseRecord

_ANY_PATH = "PLAN"


def mend_command(plan: Plan, path: str | os.PathLike[str] | None = None) -> str:
    """Return the command line, quoted for a shell.

    Args:
        plan: The plan.
        path: Its file, where that is known; else the command says ``PLAN``.
    """
    words = ["autoshard", "tune", *_targets(plan), *_choices(plan), *_wishes(plan), "-o", _output(plan, path)]
    return shlex.join(words)


def _targets(plan: Plan) -> Iterator[str]:
    function, together = plan.function, plan.together
    own = PhaseRecord(name=function.name, target=function.target, inputs=function.inputs)
    phases: Sequence[PhaseRecord] = (own,) if together is None else together.phases
    yield from (phase.target or f"MODULE_OR_FILE:{phase.name}" for phase in phases)
    for phase in phases:
        if phase.inputs is not None:
            yield from ("--inputs", phase.inputs)
    if together is not None:
        for pattern in together.share:
            yield from ("--share", pattern)
        for pattern in together.handover:
            yield from ("--handover", pattern)
        if together.weights is not None:
            yield from ("--weights", ",".join(f"{each:.15g}" for each in together.weights))
    yield from ("--slice", plan.slice)


def _choices(plan: Plan) -> Iterator[str]:
    """The choices that the plan was tuned with, all values that were tried."""
    tried = [each.values for each in plan.combinations] or [plan.choices]
    for name in plan.choices:
        yield from ("--choice", choice_text(name, list(dict.fromkeys(values[name] for values in tried))))


def _wishes(plan: Plan) -> Iterator[str]:
    together = plan.together
    for pin in plan.pins if together is None else together.pins:
        yield from ("--pin", pin)
    for ban in plan.forbidden if together is None else together.forbidden:
        yield from ("--forbid", ban)
    if plan.hbm_limit_bytes is not None:
        yield from ("--hbm-limit", f"{plan.hbm_limit_bytes / 2**30:.15g}")
    if plan.padding is not None:
        yield from ("--padding", plan.padding)
    if plan.kept:
        yield from ("--shardings", "keep")


def _output(plan: Plan, path: str | os.PathLike[str] | None) -> str:
    """The file to write; phases have their name before its ending, which `tune` puts there."""
    if path is None:
        return _ANY_PATH
    whole = Path(path)
    for phase in () if plan.together is None else plan.together.phases:
        if whole.stem.endswith(f".{phase.name}"):
            return str(whole.with_name(whole.stem.removesuffix(f".{phase.name}") + whole.suffix))
    return str(whole)
