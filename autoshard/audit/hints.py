"""The author's own constraints beside an operation: often what a collective there is for."""

from __future__ import annotations

from autoshard.audit.flow import Flow
from autoshard.equations import Equation, Equations

_STEPS = 2
_CONSTRAINT = "sharding_constraint"


class Hints:
    """Finds constraints near a line of the model."""

    def __init__(self, equations: Equations) -> None:
        self._equations = equations
        self._flow = Flow(equations, _STEPS)
        self._at: dict[str, list[Equation]] = {}
        for equation in equations.equations:
            self._at.setdefault(equation.source, []).append(equation)

    def beside(self, source: str, op: str) -> tuple[str, ...]:
        """Return the lines of constraints within two steps of the data flow of an operation, nearest first.

        Args:
            source: Its line, such as `model.py:27`.
            op: The operation, as `autoshard.audit.attribution.label_of` names it.
        """
        here = self._at.get(source, []) if source else []
        same = [each for each in here if op.removesuffix(".grad").endswith(_last_word(each))]
        steps: dict[str, int] = {}
        for equation in same or here:
            for index, distance in self._flow.near(equation.index).items():
                other = self._equations.equations[index]
                if other.primitive == _CONSTRAINT and other.source:
                    steps[other.source] = min(distance, steps.get(other.source, _STEPS))
        return tuple(sorted(steps, key=lambda line: (steps[line], line)))


def _last_word(equation: Equation) -> str:
    return equation.equation or equation.primitive
