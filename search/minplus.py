"""Sums of small tables minimised over some of their variables, in blocks.

A factor is a table over a scope of variables. `project` computes

    out[y] = min over x of sum_f f[x, y]

for a scope y, the one numerical kernel of elimination. The joint table over (x, y) is never stored whole:
it is formed block by block, each block small enough to stay in a core's cache.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType

import numpy as np

from autoshard.search.network import FloatArray

_BLOCK_ENTRIES = 1 << 15


@dataclass(frozen=True, slots=True)
class Factor:
    """A table whose axes are the variables of `scope`, in that order."""

    scope: tuple[int, ...]
    table: FloatArray


def project(factors: Sequence[Factor], scope: tuple[int, ...], sizes: Sequence[int]) -> Factor:
    """Minimise the sum of `factors` over every variable that is not in `scope`.

    Args:
        factors: at least one; together they have every variable of `scope`, and may have more.
        scope: variables of the result, in the order wanted.
        sizes: label count per variable of the network.

    Returns:
        A factor over `scope`; +inf where no finite completion exists.
    """
    gone = sorted({v for factor in factors for v in factor.scope} - set(scope))
    axes = (*gone, *scope)
    shape = tuple(sizes[v] for v in axes)
    views = sorted((_aligned(factor, axes) for factor in merged(factors)), key=np.size)
    out = np.full(shape[len(gone) :], np.inf)
    buffer = np.empty(_BLOCK_ENTRIES)
    for block in _blocks(shape, len(gone)):
        index: tuple[slice | EllipsisType, ...] = (*block[len(gone) :], ...)
        target = out[index]
        np.minimum(target, _least(views, block, len(gone), buffer), out=target)
    return Factor(scope, out)


def merged(factors: Sequence[Factor]) -> list[Factor]:
    """The same sum with every factor added into one that has all its variables, where there is one."""
    result: list[Factor] = []
    for factor in sorted(factors, key=lambda factor: -len(factor.scope)):
        for at, host in enumerate(result):
            if set(factor.scope) <= set(host.scope):
                result[at] = Factor(host.scope, host.table + _expanded(factor, host.scope))
                break
        else:
            result.append(factor)
    return result


def _expanded(factor: Factor, axes: Sequence[int]) -> FloatArray:
    """The table as a view with one axis per variable of `axes`, of length 1 where it has none."""
    table = factor.table.transpose([factor.scope.index(v) for v in axes if v in factor.scope])
    return table[tuple(slice(None) if v in factor.scope else None for v in axes)]


def _aligned(factor: Factor, axes: Sequence[int]) -> FloatArray:
    """The table with its axes in the order of `axes`, contiguous for speed."""
    return np.ascontiguousarray(_expanded(factor, axes)).reshape(_expanded(factor, axes).shape)


def _part(view: FloatArray, block: tuple[slice, ...]) -> FloatArray:
    """The view's share of a block; an axis it does not depend on stays of length 1."""
    return view[tuple(cut if n > 1 else slice(None) for n, cut in zip(view.shape, block, strict=True))]


def _least(
    views: Sequence[FloatArray], block: tuple[slice, ...], n_gone: int, buffer: FloatArray
) -> FloatArray:
    """Minimum over the leading `n_gone` axes of the sum of the views' blocks; small views are added first."""
    total = _part(views[0], block)
    for view in views[1:-1]:
        total = total + _part(view, block)
    if len(views) > 1:
        last = _part(views[-1], block)
        shape = np.broadcast_shapes(total.shape, last.shape)
        total = np.add(total, last, out=buffer[: math.prod(shape)].reshape(shape))
    joint = total.reshape(-1, *total.shape[n_gone:])
    least: FloatArray = joint[0] if len(joint) == 1 else joint.min(axis=0)
    return least


def _blocks(shape: Sequence[int], n_gone: int) -> Iterator[tuple[slice, ...]]:
    """Cut a table of `shape` into blocks of bounded size, leading axes first, results outermost."""
    steps: list[int] = []
    rest = math.prod(shape)
    for size in shape:
        rest //= size
        steps.append(min(size, max(1, _BLOCK_ENTRIES // rest)))
    cuts = [
        [slice(start, start + step) for start in range(0, size, step)]
        for size, step in zip(shape, steps, strict=True)
    ]
    for outer in product(*cuts[n_gone:]):
        for inner in product(*cuts[:n_gone]):
            yield (*inner, *outer)
