"""A reshard as a chain of specs, one step per collective, so that the compiler makes these and no others.

A partitioner that is asked for several changes at once looks for its own way: an open sum that is to end up
split over another dim becomes a gather of the weight, a weight gathered over two dims becomes a zero-padded
all-reduce.  So each change is asked for by itself, in the order in which `autoshard.cost.reshard` prices
them: close open sums and slice, move axes between dims, then gather dim by dim.
"""

from __future__ import annotations

from autoshard.search.ordering import Axes, Spec


def stages(have: Spec, want: Spec, open_axes: Axes = ()) -> tuple[Spec, ...]:
    """The specs through which a tensor passes from `have` to `want`, the last being `want`.

    Args:
        have: Ordered axes of each dim before.
        want: Ordered axes of each dim after.
        open_axes: Axes over which it is an open sum before.

    Returns:
        At least one spec when there are open axes, none when nothing changes.
    """
    closed = closing(have, want)
    exchanged = _exchanged(closed, want)
    chain = [closed] if closed != have or open_axes else []
    if exchanged != closed:
        chain.append(exchanged)
    return (*chain, *_gathered(exchanged, want))


def closing(have: Spec, want: Spec) -> Spec:
    """The spec right after open sums are closed and new axes sliced, before any axis moves."""
    used = {axis for dim in have for axis in dim}
    return tuple((*old, *(a for a in new if a not in used)) for old, new in zip(have, want, strict=True))


def _exchanged(spec: Spec, want: Spec) -> Spec:
    """Move the axes that shard another dim afterwards; those that go away stay for the gathers."""
    target = {axis: number for number, dim in enumerate(want) for axis in dim}
    used = {axis for dim in spec for axis in dim}
    moved = []
    for number, dim in enumerate(spec):
        stays = (a for a in dim if target.get(a, number) == number)
        arrives = (a for a in want[number] if a not in dim and a in used)
        moved.append((*stays, *arrives))
    return tuple(moved)


def _gathered(spec: Spec, want: Spec) -> list[Spec]:
    """Drop what goes away, one dim at a time."""
    steps: list[Spec] = []
    current = list(spec)
    for number, new in enumerate(want):
        if current[number] != new:
            current[number] = new
            steps.append(tuple(current))
    return steps
