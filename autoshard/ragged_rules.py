"""Rules of the grouped matmul of mixture-of-experts layers, `jax.lax.ragged_dot_general`.

    rows of each group times its matrix:   m k,   g k n,  g -> m n
    the gradient of the matrices:          m k,   m n,    g -> g k n
    rows grouped along a batch dim:        b m k, b k n,  g -> b m n

Batch dims may come in front of each. All dims are those of a `dot_general` but two. The ragged dim, which the
groups cut (m, m, b above), stays whole: a chip with some of the rows would need group sizes of its own, and
the TPU compiler gathers the rows instead. The groups stay whole: the rows of a chip are not those of its
groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import JaxprEqn

from autoshard.factor_table import FactorTable, Rule
from autoshard.primitives import shape_of


def ragged_rule(eqn: JaxprEqn) -> Rule:
    """Return the rule of a `ragged_dot_general` in any of its modes."""
    numbers = _Numbers.of(eqn)
    shapes = [shape_of(v.aval) for v in eqn.invars]
    table = FactorTable()
    left = [table.add(size) for size in shapes[0]]
    right = [table.add(size) for size in shapes[1]]
    groups = table.add(shapes[2][-1])
    for i, j in (*numbers.contracted, *numbers.batch):
        right[j] = left[i]
    for j in numbers.groups:
        right[j] = groups
    for i, _ in numbers.contracted:
        table.reduce(left[i])
    for factor in (groups, left[numbers.ragged]):
        table.replicate(factor)
    sizes = [*(left[i] for i in numbers.grouped_by()), groups] if len(shapes[2]) > 1 else [groups]
    tensors = [left, right, sizes, numbers.result(left, right, groups)]
    *operands, result = [[(factor,) for factor in tensor] for tensor in tensors]
    return table.rule(operands, [result], shapes, [shape_of(eqn.outvars[0].aval)])


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The dimension numbers: pairs of dims of the left and the right operand, and dims of one of them."""

    contracted: tuple[tuple[int, int], ...]
    batch: tuple[tuple[int, int], ...]
    ragged: int
    groups: tuple[int, ...]

    @staticmethod
    def of(eqn: JaxprEqn) -> _Numbers:
        numbers: Any = eqn.params["ragged_dot_dimension_numbers"]
        contracted, batch = numbers.dot_dimension_numbers
        (ragged,) = numbers.lhs_ragged_dimensions
        return _Numbers(
            contracted=tuple(zip(*contracted, strict=True)),
            batch=tuple(zip(*batch, strict=True)),
            ragged=ragged,
            groups=tuple(numbers.rhs_group_dimensions),
        )

    def grouped_by(self) -> list[int]:
        """Dims of the left operand by which the group sizes differ, where they have more than one dim."""
        batch, contracted = [i for i, _ in self.batch], [i for i, _ in self.contracted]
        if self.ragged in batch:
            return batch[: batch.index(self.ragged)]
        if self.ragged in contracted:
            return [*batch, *contracted[: contracted.index(self.ragged)]]
        return [*batch, *(i for i in range(self.ragged) if i not in (*batch, *contracted))]

    def result(self, left: Sequence[int], right: Sequence[int], groups: int) -> list[int]:
        """The result's dims: the groups where rows are summed, batch, then what each operand keeps."""
        contracted, batch = [i for i, _ in self.contracted], [i for i, _ in self.batch]
        gone = {*(j for _, j in self.contracted), *(j for _, j in self.batch), *self.groups}
        return [
            *([groups] if self.ragged in contracted else []),
            *(left[i] for i in batch),
            *(factor for i, factor in enumerate(left) if i not in (*contracted, *batch)),
            *(factor for j, factor in enumerate(right) if j not in gone),
        ]
