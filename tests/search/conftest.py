"""Random small networks and the slow, obvious way to solve them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import strategies as st

from autoshard.search.network import Network

Assignment = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[float]], float]


@st.composite
def _networks(draw: st.DrawFn, forbidden: bool = True, max_variables: int = 6) -> Network:
    """3 to `max_variables` variables of 1 to 4 labels; whole costs: sums are exact and ties common."""
    costs = st.integers(-3, 9).map(float)
    entry = st.one_of(costs, costs, costs, st.just(float("inf"))) if forbidden else costs
    network = Network()
    for _ in range(draw(st.integers(3, max_variables))):
        size = draw(st.integers(1, 4))
        network.add_variable(draw(st.lists(entry, min_size=size, max_size=size)))
    n = network.n_variables
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    for i, j in draw(st.lists(st.sampled_from(pairs), max_size=8)):
        size = network.size(i) * network.size(j)
        matrix = np.array(draw(st.lists(entry, min_size=size, max_size=size)))
        network.add_pairwise(i, j, matrix.reshape(network.size(i), network.size(j)))
    return network


@pytest.fixture(scope="session")
def networks() -> Callable[..., st.SearchStrategy[Network]]:
    """Strategy maker: `networks(forbidden=True, max_variables=6)`."""
    return _networks


def _ranked(network: Network) -> list[tuple[float, Assignment]]:
    every: Iterator[Assignment] = product(*(range(size) for size in network.sizes))
    return sorted((value, labels) for labels in every if np.isfinite(value := network.value(labels)))


@pytest.fixture(scope="session")
def ranked() -> Callable[[Network], list[tuple[float, Assignment]]]:
    """All finite assignments with their values, best first."""
    return _ranked


def _blocks(n_blocks: int, n_labels: int, seed: int) -> Network:
    """Like a Transformer: a residual chain; each block's four branches fork, meet and join it again."""
    rng = np.random.default_rng(seed)
    network = Network()

    def variable() -> int:
        return network.add_variable(rng.random(n_labels) * 4)

    def join(i: int, js: Sequence[int]) -> int:
        for j in js:
            matrix = rng.random((n_labels, n_labels))
            matrix[rng.random(matrix.shape) < 0.1] = np.inf
            np.fill_diagonal(matrix, 0.0)
            network.add_pairwise(i, j, matrix)
        return i

    residual = variable()
    for _ in range(n_blocks):
        branches = [join(variable(), [residual]) for _ in range(4)]
        weights = [variable() for _ in range(3)]
        scores = join(variable(), [*branches[:2], weights[0]])
        mixed = join(variable(), [scores, branches[2], weights[1]])
        gated = join(variable(), [branches[3], weights[2]])
        residual = join(variable(), [residual, mixed, gated])
    return network


@pytest.fixture(scope="session")
def blocks() -> Callable[[int, int, int], Network]:
    """Maker of Transformer-like networks of 11 n_blocks + 1 variables: `blocks(n_blocks, n_labels, seed)`."""
    return _blocks
