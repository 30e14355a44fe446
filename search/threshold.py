"""Solving a network exactly on its promising labels only.

Given proven bounds per label, keep the labels with bound <= T and eliminate. If the best assignment found
costs at most T, no assignment with a dropped label can beat it: it is optimal in the whole network.
Otherwise it is an incumbent, usually an excellent one. T is taken as large as an affordable elimination
allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.elimination import Elimination
from autoshard.search.errors import NoSolutionError
from autoshard.search.network import BoolArray, FloatArray, Network
from autoshard.search.order import Order
from autoshard.search.reduction import reduce


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The best assignment among the promising labels, and whether it is proven best of all."""

    labels: tuple[int, ...]
    value: float
    is_optimal: bool


def within(label_bounds: Sequence[FloatArray], threshold: float) -> list[BoolArray]:
    """Masks [K_i] of the labels whose bound is at most `threshold`."""
    return [bounds <= threshold for bounds in label_bounds]


def affordable_threshold(label_bounds: Sequence[FloatArray], order: Order, operations: float) -> float | None:
    """The largest label bound up to which all labels can be kept at no more than `operations`.

    Args:
        label_bounds: vectors [K_i].
        order: elimination order of the network; priced with the kept labels only.
        operations: table entries allowed.

    Returns:
        The threshold, None when letting every variable keep a label costs too much already.
    """
    bounds = [np.sort(vector) for vector in label_bounds]
    needed = max(float(vector[0]) for vector in bounds)
    levels = np.unique(np.concatenate(bounds))
    levels = levels[levels >= needed]
    affordable = None
    low, high = 0, len(levels) - 1
    while low <= high:
        middle = (low + high) // 2
        sizes = [int(np.searchsorted(vector, levels[middle], side="right")) for vector in bounds]
        if order.at_sizes(sizes).operations <= operations:
            affordable = float(levels[middle])
            low = middle + 1
        else:
            high = middle - 1
    return affordable


def solve_within(network: Network, label_bounds: Sequence[FloatArray], threshold: float) -> Incumbent | None:
    """The best assignment of the labels with bound at most `threshold`, None if they admit none."""
    masks = within(label_bounds, threshold)
    try:
        reduced = reduce(network, dict(enumerate(masks)))
        labels = reduced.original(Elimination(reduced.network).labels())
    except NoSolutionError:
        return None
    value = network.value(labels)
    complete = all(mask.all() for mask in masks)
    return Incumbent(labels, value, complete or value <= threshold)
