"""Is a function the one that a plan was made for? The differences in words, the first one first."""

from __future__ import annotations

from collections.abc import Container, Mapping

from autoshard.errors import PlanMismatchError
from autoshard.mending import mend_command
from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord, TensorRecord
from autoshard.trace import Traced


def require_match(plan: Plan, traced: Traced) -> None:
    """Raise `PlanMismatchError` naming the first difference between the plan and a traced function."""
    difference = next(iter(differences(plan, traced)), None)
    if difference is not None:
        raise mismatch(plan, difference)


def mismatch(plan: Plan, difference: str) -> PlanMismatchError:
    """Return the error that names a difference and the command that mends it."""
    return PlanMismatchError(
        f"the plan of `{plan.function.name}` does not fit: {difference}. "
        f"Make it again with: {mend_command(plan)}"
    )


def differences(plan: Plan, traced: Traced) -> list[str]:
    """Return in words what differs between the planned function and the traced one, first things first."""
    arguments = {name: argument.type for name, argument in plan.arguments.items()}
    results = {name: result.type for name, result in plan.results.items()}
    found = _tensor_differences("argument", arguments, traced.argument_types)
    found += _tensor_differences("result", results, traced.result_types)
    return found or _program_differences(plan, traced)


def _program_differences(plan: Plan, traced: Traced) -> list[str]:
    have = {equation.name for equation in traced.equations.equations}
    absences = (absence(einsum, have) for einsum in plan.einsums)
    found = [f"einsum {each}" for each in absences if each]
    if not found and traced.fingerprint() != plan.function.fingerprint:
        found.append("the function has changed since it was planned (other einsums, sizes or loop lengths)")
    return found


def absence(record: EinsumRecord | TensorRecord, names: Container[str]) -> str | None:
    """Say which copy of an operation is not among `names`; None where all are there."""
    missing = [name for name in expand_name(record.name) if name not in names]
    if not missing:
        return None
    more = f", nor are {len(missing) - 1} more of `{record.name}`" if len(missing) > 1 else ""
    return f"`{missing[0]}` ({record.source}) of the plan is not in the function{more}"


def _tensor_differences(kind: str, planned: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    found = [f"{kind} `{name}` of the plan is missing" for name in planned if name not in actual]
    found += [f"{kind} `{name}` is not in the plan" for name in actual if name not in planned]
    changed = [name for name in planned if name in actual and actual[name] != planned[name]]
    return found + [f"{kind} `{name}` is {actual[name]}, the plan has {planned[name]}" for name in changed]
