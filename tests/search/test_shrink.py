from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search import shrink as module
from autoshard.search.errors import NoSolutionError
from autoshard.search.network import Network
from autoshard.search.shrink import shrink

Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]


def test_exact_min_marginals_leave_just_the_labels_in_use() -> None:
    network = Network()
    network.add_variable([0.0, 1.0, 2.0], "a")
    network.add_variable([0.0, 1.5], "b")
    network.add_pairwise(0, 1, [[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    assert [kept.tolist() for kept in shrink(network, 2.0).kept] == [[0, 2], [0, 1]]
    assert [kept.tolist() for kept in shrink(network, 2.5).kept] == [[0, 1, 2], [0, 1]]
    assert [kept.tolist() for kept in shrink(network, 0.0).kept] == [[0], [0]]
    with pytest.raises(NoSolutionError):
        shrink(network, -0.5)


@pytest.mark.parametrize("operations", [2e7, 0.0])
def test_no_assignment_up_to_the_threshold_is_lost(
    networks: Networks, ranked: Ranked, operations: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With min-marginals, and with dual ascent alone."""
    monkeypatch.setattr(module, "_CHEAP_OPERATIONS", operations)
    monkeypatch.setattr(module, "_MOST_OPERATIONS", operations)

    @settings(max_examples=100, deadline=None)
    @given(networks(), st.integers(0, 4))
    def check(network: Network, slack: int) -> None:
        every = ranked(network)
        if not every:
            return
        threshold = every[0][0] + slack
        masks = shrink(network, threshold + 1e-9).masks(network.sizes)
        for value, labels in every:
            if value <= threshold:
                assert all(mask[label] for mask, label in zip(masks, labels, strict=True))
        if operations:
            used = [np.zeros(size, np.bool_) for size in network.sizes]
            for value, labels in every:
                for mask, label in zip(used, labels, strict=True):
                    mask[label] |= value <= threshold
            assert [mask.tolist() for mask in masks] == [mask.tolist() for mask in used]

    check()
