"""Is a committed plan still the plan of its function? For `autoshard check`, CI and pre-commit."""

from __future__ import annotations

from autoshard.choices import takes_keyword
from autoshard.cost.slices import parse_slice
from autoshard.errors import OptionError, PlanError
from autoshard.kept_finding import keep_shardings
from autoshard.matching import differences
from autoshard.plan import Plan
from autoshard.plan_records import AxisRecord
from autoshard.search.errors import PinError
from autoshard.targets import Target, load_target
from autoshard.trace import Traced, trace


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
    if not found and plan.kept:
        found = _kept_differences(plan, target, traced)
    planned = {name for name, argument in plan.arguments.items() if argument.donated}
    if not found and traced.donated_names != planned:
        found.append(f"donated arguments were {sorted(planned)}, are {sorted(traced.donated_names)}")
    return found


def _kept_differences(plan: Plan, target: Target, traced: Traced) -> list[str]:
    """What differs between the shardings that a plan keeps and those that the model has now."""
    try:
        kept = keep_shardings(target, traced, parse_slice(plan.slice))
    except (OptionError, PinError) as error:  # they were kept once, so they have changed
        return [f"the shardings of the model can no longer be kept: {error}"]
    now = () if kept is None else kept.texts()
    found = [f"sharding `{text}` of the plan is not in the model" for text in plan.kept if text not in now]
    found += [f"sharding `{text}` of the model is not in the plan" for text in now if text not in plan.kept]
    if not found and kept is not None:
        axes = tuple(
            AxisRecord(name=a.name, size=a.size, torus_dim=a.torus_dim, stride=a.stride)
            for a in kept.mesh.axes
        )
        if axes != plan.mesh_axes:
            found.append(
                f"the mesh of the model is {_mesh_text(axes)}, the plan has {_mesh_text(plan.mesh_axes)}"
            )
    return found


def _mesh_text(axes: tuple[AxisRecord, ...]) -> str:
    return " ".join(f"{axis.name}={axis.size}" for axis in axes)
