"""A reshard as a chain of specs, one step per collective, so that the compiler makes these and no others.

A partitioner that is asked for several changes at once looks for its own way: an open sum that is to end up
split over another dim becomes a gather of the weight, a weight gathered over two dims becomes a zero-padded
all-reduce.  So each change is asked for by itself, in the order in which `autoshard.cost.reshard` prices
them: close open sums and slice, move axes between dims, then gather dim by dim.

Some open sums are closed in two steps, as XLA's partitioner makes wrong numbers of them in one (jaxlib 0.10.2
and 0.12; a test has the programs):

* scattered over one dim while another is sliced by several axes out of mesh order: the blocks of the einsum
  come in mesh order, and are taken for what was asked. The first step slices by no more than a part of these
  axes that is in order.
* summed over several axes, one of which is scattered over a batch dim of the einsum that another axis splits
  already, the others not: the first step sums over that one axis, too, the second slices. That is an
  all-reduce where the cost model has a scatter.
"""

from __future__ import annotations

from collections.abc import Collection

from autoshard.search.ordering import Spec
from autoshard.search.places import Axes


def stages(
    have: Spec, want: Spec, open_axes: Axes = (), batch_dims: Collection[int] = ()
) -> tuple[Spec, ...]:
    """The specs through which a tensor passes from `have` to `want`, the last being `want`.

    Args:
        have: Ordered axes of each dim before.
        want: Ordered axes of each dim after.
        open_axes: Axes over which it is an open sum before.
        batch_dims: Where an einsum made it, the dims that both operands have.

    Returns:
        At least one spec when there are open axes, none when nothing changes.
    """
    *before, closed = closings(have, want, open_axes, batch_dims)
    chain = [*before, closed] if closed != have or open_axes else []
    exchanges = _exchanges(closed, want)
    chain += exchanges
    return (*chain, *_gathered(exchanges[-1] if exchanges else closed, want))


def closing(have: Spec, want: Spec) -> Spec:
    """The spec right after open sums are closed and new axes sliced, before any axis moves."""
    used = {axis for dim in have for axis in dim}
    return tuple((*old, *(a for a in new if a not in used)) for old, new in zip(have, want, strict=True))


def closings(have: Spec, want: Spec, open_axes: Axes, batch_dims: Collection[int] = ()) -> tuple[Spec, ...]:
    """The one or two specs that end with `closing(have, want)`; arguments as of `stages`."""
    closed = closing(have, want)
    if not any(axis in open_axes for dim in closed for axis in dim):
        return (closed,)
    first = tuple(
        _closed_at_once(old, new, open_axes, is_batch=number in batch_dims)
        for number, (old, new) in enumerate(zip(have, closed, strict=True))
    )
    return (closed,) if first == closed else (first, closed)


def _closed_at_once(old: Axes, new: Axes, open_axes: Axes, *, is_batch: bool) -> Axes:
    """The axes of a dim after the first step, of those that it has and those that it is to have."""
    scattered = set(new) & set(open_axes)
    if not scattered:
        return (*old, *_in_mesh_order(new[len(old) :]))
    return old if is_batch and old and scattered != set(open_axes) else new


def _in_mesh_order(axes: Axes) -> Axes:
    """The first of some axes, as many as come in the order of the mesh."""
    ends = (number for number in range(1, len(axes)) if axes[number] < axes[number - 1])
    return axes[: next(ends, len(axes))]


def _exchanges(spec: Spec, want: Spec) -> list[Spec]:
    """Move the axes that shard another dim afterwards, one pair of dims at a time.

    Those that go away stay for the gathers. Several pairs at once are more than one all-to-all: the
    partitioner would gather the whole tensor instead. Minor axes leave a dim first: what stays is then a
    block, and needs no permute.
    """
    target = {axis: number for number, dim in enumerate(want) for axis in dim}
    pairs: dict[tuple[int, int], set[int]] = {}
    for number, dim in enumerate(spec):
        for axis in reversed(dim):
            if target.get(axis, number) != number:
                pairs.setdefault((number, target[axis]), set()).add(axis)
    steps: list[Spec] = []
    for (source, destination), moved in pairs.items():
        dims = list(steps[-1] if steps else spec)
        dims[source] = tuple(axis for axis in dims[source] if axis not in moved)
        dims[destination] = (*dims[destination], *(a for a in want[destination] if a in moved))
        steps.append(tuple(dims))
    return [*steps[:-1], _in_order(steps[-1], want)] if steps else []


def _in_order(spec: Spec, want: Spec) -> Spec:
    """The axes that a dim will keep last, in the order wanted, behind those that are gathered away."""
    return tuple(
        (*(a for a in dim if a not in new), *(a for a in new if a in dim))
        for dim, new in zip(spec, want, strict=True)
    )


def _gathered(spec: Spec, want: Spec) -> list[Spec]:
    """Drop what goes away, one dim at a time, few axes first: the last gather makes most of the bytes."""
    steps: list[Spec] = []
    current = list(spec)
    for number in sorted(range(len(want)), key=lambda dim: len(spec[dim]) - len(want[dim])):
        if current[number] != want[number]:
            current[number] = want[number]
            steps.append(tuple(current))
    return steps
