"""How near two equations of a traced function are: steps along the data flow between them.

The compiler moves a collective along the data flow: past a sum, to the operation that made an open sum, to
the next one that reads. A step leads from an equation to another that makes what it reads or reads what it
makes; the two values that a loop hands over to each other count as one. What every chip computes for itself
(masks, positions) connects nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autoshard.equations import Equations


@dataclass(slots=True)
class Flow:
    """Steps between equations.

    Attributes:
        equations: The walked function.
        limit: Steps that are looked at.
    """

    equations: Equations
    limit: int
    _touching: list[list[int]] = field(default_factory=list)
    _near: dict[int, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one = _tied(self.equations)
        touching: list[list[int]] = [[] for _ in self.equations.values]
        for equation in self.equations.equations:
            for value in (*equation.operands, *equation.results):
                if not self.equations.values[value].free:
                    touching[one[value]].append(equation.index)
        self._touching = [touching[one[value]] for value in range(len(one))]

    def near(self, index: int) -> dict[int, int]:
        """Return the equations within the limit of one, each with its steps."""
        if index not in self._near:
            steps, front = {index: 0}, [index]
            for distance in range(1, self.limit + 1):
                front = [each for here in front for each in self._beside(here) if each not in steps]
                steps.update(dict.fromkeys(front, distance))
            self._near[index] = steps
        return self._near[index]

    def steps(self, index: int | None, others: Sequence[int]) -> int | None:
        """Return the steps from an equation to the nearest of others, None beyond the limit."""
        if index is None:
            return None
        near = self.near(index)
        return min((near[other] for other in others if other in near), default=None)

    def _beside(self, index: int) -> list[int]:
        equation = self.equations.equations[index]
        return [each for value in (*equation.operands, *equation.results) for each in self._touching[value]]


def _tied(equations: Equations) -> list[int]:
    """For each value the first one that it is tied to, itself where it is tied to none."""
    first = list(range(len(equations.values)))

    def find(value: int) -> int:
        while first[value] != value:
            first[value] = first[first[value]]
            value = first[value]
        return value

    for tie in equations.ties:
        low, high = sorted((find(tie.outer), find(tie.inner)))
        first[high] = low
    return [find(value) for value in range(len(first))]
