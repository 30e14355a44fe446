"""A call under a plan: the choices of the model (`autoshard.choices`) have the values of the plan.

A call need not name them. One that does has to say what the plan says: another value is another program, for
which the plan was not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.choices import choice_text
from autoshard.errors import PlanMismatchError
from autoshard.plan import Plan


def chosen_keywords(
    plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], parameters: Sequence[str]
) -> Mapping[str, Any]:
    """Return the keyword arguments of a call with those that the plan chose.

    Args:
        plan: The plan.
        args: The positional arguments of the call.
        kwargs: The keyword arguments of the call.
        parameters: Names of the parameters that can be passed by position.

    Raises:
        PlanMismatchError: The call gives a choice another value than the plan, or by position.
    """
    if not plan.choices:
        return kwargs
    for name, value in plan.choices.items():
        if name in parameters[: len(args)]:
            raise PlanMismatchError(
                f"`{name}` of `{plan.function.name}` is passed by position, and the plan chose "
                f"{choice_text(name, (value,))}: leave it out, or pass it by keyword"
            )
        if name in kwargs and (type(kwargs[name]), kwargs[name]) != (type(value), value):
            raise PlanMismatchError(
                f"`{name}` is {kwargs[name]!r} in the call of `{plan.function.name}`, and the plan chose "
                f"{value!r}: leave it out to run the plan's program, or make a plan for the other with "
                f"`autoshard tune ... --choice {name}={kwargs[name]}`"
            )
    return {**kwargs, **plan.choices}
