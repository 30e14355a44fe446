"""Is a committed plan still the plan of its function? For `autoshard check`, CI and pre-commit."""

from __future__ import annotations

from autoshard.choices import takes_keyword
from autoshard.errors import PlanError
from autoshard.matching import differences
from autoshard.plan import Plan
from autoshard.targets import load_target
from autoshard.trace import trace


def check_plan(plan: Plan) -> list[str]:
    """Trace the function of a plan and return in words what differs; empty when the plan is fresh.

    Raises:
        PlanError: The plan does not say where its function is.
        TargetError: The function is not where the plan says.
        TraceError: The function cannot be traced any more.
    """
    if plan.function.target is None:
        raise PlanError(
            f"the plan of `{plan.function.name}` does not say where its function is: it was not made "
            "from the command line. Make it with: autoshard tune MODULE_OR_FILE:FUNCTION --slice ... -o PLAN"
        )
    target = load_target(plan.function.target, plan.function.inputs).bound(plan.choices)
    lost = [name for name in plan.choices if not takes_keyword(target.function, name)]
    if lost:
        return [f"choice `{name}` of the plan is no keyword argument of the function" for name in lost]
    traced = trace(target.function, target.arguments, target.keywords, **target.jit_options)
    found = differences(plan, traced)
    planned = {name for name, argument in plan.arguments.items() if argument.donated}
    if not found and traced.donated_names != planned:
        found.append(f"donated arguments were {sorted(planned)}, are {sorted(traced.donated_names)}")
    return found
