"""In which order to eliminate the variables of a network, and what that will cost.

Eliminating v joins everything that touches it into one table over v and its neighbours (its clique) and
leaves a table over the neighbours. The work is the product of the label counts in the clique, so the order
decides between milliseconds and never. Finding the best order is NP-hard; the greedy rules are known to be
good (Koller & Friedman, *Probabilistic Graphical Models*, section 9.4.3). Two are tried, the cheaper one
wins: smallest clique table first, and fewest new table entries between neighbours first (weighted
min-fill).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import combinations
from math import inf, prod

from autoshard.search.network import Network

Graph = dict[int, set[int]]
_MOST_NEIGHBOURS = 100
Rule = Callable[[Graph, Sequence[float], int], float]


@dataclass(frozen=True, slots=True)
class Order:
    """An elimination order with its cost.

    Attributes:
        sequence: all variables, first eliminated first.
        scopes: for each step, the neighbours left at that moment: the variables of the table it leaves.
        operations: entries of all clique tables together; about a nanosecond each.
        largest_table: entries of the largest table that is stored.
    """

    sequence: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    operations: float
    largest_table: float

    def at_sizes(self, sizes: Sequence[int]) -> "Order":
        """The same order priced for other label counts."""
        return _priced(self.sequence, self.scopes, [float(size) for size in sizes])


def elimination_order(network: Network) -> Order:
    """A cheap elimination order by greedy rules; deterministic."""
    sizes = [float(size) for size in network.sizes]  # products may be beyond all integers that fit a float
    orders = (_greedy(_graph(network), sizes, rule) for rule in (_clique_entries, _fill_entries))
    return min(orders, key=lambda order: order.operations)


def _graph(network: Network) -> Graph:
    graph: Graph = {i: set() for i in range(network.n_variables)}
    for i, j in network.pairwise:
        graph[i].add(j)
        graph[j].add(i)
    return graph


def _clique_entries(graph: Graph, sizes: Sequence[float], v: int) -> float:
    return sizes[v] * prod(sizes[u] for u in graph[v])


def _fill_entries(graph: Graph, sizes: Sequence[float], v: int) -> float:
    if len(graph[v]) > _MOST_NEIGHBOURS:
        return inf  # beyond all means anyway, and its pairs would take long to count
    missing = (pair for pair in combinations(sorted(graph[v]), 2) if pair[1] not in graph[pair[0]])
    return sum(sizes[a] * sizes[b] for a, b in missing)


def _greedy(graph: Graph, sizes: Sequence[float], rule: Rule) -> Order:
    """Eliminate the variable of least (rule, clique table, index) until none is left."""
    scores = {v: (rule(graph, sizes, v), _clique_entries(graph, sizes, v), v) for v in graph}
    heap = sorted(scores.values())
    sequence: list[int] = []
    scopes: list[tuple[int, ...]] = []
    while heap:
        entry = heappop(heap)
        v = entry[2]
        if scores.get(v) != entry:
            continue
        sequence.append(v)
        scopes.append(tuple(sorted(graph[v])))
        del scores[v]
        for u in _eliminate(graph, v):
            scores[u] = (rule(graph, sizes, u), _clique_entries(graph, sizes, u), u)
            heappush(heap, scores[u])
    return _priced(tuple(sequence), tuple(scopes), sizes)


def _eliminate(graph: Graph, v: int) -> list[int]:
    """Take `v` out, tie its neighbours together; returns the variables whose scores may have changed."""
    neighbours = graph.pop(v)
    for u in neighbours:
        graph[u] |= neighbours
        graph[u] -= {u, v}
    return sorted(neighbours.union(*(graph[u] for u in neighbours)))


def _priced(sequence: tuple[int, ...], scopes: tuple[tuple[int, ...], ...], sizes: Sequence[float]) -> Order:
    tables = [prod((sizes[u] for u in scope), start=1.0) for scope in scopes]
    operations = sum(table * sizes[v] for v, table in zip(sequence, tables, strict=True))
    return Order(sequence, scopes, operations, max(tables, default=1.0))
