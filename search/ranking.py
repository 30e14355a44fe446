"""The assignments of a network in order of cost, lazily, without repeating a choice of key labels.

Lawler (1972): the best assignment of a set is found; the rest of the set is parted into subsets, one per
key variable, in which the keys before it keep their labels and it itself must change; the best of all
subsets is next. A subset is a heap entry long before it is solved: the min-marginals of the set it came
from bound it from below (Nilsson 1998), and most subsets never come to the top. Symmetric copies of a
choice are not visited (see `symmetry`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from autoshard.search.elimination import Elimination
from autoshard.search.errors import NoSolutionError
from autoshard.search.network import BoolArray, FloatArray
from autoshard.search.order import elimination_order
from autoshard.search.reduction import Reduced
from autoshard.search.solver import solve
from autoshard.search.symmetry import Symmetry, orbit, preserving

_MARGINAL_OPERATIONS = 3e8


@dataclass(frozen=True, slots=True)
class _Best:
    """The best assignment of a subset, and what bounds its parts."""

    labels: tuple[int, ...]
    reduced: Reduced
    elimination: Elimination | None  # None where elimination is too expensive

    def key_bounds(self, key: int, size: int) -> FloatArray:
        """Least cost in the subset with each label [K] of a key; -inf where not known."""
        if self.elimination is None:
            return np.full(size, -np.inf)
        bounds = np.full(size, np.inf)
        bounds[self.reduced.kept[key]] = self.elimination.marginal(key)
        return bounds


@dataclass(frozen=True, slots=True)
class _Subset:
    """The assignments whose key labels are in `allowed`; `group` maps the set onto itself."""

    allowed: Mapping[int, BoolArray]
    group: tuple[Symmetry, ...]
    best: _Best | None = None


class Ranking:
    """The assignments of a network by cost, one `step` at a time.

    No two have the same labels on all keys. Every choice of key labels is represented by its cheapest
    assignment, or by that of a symmetric choice.

    Attributes:
        solved: how many networks have been solved so far.
    """

    def __init__(
        self, reduced: Reduced, sizes: Sequence[int], keys: Sequence[int], group: Sequence[Symmetry]
    ) -> None:
        """Rank the assignments that `reduced` still allows.

        Args:
            reduced: the network.
            sizes: label counts before it was reduced; labels and symmetries are in these terms.
            keys: variables that make a difference.
            group: symmetries; those that do not map the kept labels onto themselves are left out.
        """
        self._base = reduced
        self._sizes = sizes
        self._keys = tuple(keys)
        self._heap: list[tuple[float, int, int, _Subset]] = []
        self._serial = 0
        self.solved = 0
        masks = reduced.masks(sizes)
        for i, mask in enumerate(masks):
            group = preserving(group, i, mask)
        self._push(-np.inf, _Subset({key: masks[key] for key in self._keys}, tuple(group)))

    @property
    def is_exhausted(self) -> bool:
        """Whether every choice has been represented."""
        return not self._heap

    @property
    def bound(self) -> float:
        """Lower bound on every assignment that is still to come."""
        return self._heap[0][0] if self._heap else np.inf

    def step(self) -> tuple[int, ...] | None:
        """The next best assignment, or None when one more network had to be solved to get closer to it."""
        bound, _, _, subset = heappop(self._heap)
        if subset.best is None:
            self._solve(bound, subset)
            return None
        self._part(bound, subset, subset.best)
        return subset.best.labels

    def _push(self, bound: float, subset: _Subset) -> None:
        """Solved subsets come before unsolved ones of the same bound."""
        self._serial += 1
        heappush(self._heap, (bound, subset.best is None, self._serial, subset))

    def _solve(self, bound: float, subset: _Subset) -> None:
        self.solved += 1
        local = {key: mask[self._base.kept[key]] for key, mask in subset.allowed.items()}
        masks = [local.get(i, np.ones(len(kept), np.bool_)) for i, kept in enumerate(self._base.kept)]
        try:
            value, best = self._best(self._base.further(masks))
        except NoSolutionError:
            return
        self._push(max(bound, value), _Subset(subset.allowed, subset.group, best))

    def _best(self, reduced: Reduced) -> tuple[float, _Best]:
        order = elimination_order(reduced.network)
        if order.operations > _MARGINAL_OPERATIONS:
            solution = solve(reduced.network)
            return solution.value, _Best(reduced.original(solution.labels), reduced, None)
        elimination = Elimination(reduced.network, order)
        labels = elimination.labels()
        return reduced.network.value(labels), _Best(reduced.original(labels), reduced, elimination)

    def _part(self, value: float, subset: _Subset, best: _Best) -> None:
        """Part the rest of a subset; keys whose change costs most are fixed first, to keep bounds tight."""
        ranked = []
        for key in self._keys:
            rest = subset.allowed[key].copy()
            rest[best.labels[key]] = False
            bounds = best.key_bounds(key, self._sizes[key])
            ranked.append((-float(np.min(bounds[rest], initial=np.inf)), key, bounds))
        allowed, group = dict(subset.allowed), subset.group
        for _, key, bounds in sorted(ranked, key=lambda entry: entry[:2]):
            label = best.labels[key]
            rest = allowed[key].copy()
            rest[orbit(group, key, label)] = False
            least = float(np.min(bounds[rest], initial=np.inf))
            if least < np.inf:
                self._push(max(value, least), _Subset({**allowed, key: rest}, preserving(group, key, rest)))
            allowed[key] = np.arange(self._sizes[key]) == label
            group = preserving(group, key, allowed[key])
