"""Sharding rules, and the table in which they are composed: factors that are joined and split.

Factors that meet in one dim are one factor, and where a merged dim meets a split one the factor is split: a
union-find whose roots may be lists.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoshard.search.graph import Dims, Factor, FactorKind


@dataclass(frozen=True, slots=True)
class Rule:
    """The sharding rule of one equation: array operands in order (literals excluded), results, factors."""

    factors: tuple[Factor, ...]
    operand_dims: tuple[Dims, ...]
    result_dims: tuple[Dims, ...]
    ruled: bool


class FactorTable:
    """Factors that are joined and split while rules are composed (a union-find whose roots may be lists)."""

    def __init__(self) -> None:
        """Start without factors."""
        self.sizes: list[int] = []
        self.reduced: set[int] = set()
        self.whole: set[int] = set()
        self._became: dict[int, tuple[int, ...]] = {}

    def add(self, size: int) -> int:
        """Make a new factor of `size` elements."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def reduce(self, factor: int) -> None:
        """Mark a factor as summed away."""
        self.reduced.update(self.resolve((factor,)))

    def replicate(self, factor: int) -> None:
        """Mark a factor as one that cannot be split."""
        self.whole.update(self.resolve((factor,)))

    def resolve(self, dim: Iterable[int]) -> tuple[int, ...]:
        """Return the factors that a dim consists of now, without those of size 1."""
        roots: list[int] = []
        for factor in dim:
            if factor in self._became:
                roots += self.resolve(self._became[factor])
            elif self.sizes[factor] != 1:
                roots.append(factor)
        return tuple(roots)

    def join(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Declare that two factor lists are one dim; where they cannot be aligned both become whole."""
        a, b = list(self.resolve(left)), list(self.resolve(right))
        if math.prod(self.sizes[f] for f in a) != math.prod(self.sizes[f] for f in b):
            self.whole.update(a, b)
            return
        while a and b:
            a, b = list(self.resolve(a)), list(self.resolve(b))
            f, g = a.pop(0), b.pop(0)
            if f == g:
                continue
            if self.sizes[f] == self.sizes[g]:
                self._become(g, (f,))
            elif self.sizes[f] % self.sizes[g] == 0:
                a.insert(0, self._split(f, g))
            elif self.sizes[g] % self.sizes[f] == 0:
                b.insert(0, self._split(g, f))
            else:
                self.whole.update((f, g, *a, *b))
                return

    def _split(self, factor: int, major: int) -> int:
        minor = self.add(self.sizes[factor] // self.sizes[major])
        self._become(factor, (major, minor))
        return minor

    def _become(self, factor: int, into: tuple[int, ...]) -> None:
        self._became[factor] = into
        for marks in (self.reduced, self.whole):
            if factor in marks:
                marks.discard(factor)
                marks.update(into)

    def rule(
        self,
        operand_dims: Sequence[Sequence[Sequence[int]]],
        result_dims: Sequence[Sequence[Sequence[int]]],
        operand_shapes: Sequence[tuple[int, ...]],
        result_shapes: Sequence[tuple[int, ...]],
    ) -> Rule:
        """Freeze: number the factors by first use."""
        tensors = [[self.resolve(dim) for dim in dims] for dims in (*operand_dims, *result_dims)]
        for dims, shape in zip(tensors, (*operand_shapes, *result_shapes), strict=True):
            self._check(dims, shape)
        numbers: dict[int, int] = {}
        frozen = [
            tuple(tuple(numbers.setdefault(f, len(numbers)) for f in dim) for dim in dims) for dims in tensors
        ]
        count = len(operand_dims)
        kept = {f for dims in tensors[count:] for dim in dims for f in dim}
        factors = tuple(Factor(self.sizes[f], self._kind(f, kept)) for f in numbers)
        return Rule(factors, tuple(frozen[:count]), tuple(frozen[count:]), ruled=True)

    def _check(self, dims: Sequence[Sequence[int]], shape: Sequence[int]) -> None:
        """Factors that do not fill their dim, or that one tensor has twice, cannot be split."""
        for dim, size in zip(dims, shape, strict=True):
            if math.prod(self.sizes[f] for f in dim) != size:
                self.whole.update(dim)
        met = Counter(f for dim in dims for f in dim)
        self.whole.update(f for f, count in met.items() if count > 1)

    def _kind(self, factor: int, kept: set[int]) -> FactorKind:
        if factor in self.whole or (factor in kept) == (factor in self.reduced):
            # Neither summed nor kept (half a dim of an uneven reshape), or both: its parts need each other.
            return FactorKind.REPLICATED
        return FactorKind.PARALLEL if factor in kept else FactorKind.REDUCTION
