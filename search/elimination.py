"""Exact minimisation by eliminating one variable after the other (bucket elimination).

Dechter, *Bucket elimination*, Artificial Intelligence 1999. Eliminating v replaces all factors that touch
v, its bucket, by one message over its remaining neighbours,

    message_v[s] = min_a sum of the bucket's factors at (v = a, s),

and the last constant is the minimum. Walking back, each variable takes the best label given those after it.
A second sweep from the last bucket to the first (the distribute pass of a junction tree, Dawid 1992) gives
every label's min-marginal: the least cost of any assignment that uses the label.
"""

from collections.abc import Sequence

import numpy as np

from autoshard.search.errors import NoSolutionError
from autoshard.search.minplus import Factor, project
from autoshard.search.network import FloatArray, Network
from autoshard.search.order import Order, elimination_order


class Elimination:
    """The buckets and messages of one complete elimination of a network.

    Attributes:
        minimum: the least cost of any assignment, +inf when there is none.
    """

    __slots__ = ("_buckets", "_downward", "_home", "_messages", "_order", "_rank", "_sizes", "minimum")

    def __init__(self, network: Network, order: Order | None = None) -> None:
        """Eliminate all variables.

        Args:
            network: any network; the work is `order.operations`, the memory the sum of the tables.
            order: of `elimination_order` when not given.
        """
        self._order = order or elimination_order(network)
        self._sizes = network.sizes
        self._rank = {v: at for at, v in enumerate(self._order.sequence)}
        self._buckets = _filled(network, self._rank)
        self._downward: dict[int, Factor] = {}
        self._messages: list[Factor] = []
        self._home: list[int] = []
        self.minimum = 0.0
        for at, scope in enumerate(self._order.scopes):
            message = project(self._buckets[at], scope, self._sizes)
            home = min((self._rank[v] for v in scope), default=-1)
            self._messages.append(message)
            self._home.append(home)
            if scope:
                self._buckets[home].append(message)
            else:
                self.minimum += float(message.table)

    def labels(self) -> tuple[int, ...]:
        """A best assignment; among equals, each variable takes its lowest label, last eliminated first.

        Raises:
            NoSolutionError: every assignment costs +inf.
        """
        if np.isinf(self.minimum):
            raise NoSolutionError("no assignment is possible: every combination meets a forbidden pair")
        chosen = [0] * len(self._sizes)
        for v, bucket in reversed(list(zip(self._order.sequence, self._buckets, strict=True))):
            chosen[v] = int(np.argmin(sum(_given(factor, v, chosen) for factor in bucket)))
        return tuple(chosen)

    def min_marginals(self) -> tuple[FloatArray, ...]:
        """Least cost of any assignment using each label: vectors [K_i], +inf where none exists."""
        return tuple(self.marginal(v) for v in range(len(self._sizes)))

    def marginal(self, v: int) -> FloatArray:
        """Least cost of any assignment using each label of one variable: vector [K_v]."""
        if np.isinf(self.minimum):
            return np.full(self._sizes[v], np.inf)
        path = [self._rank[v]]
        while self._home[path[-1]] >= 0:
            path.append(self._home[path[-1]])
        for at in reversed(path[:-1]):
            self._hand_back(at)
        table = project([*self._buckets[path[0]], *self._beyond(path[0])], (v,), self._sizes).table
        return table + (self.minimum - float(self._messages[path[-1]].table))

    def _hand_back(self, at: int) -> None:
        """The message to a bucket from its home: the least cost of all that is not below the bucket."""
        if at not in self._downward:
            home, message = self._home[at], self._messages[at]
            others = [factor for factor in self._buckets[home] if factor is not message]
            self._downward[at] = project([*others, *self._beyond(home)], message.scope, self._sizes)

    def _beyond(self, at: int) -> list[Factor]:
        return [self._downward[at]] if at in self._downward else []


def min_marginals(network: Network) -> tuple[FloatArray, ...]:
    """Exact least cost of any assignment using each label: vectors [K_i], +inf where there is none."""
    return Elimination(network).min_marginals()


def _filled(network: Network, rank: dict[int, int]) -> list[list[Factor]]:
    """Each factor of the network in the bucket of its first eliminated variable."""
    buckets: list[list[Factor]] = [[] for _ in rank]
    for i, vector in enumerate(network.unary):
        buckets[rank[i]].append(Factor((i,), vector))
    for (i, j), matrix in network.pairwise.items():
        buckets[min(rank[i], rank[j])].append(Factor((i, j), matrix))
    return buckets


def _given(factor: Factor, v: int, chosen: Sequence[int]) -> FloatArray:
    """The factor as a vector over `v`, the other variables at their chosen labels."""
    return factor.table[tuple(slice(None) if u == v else chosen[u] for u in factor.scope)]
