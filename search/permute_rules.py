"""When a reshard has to permute data because of the order of the axes that split its dims.

A dim sharded by x and y may be cut first by x or first by y.  A collective takes the *minor* axes of a dim,
or adds minor ones; what stays must be its major axes.  The steps of a reshard (`autoshard.search.stages`)
are: sums are closed and dims sliced, then axes move from one dim to another, then dims are gathered.  So of
the axes that leave a dim those that are gathered come before those that move, and of the new ones those that
are sliced or scattered come before those that move.  Axes that move together keep their order, and nothing
may come to a dim before all that leaves it has left.  Where this is not so the partitioner permutes the local
tensor in between, a collective of its own.

Held against XLA's partitioner (jaxlib 0.10.2, ``python -m bench.permutes``): of 900 random reshards of
tensors of three dims on 8 and 16 devices, some of open sums, it permutes where these rules say so, and in one
more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autoshard.cost.layouts import REPLICATED, UNREDUCED, Bools, Layouts
from autoshard.search.places import Axes

Layout = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """The layouts of a tensor before and after a reshard.

    Attributes:
        before: For each mesh axis the dim that it splits, or that it splits none (`autoshard.cost.layouts`).
        after: The same, after it.
    """

    before: Layout
    after: Layout

    @property
    def moved(self) -> Axes:
        """The axes that split another dim afterwards."""
        ends = enumerate(zip(self.before, self.after, strict=True))
        return tuple(axis for axis, (old, new) in ends if min(old, new) >= 0 and old != new)


def compatible(have: Axes, want: Axes, change: Change) -> bool:
    """Whether a dim can go from one order of axes to another without a permute.

    Args:
        have: Its axes before, major first.
        want: Its axes after.
        change: What happens to the tensor.
    """
    if have == want:
        return True
    targets, origins = (
        tuple(change.after[axis] for axis in have),
        tuple(change.before[axis] for axis in want),
    )
    return _fits(have, want, targets, origins)


@lru_cache(maxsize=1 << 16)
def _fits(have: Axes, want: Axes, targets: Axes, origins: Axes) -> bool:
    """What `compatible` says, given where the axes of `have` go and those of `want` come from."""
    kept = tuple(axis for axis in have if axis in want)
    leaving, arrival = targets[len(kept) :], origins[len(kept) :]
    staying = have[: len(kept)] == kept and want[: len(kept)] == kept
    return (
        staying
        and not _covered(leaving, arrival)
        and _in_stages(map(_leaving_stage, leaving))
        and _in_stages(map(_arrival_stage, arrival))
        and _together([target for target in leaving if target >= 0])
        and _together([origin for origin in arrival if origin >= 0])
    )


def moved_alike(have: Axes, want: Axes) -> bool:
    """Whether axes that move from one dim, ordered as in `have`, to another come in the order of `want`."""
    return [axis for axis in have if axis in want] == [axis for axis in want if axis in have]


def exchanged(before: Layouts, after: Layouts) -> Bools:
    """Whether two dims exchange axes: whichever comes first finds the other there.

    Args:
        before: ``[K, A]``.
        after: ``[J, A]``.

    Returns:
        ``[K, J]``.
    """
    found = np.zeros((len(before), len(after)), dtype=np.bool_)
    for one, other in itertools.combinations(range(before.shape[1]), 2):
        here, there = before[:, None, one], before[:, None, other]
        moved = (here >= 0) & (there >= 0) & (here != there)
        found |= moved & (after[None, :, one] == there) & (after[None, :, other] == here)
    return found


def permuted(have: Axes, want: Axes, change: Change) -> Axes:
    """The axes that a permute reorders where two orders are not `compatible`.

    First those of `have`, until the ones that stay are its major ones as `want` has them, and the ones that
    leave are in the order of the stages; then those of `want`, where new axes do not come in that order; and
    those that leave where others come before, with these.
    """
    kept = tuple(axis for axis in want if axis in have)
    leaving = _grouped(have, kept, _leaving_stage, change.after)
    new = _grouped(want, kept, _arrival_stage, change.before)
    changed = {*_between(have, (*kept, *leaving)), *_between((*kept, *new), want)}
    if _covered([change.after[axis] for axis in leaving], [change.before[axis] for axis in new]):
        changed |= {*leaving, *new}
    return tuple(sorted(changed))


def _covered(leaving: Collection[int], arrival: Collection[int]) -> bool:
    """Whether axes come to a dim before others leave it, which are then not its minor ones."""
    if REPLICATED in leaving:
        return bool(arrival)
    return bool(leaving) and any(origin < 0 for origin in arrival)


def _leaving_stage(target: int) -> int:
    return 0 if target == REPLICATED else 1


def _arrival_stage(origin: int) -> int:
    return 0 if origin in (REPLICATED, UNREDUCED) else 1


def _in_stages(stages: Iterable[int]) -> bool:
    found = list(stages)
    return found == sorted(found)


def _together(groups: Sequence[int]) -> bool:
    """Whether equal ones stand side by side."""
    starts = [group for number, group in enumerate(groups) if number == 0 or groups[number - 1] != group]
    return len(starts) == len(set(starts))


def _grouped(axes: Axes, kept: Axes, stage_of: Callable[[int], int], places: Layout) -> list[int]:
    """The axes that are not kept in the order of their stages, those of one place side by side."""
    others = [axis for axis in axes if axis not in kept]
    first = {places[axis]: number for number, axis in reversed(list(enumerate(others)))}
    return sorted(others, key=lambda axis: (stage_of(places[axis]), first[places[axis]]))


def _between(order: Axes, other: Axes) -> Axes:
    """The axes from the first to the last place at which two orders of the same axes differ."""
    differing = [place for place, pair in enumerate(zip(order, other, strict=True)) if pair[0] != pair[1]]
    return order[differing[0] : differing[-1] + 1] if differing else ()
