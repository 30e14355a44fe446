"""What the compiler cannot do though Shardy says it could.

Dims that Shardy would split but the compiler would have to gather stay whole in a rule (`within_limits`).

Shardy says what an op is mathematically. The partitioner of XLA splits a little less:

    gather, scatter*         of one index row is made a dynamic slice, which needs the indexed dim whole
    reduce_xor               there is no all-reduce of this kind
    conv_general_dilated     a spatial dim that is summed over needs a halo of its neighbours where it is
                             padded, and comes out wrong where operand and kernel are both split;
                             of batch groups (the gradient of a depthwise convolution), what is summed
                             over comes out wrong, and groups of several elements abort the compiler

A slice whose shards are those of its operand needs an operand that nothing else reads
(`needs_operand_of_its_own`). The partitioner cuts where the operand lies and reshards what is left. Where
less is cut off the end of a dim than there are shards, every shard is as long as before, and it takes the
operand itself for the slice before it reshards: of the operand and the slice, the one that is resharded
second to the same layout gets the other's copy, which has the wrong shape ("Expected instruction to have
shape" of the HLO verifier; `HandleSlice` in OpenXLA's spmd_partitioner.cc; seen on CPU devices with jaxlib
0.10.2 and 0.12.0). A copy of the operand ends the mistake and costs nothing: later passes remove it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from jax.extend.core import JaxprEqn, Literal, jaxprs_in_params

from autoshard.factor_table import Rule
from autoshard.primitives import OPAQUE, shape_of
from autoshard.search.graph import FactorKind

_CUTS = frozenset({"dynamic_slice", "slice", "split"})
"""Those that start at an index which is a constant are slices to the compiler, whatever the index is here."""


def within_limits(eqn: JaxprEqn, rule: Rule) -> Rule:
    """Return a rule that splits no more than the compiler can."""
    whole = set(_gathered(eqn, rule))
    factors = (
        replace(factor, kind=FactorKind.REPLICATED) if index in whole else factor
        for index, factor in enumerate(rule.factors)
    )
    return replace(rule, factors=tuple(factors)) if whole else rule


def _gathered(eqn: JaxprEqn, rule: Rule) -> Iterable[int]:
    name = eqn.primitive.name
    if name == "gather" or name.startswith("scatter"):
        return _indexed_by_one_row(eqn, rule)
    if name == "reduce_xor":
        return _summed(rule)
    if name == "conv_general_dilated":
        return {*_in_batch_groups(eqn, rule), *_summed_windows(eqn, rule)}
    return ()


def _summed(rule: Rule) -> list[int]:
    return [i for i, factor in enumerate(rule.factors) if factor.kind is FactorKind.REDUCTION]


def _indexed_by_one_row(eqn: JaxprEqn, rule: Rule) -> list[int]:
    """The factors of the dims that are indexed, where there is only one row of indices."""
    rows = math.prod(shape_of(eqn.invars[1].aval)[:-1])
    if rows != 1 or isinstance(eqn.invars[0], Literal):
        return []
    numbers = eqn.params["dimension_numbers"]
    indexed = (
        numbers.start_index_map if eqn.primitive.name == "gather" else numbers.scatter_dims_to_operand_dims
    )
    return [factor for dim in indexed for factor in rule.operand_dims[0][dim]]


def _summed_windows(eqn: JaxprEqn, rule: Rule) -> list[int]:
    """The factors of spatial dims that are summed over."""
    spatial = eqn.params["dimension_numbers"].lhs_spec[2:]
    summed = _summed(rule)
    return [factor for dim in spatial for factor in rule.operand_dims[0][dim] if factor in summed]


def _in_batch_groups(eqn: JaxprEqn, rule: Rule) -> Iterable[int]:
    """The factors of a convolution of batch groups; where each group is one element, those summed over."""
    groups = eqn.params["batch_group_count"]
    if groups == 1:
        return ()
    batch = eqn.params["dimension_numbers"].lhs_spec[0]
    return _summed(rule) if groups == shape_of(eqn.invars[0].aval)[batch] else range(len(rule.factors))


def needs_operand_of_its_own(eqn: JaxprEqn, devices: int) -> bool:
    """Whether an equation may cut so little off an operand that every shard is as long as before.

    Args:
        eqn: Any equation.
        devices: How many there are: a dim has as many shards as a number that divides both.
    """
    if eqn.primitive.name not in _CUTS or isinstance(eqn.invars[0], Literal):
        return False
    if any(eqn.params.get("start_indices", ())) or set(eqn.params.get("strides") or ()) - {1}:
        return False
    whole, first = shape_of(eqn.invars[0].aval), shape_of(eqn.outvars[0].aval)
    cut = [(size, size - left) for size, left in zip(whole, first, strict=True) if left < size]
    return bool(cut) and all(lost < math.gcd(size, devices) for size, lost in cut)


def some_need_operands_of_their_own(eqn: JaxprEqn, devices: int) -> bool:
    """Whether an equation is such a one or has one in its body; what is opaque is not looked into."""
    return needs_operand_of_its_own(eqn, devices) or (
        eqn.primitive.name not in OPAQUE
        and any(
            some_need_operands_of_their_own(inner, devices)
            for jaxpr in jaxprs_in_params(eqn.params)
            for inner in jaxpr.eqns
        )
    )
