"""What a single equation is: its kind, its floating point work, its bytes, and the jaxpr it calls, if any."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from autoshard.search.graph import OpKind

_EINSUMS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated"})
_VIEWS = frozenset(
    {
        "bitcast_convert_type",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "copy_p",
        "device_put",
        "dynamic_slice",
        "expand_dims",
        "freeze",
        "get",
        "layout_constraint",
        "mesh_cast",
        "name",
        "new_ref",
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
        "unstack",
    }
)
_MIXING = ("cum", "sort", "reduce", "gather", "concatenate", "top_k", "fft", "random")
OPAQUE = frozenset(
    {
        "core_map",
        "custom_partitioning",
        "debug_callback",
        "debug_print",
        "inspect_sharding",
        "io_callback",
        "mpmd_map",
        "pallas_call",
        "pure_callback",
        "run_state",
        "shard_map",
    }
)
"""Primitives whose body is not that of a call, or is not known."""
_BITS = {"float4_e2m1fn": 4, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
_BODIES_OF_ELEMENTS = frozenset({"reduce", "reduce_window"})
"""Their body combines two elements."""
BODY_KEYS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""The parameters in which call-like primitives keep the jaxpr they run."""


def kind_of(eqn: JaxprEqn) -> OpKind:
    """Return how an equation is priced and named."""
    name = eqn.primitive.name
    if name in _EINSUMS:
        return OpKind.ELEMENTWISE if _multiplies_only(eqn) else OpKind.EINSUM
    if name == "dynamic_update_slice" or name.startswith("scatter"):
        return OpKind.UPDATE
    if name in _VIEWS:
        return OpKind.VIEW
    return OpKind.ELEMENTWISE if _is_elementwise(eqn) else OpKind.OTHER


def _multiplies_only(eqn: JaxprEqn) -> bool:
    """A dot_general that sums nothing: the compiler makes a multiplication of it."""
    return eqn.primitive.name == "dot_general" and not eqn.params["dimension_numbers"][0][0]


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
    if eqn.primitive.name in _BODIES_OF_ELEMENTS | OPAQUE or not eqn.primitive.multiple_results:
        return None
    for key in BODY_KEYS:
        inner = eqn.params.get(key)
        jaxpr = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        if not isinstance(jaxpr, Jaxpr):
            continue
        if _same_types(jaxpr.invars, eqn.invars) and _same_types(jaxpr.outvars, eqn.outvars):
            return jaxpr, inner.consts if isinstance(inner, ClosedJaxpr) else ()
    return None


def _same_types(inner: Sequence[Any], outer: Sequence[Any]) -> bool:
    """Whether a body takes or returns what its equation does: that of a `reduce` works on single elements."""
    return len(inner) == len(outer) and all(
        type_of(one.aval) == type_of(other.aval) for one, other in zip(inner, outer, strict=True)
    )


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """Return how many operands of a scan are constants and how many are carried; the others are scanned."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carried, _ = eqn.params["ft_in"].unpack()  # JAX 0.12
    return len(consts), len(carried)


def flops(eqn: JaxprEqn) -> float:
    """Return the floating point operations of a contraction: two per multiply-add, 0 for all else.

    What a shard_map or a Pallas kernel does inside is not counted.
    """
    name = eqn.primitive.name
    if name not in _EINSUMS or _multiplies_only(eqn):
        return 0.0
    left, right = (shape_of(v.aval) for v in eqn.invars[:2])
    results: int = math.prod(shape_of(eqn.outvars[0].aval))
    inner: int
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        inner = math.prod(left[d] for d in contracted)
        return 2.0 * results * inner
    if name == "ragged_dot_general":
        return _ragged_flops(eqn, left, right)
    out_channels = right[eqn.params["dimension_numbers"].rhs_spec[0]]
    inner = math.prod(right) // max(1, out_channels)
    zeros: int = math.prod(eqn.params["lhs_dilation"])  # between the elements of a dilated operand
    return 2.0 * results * inner / zeros


def _ragged_flops(eqn: JaxprEqn, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Every element of the left operand meets the free dims of the right one, in the one group it is in."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    shared = {*contracted, *batch, *numbers.rhs_group_dimensions}
    free: int = math.prod(size for d, size in enumerate(right) if d not in shared)
    return 2.0 * math.prod(left) * free


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape, dtype name and size of an array; a token or another value without a dtype has 0 bytes."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: float


@functools.lru_cache(maxsize=2**16)
def type_of(aval: Any) -> TensorType:
    """Return the type of an abstract value. A program has few of them: each is described once."""
    shape, dtype = shape_of(aval), getattr(aval, "dtype", None)
    if dtype is None:
        return TensorType(shape, "token", 0.0)
    bits: int = _BITS.get(str(dtype), 8 * int(getattr(dtype, "itemsize", 4)))
    return TensorType(shape, str(dtype), math.prod(shape) * bits / 8)


def nbytes_of(aval: Any) -> float:
    """Return the size of an array in bytes, a fraction for sub-byte types; 0 for tokens."""
    return type_of(aval).nbytes


def shape_of(aval: Any) -> tuple[int, ...]:
    """Return the shape of an array, () for what has none."""
    return tuple(getattr(aval, "shape", ()))
