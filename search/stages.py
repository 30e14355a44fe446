"""A reshard as a chain of specs, one step per collective, so that the compiler makes these collectives and no others.

A partitioner that is asked for several changes at once looks for its own way: an open sum that is to end up split over another dim becomes a
gather of the weight, a weight gathered over two dims becomes a zero-padded all-reduce.  So each change is asked for by itself, in
the order in which `autoshard.cost.reshard` prices them: close open sums and slice, move axes between dims, then gather
dim by dim.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoshard.search.ordering import Axes, Spec


def stages(have: Spec, want: Spec, open_axes: Axes = ()) -> tuple[Spec, ...]:
    """The specs through which a tensor passes from `have` to `want`, the last being `want`; empty when nothing changes.

    Args:
        have: Ordered axes of each dim before.
        want: Ordered axes of each dim after.
        open_axes: Axes over which it is an open sum before.
    """
    chain: list[Spec] = []
    closed = _closed(have, want)
    if closed != have or open_axes:
        chain.append(closed)
    exchanged = _exchanged(closed, want)
    if exchanged != closed:
        chain.append(exchanged)
    chain += _gathered(exchanged, want)
    if chain and chain[-1] != want:
        chain.append(want)
    elif not chain and have != want:
        chain.append(want)
    return tuple(dict.fromkeys(chain))


def closing(have: Spec, want: Spec) -> Spec:
    """The spec right after open sums are closed and new axes sliced, before any axis moves."""
    return _closed(have, want)


def _closed(have: Spec, want: Spec) -> Spec:
    used = {axis for dim in have for axis in dim}
    return tuple((*old, *(a for a in new if a not in used)) for old, new in zip(have, want, strict=True))


def _exchanged(spec: Spec, want: Spec) -> Spec:
    """Move the axes that shard another dim afterwards; those that go away stay for the gathers."""
    target = {axis: number for number, dim in enumerate(want) for axis in dim}
    moved: list[Sequence[int]] = []
    for number, dim in enumerate(spec):
        stays = [a for a in dim if target.get(a, number) == number]
        arrives = [a for a in want[number] if a not in dim and any(a in other for other in spec)]
        moved.append((*stays, *arrives))
    return tuple(tuple(dim) for dim in moved)


def _gathered(spec: Spec, want: Spec) -> list[Spec]:
    """Drop what goes away, one dim at a time."""
    steps: list[Spec] = []
    current = list(spec)
    for number, new in enumerate(want):
        if set(current[number]) != set(new) or (current[number] != new and set(current[number]) == set(new)):
            current[number] = new
            steps.append(tuple(current))
    return steps
