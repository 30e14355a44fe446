"""Is a committed plan still the plan of its function? For `autoshard check`, CI and pre-commit."""

from __future__ import annotations

from typing import Any

from autoshard.applying import differences
from autoshard.errors import PlanError
from autoshard.plan import Plan
from autoshard.targets import load_target
from autoshard.trace import trace

_TRACE_OPTIONS = ("donate_argnums", "donate_argnames", "static_argnums", "static_argnames")


def check_plan(plan: Plan) -> list[str]:
    """Trace the function of a plan and return in words what differs; empty when the plan is fresh.

    Raises:
        PlanError: The plan does not say where its function is.
        TargetError: The function is not where the plan says.
        TraceError: The function cannot be traced any more.
    """
    if plan.function.target is None:
        raise PlanError(
            f"the plan of `{plan.function.name}` does not say where its function is: it was not made from the command line. "
            "Make it with: autoshard tune MODULE_OR_FILE:FUNCTION --slice ... -o PLAN"
        )
    target = load_target(plan.function.target, plan.function.inputs)
    options = {key: _sequence(target.jit_options[key]) for key in _TRACE_OPTIONS if key in target.jit_options}
    traced = trace(target.function, target.arguments, **options)
    found = differences(plan, traced)
    donated = {name for i, name in enumerate(traced.argument_names) if i in traced.donated}
    planned = {name for name, argument in plan.arguments.items() if argument.donated}
    if not found and donated != planned:
        found.append(f"donated arguments were {sorted(planned)}, are {sorted(donated)}")
    return found


def _sequence(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int | str) else tuple(value or ())
