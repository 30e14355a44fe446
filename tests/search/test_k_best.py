from collections.abc import Callable, Hashable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search import k_best as module
from autoshard.search.errors import NoSolutionError
from autoshard.search.k_best import k_best
from autoshard.search.network import Network
from autoshard.search.solver import solve
from autoshard.search.symmetry import checked_symmetries, orbit, preserving, symmetrised

Assignment = tuple[int, ...]
Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, Assignment]]]
Blocks = Callable[[int, int, int], Network]


def _least_by_signature(
    every: list[tuple[float, Assignment]], signature: Callable[[Assignment], Hashable]
) -> list[float]:
    least: dict[Hashable, float] = {}
    for value, labels in every:
        least.setdefault(signature(labels), value)
    return list(least.values())


def _compare(
    network: Network,
    every: list[tuple[float, Assignment]],
    k: int,
    keys: list[int],
    signature: Callable[[Assignment], Hashable],
    symmetries: list[list[list[int]]],
) -> None:
    expected = _least_by_signature(every, signature)[:k]
    if not expected:
        with pytest.raises(NoSolutionError):
            k_best(network, k, signature=signature, keys=keys, symmetries=symmetries)
        return
    found = k_best(network, k, signature=signature, keys=keys, symmetries=symmetries)
    assert [solution.value for solution in found] == expected
    assert [network.value(solution.labels) for solution in found] == expected
    assert len({signature(solution.labels) for solution in found}) == len(found)
    assert found == k_best(network, k, signature=signature, keys=keys, symmetries=symmetries)


@pytest.mark.parametrize("slacks", [None, (2.0, 0.5), (0.0,)])
def test_k_best_equals_brute_force(
    networks: Networks, ranked: Ranked, slacks: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first networks lack many labels, and the list has to be begun again on wider ones."""
    if slacks:
        monkeypatch.setattr(module, "_SLACKS", slacks)
        monkeypatch.setattr(module, "_CHEAP_OPERATIONS", 0.0)

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        network = data.draw(networks(max_variables=5))
        n = network.n_variables
        keys = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4, unique=True))
        modulus = data.draw(st.sampled_from([1, 2, 9]))
        k = data.draw(st.integers(1, 12))
        _compare(network, ranked(network), k, keys, lambda x: tuple(x[key] % modulus for key in keys), [])

    check()


def _doubled(network: Network) -> tuple[Network, list[list[int]]]:
    """The network made symmetric under reversing all labels: its costs plus their mirror image."""
    result = network.copy()
    for i, vector in enumerate(network.unary):
        result.add_unary(i, vector[::-1])
    for (i, j), matrix in network.pairwise.items():
        result.add_pairwise(i, j, matrix[::-1, ::-1])
    return result, [list(reversed(range(size))) for size in network.sizes]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_symmetric_copies_are_left_out_and_nothing_else(
    networks: Networks, ranked: Ranked, data: st.DataObject
) -> None:
    network, mirror = _doubled(data.draw(networks(max_variables=5)))
    n = network.n_variables
    keys = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4, unique=True))

    def canonical(labels: Assignment) -> Assignment:
        own = tuple(labels[key] for key in keys)
        return min(own, tuple(mirror[key][labels[key]] for key in keys))

    _compare(network, ranked(network), data.draw(st.integers(1, 12)), keys, canonical, [mirror])


def _over_axes(seed: int) -> tuple[Network, list[list[list[int]]]]:
    """Four variables that say which of three axes goes where (3: none), blind to the axes' names."""
    rng = np.random.default_rng(seed)
    network = Network()
    for _ in range(4):
        axis, none = rng.integers(0, 4, 2)
        network.add_variable([axis, axis, axis, none])
    for i, j in ((0, 1), (1, 2), (2, 3), (0, 3), (0, 2)):
        same, other, left, right, both = rng.integers(0, 6, 5)
        matrix = np.where(np.eye(4, dtype=bool), float(same), float(other))
        matrix[3, :], matrix[:, 3], matrix[3, 3] = left, right, both
        network.add_pairwise(i, j, matrix)
    names = [[*permutation, 3] for permutation in permutations(range(3)) if permutation != (0, 1, 2)]
    return network, [[name] * 4 for name in names]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.permutations(range(4)), st.integers(1, 4))
def test_plans_that_differ_by_the_names_of_axes_are_one(
    ranked: Ranked, seed: int, k: int, order: list[int], n_keys: int
) -> None:
    network, symmetries = _over_axes(seed)
    keys = order[:n_keys]
    names = [symmetry[0] for symmetry in symmetries] + [[0, 1, 2, 3]]

    def canonical(labels: Assignment) -> Assignment:
        return min(tuple(name[labels[key]] for key in keys) for name in names)

    _compare(network, ranked(network), k, keys, canonical, symmetries)


def test_symmetries_save_work() -> None:
    """Two keys of three equal axes each: 9 choices, but 2 up to renaming: same axis or different axes."""
    network = Network()
    network.add_variable(3)
    network.add_variable(3)
    network.add_pairwise(0, 1, np.where(np.eye(3, dtype=bool), 1.0, 2.0))
    cycles = [[[1, 2, 0]] * 2, [[2, 0, 1]] * 2, [[1, 0, 2]] * 2, [[0, 2, 1]] * 2, [[2, 1, 0]] * 2]

    def plain(labels: Assignment) -> Assignment:
        return labels

    assert len(k_best(network, 20, signature=plain, keys=[0, 1])) == 9
    values = [s.value for s in k_best(network, 20, signature=plain, keys=[0, 1], symmetries=cycles)]
    assert values == [1.0, 2.0]


def test_orbits_and_what_preserves_a_set() -> None:
    network = Network()
    network.add_variable([1.0, 1.0, 1.0, 7.0])
    (swap,) = checked_symmetries(network, [[[1, 0, 2, 3]]])
    assert orbit([swap], 0, 0) == [0, 1]
    assert orbit([swap], 0, 2) == [2]
    assert preserving([swap], 0, np.array([True, True, False, True])) == (swap,)
    assert preserving([swap], 0, np.array([True, False, True, True])) == ()
    assert symmetrised([swap], [np.array([5.0, 2.0, 3.0, 4.0])])[0].tolist() == [5.0, 5.0, 3.0, 4.0]


def test_symmetries_are_checked() -> None:
    network = Network()
    network.add_variable([1.0, 1.0], "w")
    network.add_variable([2.0, 2.0], "x")
    with pytest.raises(ValueError, match="permutation"):
        checked_symmetries(network, [[[0, 0], [0, 1]]])
    with pytest.raises(ValueError, match="permutation"):
        checked_symmetries(network, [[[0, 1]]])
    network.add_pairwise(0, 1, [[0.0, 1.0], [1.0, 5.0]])
    with pytest.raises(ValueError, match="changes the pairwise costs of w -- x"):
        checked_symmetries(network, [[[1, 0], [1, 0]]])
    network.add_unary(0, [0.0, 1.0])
    with pytest.raises(ValueError, match="changes the unary costs of w"):
        checked_symmetries(network, [[[1, 0], [1, 0]]])


def test_the_node_limit_leaves_out_the_most_expensive_only() -> None:
    network = Network()
    for _ in range(4):
        network.add_variable([0.0, 1.0, 2.0])

    def plain(labels: Assignment) -> Assignment:
        return labels

    found = [s.value for s in k_best(network, 60, signature=plain, keys=range(4), node_limit=12)]
    full = [s.value for s in k_best(network, 60, signature=plain, keys=range(4))]
    assert 1 <= len(found) <= 12
    assert len(full) == 60
    assert found == full[: len(found)]


def test_what_is_not_accepted_is_passed_over() -> None:
    network = Network()
    for _ in range(2):
        network.add_variable([0.0, 1.0, 3.0])

    def odd(labels: Assignment) -> bool:
        return sum(labels) % 2 == 1

    found = k_best(network, 9, signature=lambda x: x, keys=[0, 1], accept=odd)
    assert [s.value for s in found] == [1.0, 1.0, 4.0, 4.0]
    assert k_best(network, 9, signature=lambda x: x, keys=[0, 1], accept=lambda x: False, node_limit=3) == []
    with pytest.raises(NoSolutionError, match="not accepted"):
        k_best(network, 9, signature=lambda x: x, keys=[0, 1], accept=lambda x: False)


@pytest.mark.parametrize(("k", "keys"), [(0, [0]), (1, [1]), (1, [-1])])
def test_arguments_are_checked(k: int, keys: list[int]) -> None:
    network = Network()
    network.add_variable(2)
    with pytest.raises(ValueError, match="expected k >= 1 and keys"):
        k_best(network, k, signature=hash, keys=keys)


def test_a_transformer_like_network_starts_with_its_optimum(blocks: Blocks) -> None:
    network = blocks(3, 24, 4)
    keys = [i for i in range(network.n_variables) if i % 11 in (5, 6, 7)]
    found = k_best(network, 8, signature=lambda x: tuple(x[key] for key in keys), keys=keys)
    values = [solution.value for solution in found]
    assert len(found) == 8
    assert values[0] == pytest.approx(solve(network).value, rel=1e-12)
    assert values == sorted(values)
