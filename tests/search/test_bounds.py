from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoshard.search.bounds import DualAscent
from autoshard.search.elimination import min_marginals
from autoshard.search.errors import NoSolutionError
from autoshard.search.network import Network
from autoshard.search.order import elimination_order
from autoshard.search.reduction import reduce
from autoshard.search.threshold import Incumbent, affordable_threshold, solve_within, within

Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]


def _path(n: int, parents: tuple[int, ...]) -> Network:
    rng = np.random.default_rng(5)
    network = Network()
    for _ in range(n):
        network.add_variable(rng.random(4))
    for child, parent in enumerate(parents, start=1):
        network.add_pairwise(parent, child, rng.random((4, 4)))
    return network


def test_one_sweep_is_exact_on_a_chain() -> None:
    network = _path(6, (0, 1, 2, 3, 4))
    dual = DualAscent(network)
    dual.sweep()
    assert dual.bound == pytest.approx(min(min_marginals(network)[0]), rel=1e-12)
    assert dual.value == pytest.approx(dual.bound, rel=1e-12)
    for bounds, exact in zip(dual.label_bounds, min_marginals(network), strict=True):
        np.testing.assert_allclose(bounds, exact, rtol=1e-12)


def test_a_few_sweeps_close_the_gap_on_a_tree() -> None:
    network = _path(6, (0, 0, 1, 1, 3))
    dual = DualAscent(network)
    for _ in range(4):
        dual.sweep()
    assert dual.bound == pytest.approx(min(min_marginals(network)[0]), rel=1e-12)


def test_potentials_carry_the_bound_over() -> None:
    network = _path(6, (0, 0, 1, 1, 3))
    dual = DualAscent(network)
    dual.sweep()
    assert DualAscent(network).bound < dual.bound - 0.01
    assert DualAscent(network, dual.potentials).bound == pytest.approx(dual.bound, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bounds_hold_for_every_label(networks: Networks, ranked: Ranked, data: st.DataObject) -> None:
    original = data.draw(networks())
    try:
        network = reduce(original).network
    except NoSolutionError:
        return
    every = ranked(network)
    assume(every)
    exact = min_marginals(network)
    dual = DualAscent(network)
    previous = dual.bound
    for _ in range(3):
        dual.sweep()
        assert dual.bound >= previous - 1e-9
        previous = dual.bound
        assert dual.bound <= every[0][0] + 1e-9
        for bounds, marginals in zip(dual.label_bounds, exact, strict=True):
            assert (bounds <= marginals + 1e-9).all()
    if dual.labels is not None:
        assert dual.value == network.value(dual.labels) >= every[0][0]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 20), st.integers(0, 1))
def test_promising_labels_prove_optimality_or_give_an_incumbent(
    networks: Networks, ranked: Ranked, data: st.DataObject, slack: int, sweeps: int
) -> None:
    network = reduce(data.draw(networks(forbidden=False))).network
    dual = DualAscent(network)
    for _ in range(sweeps):
        dual.sweep()
    best = ranked(network)[0][0]
    found = solve_within(network, dual.label_bounds, dual.bound + slack)
    if found is not None:
        assert found.value == network.value(found.labels) >= best
        assert not found.is_optimal or found.value == best
    assert slack < 20 or best > dual.bound + slack or (found is not None and found.is_optimal)


def test_what_is_found_is_optimal_only_up_to_the_threshold() -> None:
    network = Network()
    network.add_variable([1.0, 0.9])
    bounds = [np.array([0.0, 0.8])]
    assert solve_within(network, bounds, 0.5) == Incumbent((0,), 1.0, False)
    assert solve_within(network, bounds, 0.8) == Incumbent((1,), 0.9, True)
    network.add_unary(0, [0.0, 0.4])
    assert solve_within(network, [np.array([0.0, 1.2])], 1.1) == Incumbent((0,), 1.0, True)
    assert solve_within(network, bounds, -1.0) is None


def test_affordable_threshold_is_the_largest_that_fits() -> None:
    network = Network()
    network.add_variable(3)
    network.add_variable(3)
    network.add_pairwise(0, 1, np.ones((3, 3)))
    order = elimination_order(network)
    bounds = [np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 4.0])]
    # 2 x 2 labels up to 3.0: 4 entries for the pair, 2 for the last; 2 x 3 labels up to 4.0: 6 + 2 or more
    assert affordable_threshold(bounds, order, 7) == 3.0
    assert affordable_threshold(bounds, order, 100) == 5.0
    assert affordable_threshold(bounds, order, 2) == 1.0
    assert affordable_threshold(bounds, order, 1) is None
    assert [mask.tolist() for mask in within(bounds, 3.0)] == [[True, True, False], [True, True, False]]
