from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.branch import Effort
from autoshard.search.errors import NoSolutionError, TimeLimitError
from autoshard.search.network import Network
from autoshard.search.solution import Solution
from autoshard.search.solver import connected_parts, solve

Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]
Blocks = Callable[[int, int, int], Network]

BOUNDS_FIRST = Effort(direct_operations=1.0)
BRANCH = Effort(direct_operations=1.0, most_operations=6.0, sweeps=1, rounds=1)


@pytest.mark.parametrize("effort", [Effort(), BOUNDS_FIRST, BRANCH])
def test_solve_equals_brute_force(networks: Networks, ranked: Ranked, effort: Effort) -> None:
    @settings(max_examples=120, deadline=None)
    @given(networks())
    def check(network: Network) -> None:
        every = ranked(network)
        if not every:
            with pytest.raises(NoSolutionError):
                solve(network, effort=effort)
            return
        solution = solve(network, effort=effort)
        assert solution.value == every[0][0] == network.value(solution.labels)
        assert solution.bound == solution.value
        assert solution.gap == 0.0
        assert solution == solve(network, effort=effort)

    check()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_an_early_stop_still_gives_a_valid_bound(
    networks: Networks, ranked: Ranked, data: st.DataObject
) -> None:
    network = data.draw(networks())
    every = ranked(network)
    try:
        solution = solve(network, time_limit_seconds=0.0, effort=BRANCH)
    except NoSolutionError:
        assert every == []
    except TimeLimitError:
        pass
    else:
        assert solution.bound <= every[0][0] <= solution.value == network.value(solution.labels)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_gap_asked_for_is_kept(networks: Networks, ranked: Ranked, data: st.DataObject) -> None:
    network = data.draw(networks(forbidden=False))
    solution = solve(network, gap=0.2, effort=BRANCH)
    best = ranked(network)[0][0]
    assert solution.bound <= best <= solution.value
    assert solution.gap <= 0.2 + 1e-12


def test_the_gap_is_kept_where_parts_of_opposite_sign_nearly_cancel() -> None:
    """Two frustrated 4-cliques, each good enough at a gap of 40 %, whose sum is not."""
    rng = np.random.default_rng(8)
    network = Network()
    for offset in (10.0, -13.0):
        first = network.n_variables
        for _ in range(4):
            network.add_variable(3)
        network.add_unary(first, [offset] * 3)
        for i in range(first, first + 4):
            for j in range(first, i):
                network.add_pairwise(i, j, rng.random((3, 3)))
    apart = [solve(network.subnetwork(range(first, first + 4)), gap=0.4, effort=BRANCH) for first in (0, 4)]
    value, bound = (sum(part.value for part in apart), sum(part.bound for part in apart))
    assert value - bound > 0.4 * abs(value)
    solution = solve(network, gap=0.4, effort=BRANCH)
    assert solution.gap <= 0.4
    assert solution.value == pytest.approx(solve(network).value)


def test_a_hard_small_network_is_branched_on() -> None:
    """A frustrated 5-clique: its linear relaxation is loose, so bounds alone cannot close it."""
    rng = np.random.default_rng(3)
    network = Network()
    for _ in range(5):
        network.add_variable(4)
    for i in range(5):
        for j in range(i):
            network.add_pairwise(i, j, rng.random((4, 4)))
    branched = solve(network, effort=BRANCH)
    assert branched.method == "branch and bound"
    assert branched.labels == solve(network).labels
    stopped = solve(network, time_limit_seconds=0.0, effort=BRANCH)
    assert stopped.method == "bound only"
    assert stopped.bound < branched.value <= stopped.value


def test_parts_are_found_and_solved_apart() -> None:
    network = Network()
    for _ in range(4):
        network.add_variable([0.0, 1.0])
    network.add_pairwise(0, 2, [[5.0, 5.0], [0.0, 5.0]])
    assert connected_parts(network) == [[0, 2], [1], [3]]
    assert solve(network).labels == (1, 0, 0, 0)
    assert solve(network).method == "elimination"


def test_an_empty_network_costs_nothing() -> None:
    assert solve(Network()) == Solution((), 0.0, 0.0, "elimination")


def test_a_contradiction_that_no_single_pair_shows_is_found() -> None:
    """Three variables of two labels that must differ pairwise."""
    network = Network()
    for _ in range(3):
        network.add_variable(2)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        network.add_pairwise(i, j, np.diag([np.inf, np.inf]))
    for effort in (Effort(), BOUNDS_FIRST, BRANCH):
        with pytest.raises(NoSolutionError):
            solve(network, effort=effort)


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        solve(Network(), gap=-0.1)
    with pytest.raises(ValueError, match="negative"):
        solve(Network(), time_limit_seconds=-1.0)


def test_pruning_and_elimination_agree_on_a_transformer_like_network(blocks: Blocks) -> None:
    network = blocks(5, 64, 0)
    assert network.n_variables == 56
    pruned = solve(network, effort=Effort(direct_operations=1e5))
    direct = solve(network, effort=Effort(direct_operations=1e12))
    assert direct.method == "elimination"
    assert pruned.value == pytest.approx(direct.value, rel=1e-12)
    assert pruned.gap == direct.gap == 0.0
    assert direct.value == network.value(direct.labels)
