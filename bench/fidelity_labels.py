"""The labels of a plan written by name, so that the plan can be priced again when the model has changed.

A decision problem numbers its variables and their labels, and any change of the model may renumber them.
Written down are therefore, for every variable, whom it decides (the name of an op or of a value, with the
sizes that its codes refer to), and its code: what each mesh axis does.  `price_plan` looks both up in the
problem of today.  A variable that the plan does not know, or whose code is no longer a label, is left to the
solver: it takes what is cheapest with all others as they are; how many were so is part of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.errors import AutoshardError
from autoshard.search.decisions import spell_out
from autoshard.search.errors import NoSolutionError
from autoshard.search.memory import MemoryModel, Peak
from autoshard.search.planner import Candidate
from autoshard.search.problem import Problem, Variable, VariableKind
from autoshard.search.solver import solve

_SIGNS = ".0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""A code as text: "." for a replicated axis, "+" for an unreduced one, else the factor or dim."""
_UNREDUCED_SIGN, _UNREDUCED_CODE = "+", -2


class StalePlanError(AutoshardError):
    """A stored plan that the model of today finds impossible."""


@dataclass(frozen=True, slots=True)
class Priced:
    """What tier 0 says of a stored plan.

    Attributes:
        labels: Its labels in the problem of today.
        seconds: Predicted step time.
        peak: HBM per chip.
        permute_seconds: The part of `seconds` that permutes between orders of axes take.
        filled: Variables that the plan does not decide, left to the solver.
    """

    labels: tuple[int, ...]
    seconds: float
    peak: Peak
    permute_seconds: float
    filled: int

    @property
    def candidate(self) -> Candidate:
        """The plan as the search has it."""
        return Candidate(self.labels, self.seconds, self.peak, self.permute_seconds)


def variable_names(problem: Problem) -> tuple[str, ...]:
    """Name every variable of a problem: `op NAME|SIZES` or `value NAME|SIZES`, each only once."""
    names = [_name(problem, variable) for variable in problem.variables]
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(unique)


def _name(problem: Problem, variable: Variable) -> str:
    if variable.kind is VariableKind.STRATEGY:
        op = problem.graph.ops[variable.subject]
        return f"op {op.name}|{_sizes([factor.size for factor in op.factors])}"
    value = problem.graph.values[variable.subject]
    if value.producer < 0:
        return f"value {value.name or value.index}|{_sizes(value.shape)}"
    made_by = problem.graph.ops[value.producer]
    part = made_by.results.index(value.index) if value.index in made_by.results else "slice"
    return f"value {made_by.name}:{part}|{_sizes(value.shape)}"


def _sizes(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)


def write_labels(problem: Problem, labels: Sequence[int]) -> dict[str, str]:
    """Write a plan: for each variable its name and its code as text."""
    pairs = zip(variable_names(problem), problem.variables, labels, strict=True)
    return {name: code_text(variable.codes[label]) for name, variable, label in pairs}


def code_text(code: npt.NDArray[np.int8]) -> str:
    """One character for each mesh axis."""
    return "".join(_UNREDUCED_SIGN if c == _UNREDUCED_CODE else _SIGNS[int(c) + 1] for c in code)


def read_labels(problem: Problem, written: Mapping[str, str]) -> tuple[int | None, ...]:
    """Find a written plan's labels; None for a variable that it does not decide."""
    names = variable_names(problem)
    return tuple(
        _label(variable, written.get(name)) for name, variable in zip(names, problem.variables, strict=True)
    )


def _label(variable: Variable, text: str | None) -> int | None:
    if text is None:
        return None
    code = [_UNREDUCED_CODE if sign == _UNREDUCED_SIGN else _SIGNS.index(sign) - 1 for sign in text]
    if len(code) != variable.codes.shape[1]:
        return None
    (matches,) = np.nonzero((variable.codes == np.array(code, dtype=np.int8)).all(axis=1))
    return int(matches[0]) if len(matches) else None


def price_plan(problem: Problem, memory: MemoryModel, written: Mapping[str, str]) -> Priced:
    """Price a written plan by the model of today.

    Args:
        problem: The decision problem of the plan's program on its mesh.
        memory: `MemoryModel(problem)`, made once for many plans.
        written: What `write_labels` returned.

    Raises:
        StalePlanError: The plan is impossible in this problem.
    """
    known = read_labels(problem, written)
    labels = tuple(label for label in known if label is not None)
    if len(labels) < len(known):
        labels = _filled(problem, known)
    value = problem.network.value(labels)
    if not np.isfinite(value):
        raise StalePlanError(_impossible(problem))
    permutes = spell_out(problem, labels).orders.permute_seconds
    seconds = value - problem.rest_seconds(labels) + permutes
    return Priced(labels, seconds, memory.peak(labels), permutes, sum(label is None for label in known))


def _filled(problem: Problem, known: Sequence[int | None]) -> tuple[int, ...]:
    """The labels with the best choice for those that are not known."""
    allowed = {
        number: np.arange(problem.network.size(number)) == label
        for number, label in enumerate(known)
        if label is not None
    }
    try:
        return tuple(solve(problem.network.restricted(allowed)).labels)
    except NoSolutionError as error:
        raise StalePlanError(_impossible(problem)) from error


def _impossible(problem: Problem) -> str:
    return (
        f"a stored plan for {problem.mesh.slice.name} is impossible in the decision problem of today: some "
        "reshard that it needs is no longer allowed; make the plans anew with `--rebuild`"
    )
