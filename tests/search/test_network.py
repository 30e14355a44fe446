import numpy as np
import pytest

from autoshard.search.network import Network

INF = float("inf")


def _pair() -> Network:
    network = Network()
    network.add_variable([1.0, 2.0], "w")
    network.add_variable(3, "x")
    network.add_pairwise(0, 1, [[0.0, 10.0, 20.0], [30.0, 40.0, INF]])
    return network


def test_value_sums_unary_and_pairwise_costs() -> None:
    network = _pair()
    network.add_unary(1, [100.0, 200.0, 300.0])
    assert network.value((0, 2)) == 1.0 + 20.0 + 300.0
    assert network.value((1, 1)) == 2.0 + 40.0 + 200.0
    assert network.value((1, 2)) == INF


def test_repeated_pairs_add_up_in_either_orientation() -> None:
    network = _pair()
    network.add_pairwise(1, 0, [[0.5, 0.25], [0.0, 0.0], [0.0, 0.0]])
    assert len(network.pairwise) == 1
    assert network.value((0, 0)) == 1.0 + 0.5
    assert network.value((1, 0)) == 2.0 + 30.0 + 0.25


@pytest.mark.parametrize("cost", [[1.0], [1.0, float("nan")], [-INF, 0.0], [[1.0, 2.0]]])
def test_bad_unary_costs_are_refused(cost: object) -> None:
    network = _pair()
    with pytest.raises(ValueError, match="w"):
        network.add_unary(0, cost)  # type: ignore[arg-type]


def test_bad_pairwise_costs_are_refused() -> None:
    network = _pair()
    with pytest.raises(ValueError, match=r"expected costs of shape \(2, 3\), got \(3, 2\)"):
        network.add_pairwise(0, 1, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="NaN"):
        network.add_pairwise(0, 1, np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="two variables"):
        network.add_pairwise(0, 0, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="unknown variable 2"):
        network.add_pairwise(0, 2, np.zeros((2, 2)))


@pytest.mark.parametrize("labels", [0, -1, [], [[1.0]]])
def test_a_variable_needs_labels(labels: object) -> None:
    with pytest.raises(ValueError, match="expected one label or more"):
        Network().add_variable(labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [(0,), (0, 3), (-1, 0)])
def test_value_refuses_what_is_no_assignment(labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="label"):
        _pair().value(labels)


def test_restricted_forbids_labels_and_leaves_the_original_alone() -> None:
    network = _pair()
    fewer = network.restricted({1: np.array([True, False, True])})
    assert fewer.value((0, 1)) == INF
    assert fewer.value((0, 2)) == network.value((0, 2)) == 21.0
    assert network.value((0, 1)) == 11.0


def test_a_copy_can_be_added_to() -> None:
    network = _pair()
    other = network.copy()
    other.add_unary(0, [5.0, 5.0])
    other.add_pairwise(0, 1, np.ones((2, 3)))
    assert (network.value((0, 0)), other.value((0, 0))) == (1.0, 7.0)


def test_subnetwork_renumbers_and_keeps_orientation() -> None:
    part = _pair().subnetwork([1, 0])
    assert part.names == ("x", "w")
    assert part.value((2, 0)) == 21.0


def test_arrays_handed_out_are_read_only_and_inputs_are_copied() -> None:
    cost = np.array([1.0, 2.0])
    network = Network()
    network.add_variable(cost)
    cost[0] = 50.0
    assert network.value((0,)) == 1.0
    with pytest.raises(ValueError, match="read-only"):
        network.unary[0][0] = 3.0
