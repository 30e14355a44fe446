from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.errors import NoSolutionError
from autoshard.search.network import Network
from autoshard.search.reduction import reduce

INF = float("inf")
Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]


def _chain() -> Network:
    """Label 1 of a allows only label 2 of b, which c forbids."""
    network = Network()
    network.add_variable([0.0, 0.0], "a")
    network.add_variable([0.0, 1.0, 2.0], "b")
    network.add_variable([4.0, 5.0], "c")
    network.add_pairwise(0, 1, [[3.0, 3.0, 3.0], [INF, INF, 0.0]])
    network.add_pairwise(1, 2, [[0.0, 1.0], [1.0, 0.0], [INF, INF]])
    return network


def test_a_label_without_support_goes_and_takes_others_with_it() -> None:
    reduced = reduce(_chain())
    assert [kept.tolist() for kept in reduced.kept] == [[0], [0, 1], [0, 1]]
    assert reduced.original((0, 1, 0)) == (0, 1, 0)


def test_single_label_pairs_become_unary() -> None:
    network = reduce(_chain()).network
    assert list(network.pairwise) == [(1, 2)]
    assert network.unary[1].tolist() == [3.0, 4.0]


def test_the_variable_that_lost_all_labels_is_named() -> None:
    network = _chain()
    with pytest.raises(NoSolutionError, match="c has no allowed label left of its 2") as caught:
        reduce(network, {0: np.array([False, True])})
    assert caught.value.variable == "c"  # a needs label 2 of b, which stands beside no label of c
    assert isinstance(caught.value, ValueError)


def test_further_keeps_the_way_back_to_the_original_labels() -> None:
    first = reduce(_chain(), {1: np.array([False, True, True])})
    second = first.further([np.array([True]), np.array([True]), np.array([False, True])])
    assert second.original((0, 0, 0)) == (0, 1, 1)
    assert second.network.value((0, 0, 0)) == _chain().value((0, 1, 1))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_finite_assignment_survives_with_its_value(
    networks: Networks, ranked: Ranked, data: st.DataObject
) -> None:
    network = data.draw(networks())
    before = ranked(network)
    try:
        reduced = reduce(network)
    except NoSolutionError:
        assert before == []
        return
    after = [(value, reduced.original(labels)) for value, labels in ranked(reduced.network)]
    assert sorted(after) == before
