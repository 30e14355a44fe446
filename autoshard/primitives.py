"""What a single equation is: its kind, its floating point work, its bytes, and the jaxpr it calls, if any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from autoshard.search.graph import OpKind

_EINSUMS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated"})
_UPDATES = frozenset({"dynamic_update_slice", "scatter", "scatter-add", "scatter_add"})
_VIEWS = frozenset(
    {
        "bitcast_convert_type",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "copy_p",
        "dynamic_slice",
        "expand_dims",
        "name",
        "optimization_barrier",
        "reshape",
        "reshard",
        "rev",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)
_MIXING = ("cum", "sort", "reduce", "gather", "scatter", "concatenate", "top_k", "fft", "random")
_OPAQUE = frozenset({"shard_map", "pallas_call", "custom_partitioning"})
_BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
BODY_KEYS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""The parameters in which call-like primitives keep the jaxpr they run."""


def kind_of(eqn: JaxprEqn) -> OpKind:
    """Return how an equation is priced and named."""
    name = eqn.primitive.name
    if name in _EINSUMS:
        return OpKind.EINSUM
    if name in _UPDATES:
        return OpKind.UPDATE
    if name in _VIEWS:
        return OpKind.VIEW
    return OpKind.ELEMENTWISE if _is_elementwise(eqn) else OpKind.OTHER


def _is_elementwise(eqn: JaxprEqn) -> bool:
    """All results have one shape, and every operand has it too, up to dims of size 1, or is a scalar."""
    if eqn.primitive.name.startswith(_MIXING):
        return False
    out = shape_of(eqn.outvars[0].aval) if eqn.outvars else ()
    return all(_fits_in(shape_of(v.aval), out) for v in (*eqn.invars, *eqn.outvars))


def _fits_in(shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    if not shape:
        return True
    return len(shape) == len(out) and all(s in (1, o) for s, o in zip(shape, out, strict=True))


def called_jaxpr(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """Return the jaxpr, and its constants, that a call runs on its own operands; None for a leaf."""
    if eqn.primitive.name in _OPAQUE or not eqn.primitive.multiple_results:
        return None
    for key in BODY_KEYS:
        inner = eqn.params.get(key)
        jaxpr = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        if not isinstance(jaxpr, Jaxpr):
            continue
        if len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.outvars) == len(eqn.outvars):
            return jaxpr, inner.consts if isinstance(inner, ClosedJaxpr) else ()
    return None


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """Return how many operands of a scan are constants and how many are carried; the others are scanned."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carried, _ = eqn.params["ft_in"].unpack()  # JAX 0.12
    return len(consts), len(carried)


def flops(eqn: JaxprEqn) -> float:
    """Return the floating point operations of a contraction: two per multiply-add, 0 for all else."""
    name = eqn.primitive.name
    if name not in _EINSUMS:
        return 0.0
    inner: float
    outputs: int = math.prod(shape_of(eqn.outvars[0].aval))
    left, right = (shape_of(v.aval) for v in eqn.invars[:2])
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        inner = math.prod(left[d] for d in contracted)
    elif name == "ragged_dot_general":
        inner = left[-1]
    else:
        out_channels = right[eqn.params["dimension_numbers"].rhs_spec[0]]
        inner = math.prod(right) / max(1, out_channels)
    return 2.0 * outputs * inner


def nbytes_of(aval: Any) -> float:
    """Return the size of an array in bytes, a fraction for sub-byte types; 0 for tokens."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0.0
    bits: int = _BITS.get(str(dtype), 8 * int(getattr(dtype, "itemsize", 4)))
    return math.prod(shape_of(aval)) * bits / 8


def shape_of(aval: Any) -> tuple[int, ...]:
    """Return the shape of an array, () for what has none."""
    return tuple(getattr(aval, "shape", ()))
