from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.elimination import Elimination, min_marginals
from autoshard.search.errors import NoSolutionError
from autoshard.search.minplus import Factor, merged, project
from autoshard.search.network import Network
from autoshard.search.order import elimination_order

Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]


def test_project_is_the_min_plus_product() -> None:
    left = Factor((0, 1), np.array([[1.0, 5.0], [2.0, 0.0]]))
    right = Factor((2, 0), np.array([[0.0, 10.0], [7.0, 1.0], [3.0, 3.0]]))
    out = project([left, right], (2, 1), (2, 2, 3))
    # out[c, b] = min over a of left[a, b] + right[c, a]
    assert out.scope == (2, 1)
    assert out.table.tolist() == [[1.0, 5.0], [3.0, 1.0], [4.0, 3.0]]


def test_project_in_many_blocks_equals_the_full_table() -> None:
    rng = np.random.default_rng(0)
    sizes = (70, 60, 50, 40)
    tables = {scope: rng.random([sizes[v] for v in scope]) for scope in ((0, 1), (2, 0), (3, 0))}
    out = project([Factor(scope, table) for scope, table in tables.items()], (3, 1, 2), sizes).table
    full = (
        tables[0, 1][:, None, :, None] + tables[2, 0].T[:, None, None, :] + tables[3, 0].T[:, :, None, None]
    )
    assert np.array_equal(out, full.min(axis=0))


def test_merged_adds_small_scopes_into_large_ones() -> None:
    factors = [Factor((1,), np.array([10.0, 20.0])), Factor((0, 1), np.zeros((3, 2)))]
    (only,) = merged(factors)
    assert only.scope == (0, 1)
    assert only.table.tolist() == [[10.0, 20.0]] * 3


def test_order_of_a_star_eliminates_the_leaves_first() -> None:
    network = Network()
    hub = network.add_variable(5)
    for _ in range(4):
        network.add_pairwise(hub, network.add_variable(3), np.ones((5, 3)))
    order = elimination_order(network)
    assert order.sequence.index(hub) >= 3
    assert order.operations == 4 * 15 + 3  # three leaves, the hub into the last leaf, that leaf
    assert order.largest_table == 5


def test_order_weighs_labels_not_only_degrees() -> None:
    """A hub of 1000 labels between three of 2 goes first: 8000 entries, later it would cost no less."""
    network = Network()
    hub = network.add_variable(1000)
    ring = [network.add_variable(2) for _ in range(3)]
    for i in ring:
        network.add_pairwise(hub, i, np.ones((1000, 2)))
    for i, j in zip(ring, ring[1:] + ring[:1], strict=True):
        network.add_pairwise(i, j, np.ones((2, 2)))
    assert elimination_order(network).operations == 8000 + 8 + 4 + 2
    assert elimination_order(network).at_sizes((10, 2, 2, 2)).operations == 80 + 8 + 4 + 2


def test_ties_take_the_lowest_label() -> None:
    network = Network()
    network.add_variable([1.0, 1.0])
    network.add_variable([2.0, 0.0, 0.0])
    network.add_pairwise(0, 1, np.zeros((2, 3)))
    assert Elimination(network).labels() == (0, 1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_minimum_and_labels_equal_brute_force(
    networks: Networks, ranked: Ranked, data: st.DataObject
) -> None:
    network = data.draw(networks())
    every = ranked(network)
    elimination = Elimination(network)
    if not every:
        assert elimination.minimum == np.inf
        with pytest.raises(NoSolutionError):
            elimination.labels()
    else:
        assert elimination.minimum == every[0][0]
        assert network.value(elimination.labels()) == every[0][0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_min_marginals_equal_brute_force(networks: Networks, ranked: Ranked, data: st.DataObject) -> None:
    network = data.draw(networks())
    expected = [np.full(size, np.inf) for size in network.sizes]
    for value, labels in ranked(network):
        for vector, label in zip(expected, labels, strict=True):
            vector[label] = min(vector[label], value)
    found = min_marginals(network)
    assert [vector.tolist() for vector in found] == [vector.tolist() for vector in expected]
