"""A reshard as a chain of specs, one step per collective, so that the compiler makes these and no others.

A partitioner that is asked for several changes at once looks for its own way: an open sum that is to end up
split over another dim becomes a gather of the weight, a weight gathered over two dims becomes a zero-padded
all-reduce.  So each change is asked for by itself, in the order in which `autoshard.cost.reshard` prices
them: close open sums, slice, move axes between dims, then gather dim by dim.

Some open sums are closed in two steps, first whole, then scattered and sliced. In one step XLA's partitioner
makes something else of them (jaxlib 0.10.2 and 0.12):

* Where mesh axes are idle, neither splitting an einsum's result nor summed over, it splits the einsum over
  those, sums that, and permutes the result to where it belongs: tens of microseconds on a large slice. Other
  einsums that read the same operand are then run on what was sliced of it, and gather their weights whole.
  And where another dim is sliced by several axes out of mesh order the numbers are wrong: the blocks of the
  einsum come in mesh order, and are taken for what was asked. A test has the programs.
* Where it sums over several axes and scatters one of them over a batch dim of the einsum that another axis
  splits already, the numbers are wrong, too.

The first step is compiled as an all-reduce and the second as a slice of it, and so it is priced but for the
last (`autoshard.cost.compiler_habits`). An einsum whose operands are sliced ahead of it has no idle axes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autoshard.search.ordering import Spec
from autoshard.search.places import Axes


@dataclass(frozen=True, slots=True)
class OpenSum:
    """The sum that an op leaves open in its result.

    Attributes:
        axes: Over which mesh axes it is open; none where it is not.
        idle_axes: Axes of several chips that neither split the result nor are summed over.
        batch_dims: Where an einsum made it, the dims that both operands have.
    """

    axes: Axes = ()
    idle_axes: Axes = ()
    batch_dims: Collection[int] = ()


NO_SUM = OpenSum()


def stages(have: Spec, want: Spec, open_sum: OpenSum = NO_SUM) -> tuple[Spec, ...]:
    """The specs through which a tensor passes from `have` to `want`, the last being `want`.

    Args:
        have: Ordered axes of each dim before.
        want: Ordered axes of each dim after.
        open_sum: The sum that is open before.

    Returns:
        At least one spec when there are open axes, none when nothing changes.
    """
    *before, closed = closings(have, want, open_sum)
    chain = [*before, closed] if closed != have or open_sum.axes else []
    exchanges = _exchanges(closed, want)
    chain += exchanges
    return (*chain, *_gathered(exchanges[-1] if exchanges else closed, want))


def closing(have: Spec, want: Spec) -> Spec:
    """The spec right after open sums are closed and new axes sliced, before any axis moves."""
    used = {axis for dim in have for axis in dim}
    return tuple((*old, *(a for a in new if a not in used)) for old, new in zip(have, want, strict=True))


def closings(have: Spec, want: Spec, open_sum: OpenSum) -> tuple[Spec, ...]:
    """The one or two specs that end with `closing(have, want)`; arguments as of `stages`."""
    closed = closing(have, want)
    first = tuple(
        old
        if open_sum.axes
        and (open_sum.idle_axes or (number in open_sum.batch_dims and _is_cut(old, new, open_sum.axes)))
        else new
        for number, (old, new) in enumerate(zip(have, closed, strict=True))
    )
    return (closed,) if first == closed else (first, closed)


def _is_cut(old: Axes, new: Axes, open_axes: Axes) -> bool:
    """Whether a dim that is split already gets some of the open axes, but not all."""
    scattered = set(new) & set(open_axes)
    return bool(old) and bool(scattered) and scattered != set(open_axes)


def _exchanges(spec: Spec, want: Spec) -> list[Spec]:
    """Move the axes that shard another dim afterwards, one pair of dims at a time.

    Those that go away stay for the gathers. Several pairs at once are more than one all-to-all: the
    partitioner would gather the whole tensor instead. A pair that needs no permute goes first.
    """
    pending = _pairs(spec, want)
    steps = [spec]
    while pending:
        pair = min(pending, key=lambda each: (_permutes(each, pending, steps[-1], want), each))
        moved = pending.pop(pair)
        dims = list(steps[-1])
        dims[pair[0]] = tuple(axis for axis in dims[pair[0]] if axis not in moved)
        dims[pair[1]] = (*dims[pair[1]], *(axis for axis in want[pair[1]] if axis in moved))
        steps.append(tuple(dims))
    return [*steps[1:-1], _in_order(steps[-1], want)] if len(steps) > 1 else []


def _pairs(spec: Spec, want: Spec) -> dict[tuple[int, int], set[int]]:
    """The axes that move, by the dims from and to which they do."""
    target = {axis: number for number, dim in enumerate(want) for axis in dim}
    pairs: dict[tuple[int, int], set[int]] = {}
    for number, dim in enumerate(spec):
        for axis in dim:
            if target.get(axis, number) != number:
                pairs.setdefault((number, target[axis]), set()).add(axis)
    return pairs


def _permutes(
    pair: tuple[int, int], pending: Mapping[tuple[int, int], set[int]], spec: Spec, want: Spec
) -> int:
    """How many reasons there are to permute when a pair is the next to move (`search.permute_rules`)."""
    source, destination = pair
    moved = tuple(axis for axis in want[destination] if axis in pending[pair])
    earlier = want[destination][: want[destination].index(moved[0])]
    are_minor = spec[source][-len(moved) :] == moved
    come_in_order = all(axis in spec[destination] for axis in earlier)
    others_leave = any(other[0] == destination for other in pending)
    return (not are_minor) + (not come_in_order) + others_leave


def _in_order(spec: Spec, want: Spec) -> Spec:
    """The axes that a dim will keep in the order wanted, among those that are gathered away."""
    dims = zip(spec, want, strict=True)
    return tuple(_filled(dim, [axis for axis in new if axis in dim]) for dim, new in dims)


def _filled(dim: Axes, kept: Sequence[int]) -> Axes:
    """A dim's axes, with those that are kept in the order given."""
    ordered = iter(kept)
    return tuple(next(ordered) if axis in kept else axis for axis in dim)


def _gathered(spec: Spec, want: Spec) -> list[Spec]:
    """Drop what goes away, one dim at a time, few axes first: the last gather makes most of the bytes."""
    steps: list[Spec] = []
    current = list(spec)
    for number in sorted(range(len(want)), key=lambda dim: len(spec[dim]) - len(want[dim])):
        if current[number] != want[number]:
            current[number] = want[number]
            steps.append(tuple(current))
    return steps
