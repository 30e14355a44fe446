"""Candidates: every strategy of an op, every layout of a value.  None is listed by name.

A strategy gives each mesh axis to one factor of the op, to none (`REPLICATED`: the chips along it repeat the
work), or, for an op that is linear in unreduced operands, to `PARTIAL` (the sum is carried through).  It
follows what layout each operand must have and each result gets: an axis on a factor shards the dim of that
factor; a tensor without the factor is replicated; a result whose factor is summed away is left unreduced.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, UNREDUCED, Layouts, fits
from autoshard.cost.torus import TorusMesh
from autoshard.search.graph import Dims, FactorKind, Op, OpKind

PARTIAL = -2
"""Strategy code: the op passes an unreduced sum through along this axis."""

Strategies = npt.NDArray[np.int8]
"""[K, A]: for each mesh axis a factor index, REPLICATED or PARTIAL."""


def strategies(op: Op, mesh: TorusMesh, *, padded: bool = False) -> Strategies:
    """All strategies of an op on a mesh, the fully replicated one first.

    Left out are those that shard a factor Shardy says must stay whole, and those no `PartitionSpec` can
    express: a minor factor of a merged dim is shardable only under a fully sharded major one.  Those that do
    not divide a factor evenly are left out, too, unless the op may be `padded`: then a factor
    that is merged with no other may be padded, to less than `PADDING_LIMIT` times the work in all.
    """
    options = [REPLICATED]
    options += [i for i, factor in enumerate(op.factors) if factor.kind is not FactorKind.REPLICATED]
    if op.linear:
        options.append(PARTIAL)
    per_axis = [options if size > 1 else [REPLICATED] for size in mesh.shape]
    codes = np.array(list(itertools.product(*per_axis)), dtype=np.int8).reshape(-1, len(mesh.shape))
    shards = factor_shards(codes, len(op.factors), mesh)
    sizes = np.array([factor.size for factor in op.factors], dtype=np.int64)
    legal = fits(shards, sizes, padded=padded)
    merged = sorted({i for dims in _tensors(op) for dim in dims if len(dim) > 1 for i in dim})
    legal &= fits(shards[:, merged], sizes[merged], padded=False)
    for dims in _tensors(op):
        legal &= _expressible(dims, shards, sizes)
    kept: Strategies = codes[legal]
    return kept


def may_pad(op: Op) -> bool:
    """Whether the compiler makes blocks of padded dims of an op, as it does of even ones.

    It was seen to do so for einsums, elementwise ops, reductions, and views and joins along other dims; not
    looked at are lookups, updates, sorts, cumulative sums and convolutions, which so stay even.
    """
    if op.kind is OpKind.EINSUM:
        return op.primitive == "dot_general"
    return op.kind is OpKind.ELEMENTWISE or op.primitive.startswith(_REDUCING) or op.primitive in _PADDABLE


_REDUCING = ("reduce_", "arg")
_PADDABLE = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "expand_dims",
        "name",
        "optimization_barrier",
        "reshape",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)


def _tensors(op: Op) -> tuple[Dims, ...]:
    return (*op.operand_dims, *op.result_dims)


def factor_shards(codes: Strategies, n_factors: int, mesh: TorusMesh) -> npt.NDArray[np.int64]:
    """[K, n_factors]: into how many parts each strategy cuts each factor."""
    sizes = np.array(mesh.shape, dtype=np.int64)[None, :, None]
    cut = codes[:, :, None] == np.arange(n_factors, dtype=np.int8)
    parts: npt.NDArray[np.int64] = np.where(cut, sizes, np.int64(1)).prod(axis=1)
    return parts


def _expressible(
    dims: Dims, shards: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    legal = np.ones(len(shards), dtype=bool)
    for dim in dims:
        for major, minor in itertools.pairwise(dim):
            legal &= (shards[:, minor] == 1) | (shards[:, major] == sizes[major])
    return legal


def operand_layouts(op: Op, codes: Strategies, position: int) -> Layouts:
    """[K, A]: the layout in which each strategy reads one operand."""
    layouts = _dim_codes(op.operand_dims[position], len(op.factors))[codes]
    if position in op.linear:
        layouts = np.where(codes == PARTIAL, np.int8(UNREDUCED), layouts)
    return layouts


def result_layouts(op: Op, codes: Strategies, position: int) -> Layouts:
    """[K, A]: the layout in which each strategy leaves one result."""
    table = _dim_codes(op.result_dims[position], len(op.factors))
    for index, factor in enumerate(op.factors):
        if factor.kind is FactorKind.REDUCTION:
            table[index] = UNREDUCED
    layouts = table[codes]
    return np.where(codes == PARTIAL, np.int8(UNREDUCED), layouts)


def _dim_codes(dims: Dims, n_factors: int) -> npt.NDArray[np.int8]:
    """From factor index (or a negative code, which wraps to the end) to the dim that holds the factor."""
    table = np.full(n_factors + 2, REPLICATED, dtype=np.int8)
    for number, dim in enumerate(dims):
        for factor in dim:
            table[factor] = number
    return table


def shard_notation(
    letters: Sequence[str], axes: Sequence[Sequence[str]], unreduced: Sequence[str] = ()
) -> str:
    """Write a layout in the paper's notation: `shard_notation("ble", [["x"], [], ["y", "z"]])` is "B_xLE_yz".

    Unreduced axes follow in braces, as "{U_x}".
    """
    text = "".join(
        letter.upper() + (f"_{''.join(names)}" if names else "")
        for letter, names in zip(letters, axes, strict=True)
    )
    return text + (f"{{U_{''.join(unreduced)}}}" if unreduced else "")
