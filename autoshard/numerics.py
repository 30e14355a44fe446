"""Inputs from a seed, and whether two programs' outputs agree.

Candidates are timed and compared on made-up inputs that keep deep networks finite: floats of rank 2 and
more are normals of standard deviation ``1 / sqrt(largest dim)``, so that a matmul keeps its operand's
scale; floats of rank 0 and 1 lie in [0.5, 1], which is valid as a gain, a bias, a variance or a step size;
integers lie in ``[0, integer_bound)``, which must be valid as token ids and positions. Where the outputs
of the unsharded program are not finite under them, `non_negative` inputs are the second try (square roots
of optimizer moments, say).

Sharding changes the order of sums, so outputs agree up to rounding: for each output ``error = max |actual
- expected| / max |expected|``, and the tolerance is that of the coarsest float type which the program
takes or returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

_TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
_COARSE_TOLERANCE = 0.25  # eight bits and fewer
_NEGLIGIBLE = 1e-3  # an output is judged on no finer scale than this share of the largest output
_PERIOD = 1_000_003  # long arrays repeat with this prime period, so that no two rows are equal
_KEY_NAMES = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far outputs are from the expected ones.

    Attributes:
        agrees: whether every output is within the tolerance.
        max_error: largest relative error of an output; for integers the share of unequal elements.
        worst_path: path of that output.
        tolerance: what `max_error` may be.
        detail: what is wrong, empty where the outputs agree.
    """

    agrees: bool
    max_error: float
    worst_path: str
    tolerance: float
    detail: str = ""


def make_input(
    shape: Sequence[int], dtype: Any, seed: int, *, integer_bound: int = 2, non_negative: bool = False
) -> Any:
    """Return one input: a numpy array, or a JAX array for typed PRNG keys.

    Args:
        shape: sizes.
        dtype: numpy, ml_dtypes or PRNG key dtype.
        seed: equal seeds give equal inputs.
        integer_bound: integers are drawn from `[0, integer_bound)`.
        non_negative: draw floats of rank 2 and more as absolute values, of mean ``1 / largest dim``.
    """
    name = str(dtype)
    if name.startswith("key<"):
        return _keys(shape, name, seed)
    size = prod(shape)
    generator = np.random.default_rng(seed)
    short = min(size, _PERIOD)
    if name == "bool":
        values: Array = generator.integers(0, 2, short)
    elif _is_integer(name):
        values = generator.integers(0, max(1, min(integer_bound, _largest(name) + 1)), short)
    elif len(shape) < 2:
        values = generator.uniform(0.5, 1.0, short)
    elif non_negative:
        values = np.abs(generator.standard_normal(short)) / max(shape)
    else:
        values = generator.standard_normal(short) / np.sqrt(max(*shape, 1))
    return np.resize(values.astype(np.dtype(dtype)), tuple(shape)) if size else np.zeros(tuple(shape), dtype)


def make_inputs(
    arguments: Iterable[Any], seed: int, *, integer_bound: int = 2, non_negative: bool = False
) -> list[Any]:
    """Return one input per argument (with `shape` and `dtype`), each from the seed and its index."""
    return [
        make_input(
            argument.shape,
            argument.dtype,
            seed * 1_000_003 + index,
            integer_bound=integer_bound,
            non_negative=non_negative,
        )
        for index, argument in enumerate(arguments)
    ]


def all_finite(arrays: Iterable[Any]) -> bool:
    """Say whether every float of every array is finite."""
    return all(
        bool(np.isfinite(_widened(array)).all()) for array in arrays if not _is_exact(np.asarray(array))
    )


def tolerance_of(dtypes: Iterable[Any]) -> float:
    """Return the relative error that rounding may cause in a program with these types; 0 without floats."""
    names = [str(dtype) for dtype in dtypes]
    floats = [name for name in names if name.startswith(("float", "bfloat", "complex"))]
    return max((_TOLERANCES.get(_real_name(name), _COARSE_TOLERANCE) for name in floats), default=0.0)


def compare(
    actual: Sequence[Any], expected: Sequence[Any], paths: Sequence[str], tolerance: float
) -> Comparison:
    """Compare outputs leaf by leaf.

    Args:
        actual: outputs of a candidate.
        expected: outputs of the unsharded program, in the same order.
        paths: a name for each output.
        tolerance: relative error allowed, see `tolerance_of`. Integers must be equal if it is finer than a
            float16's; else up to a quarter of an array's elements (at least one) may differ, as an argmax of
            rounded values may.
    """
    if len(actual) != len(expected):
        return Comparison(False, np.inf, "", tolerance, f"{len(actual)} outputs, expected {len(expected)}")
    scales = [_magnitude(array) for array in expected]
    floor = _NEGLIGIBLE * max(scales, default=0.0)
    worst = Comparison(True, 0.0, "", tolerance)
    for got, wanted, path, scale in zip(actual, expected, paths, scales, strict=True):
        found = _compare_leaf(np.asarray(got), np.asarray(wanted), path, tolerance, max(scale, floor))
        if (not found.agrees, found.max_error) > (not worst.agrees, worst.max_error):
            worst = found
    return worst


def _compare_leaf(actual: Array, expected: Array, path: str, tolerance: float, scale: float) -> Comparison:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        got, wanted = (f"{array.dtype}{list(array.shape)}" for array in (actual, expected))
        return Comparison(False, np.inf, path, tolerance, f"output {path} is {got}, expected {wanted}")
    if not expected.size:
        return Comparison(True, 0.0, path, tolerance)
    if _is_exact(expected):
        return _compare_exact(actual, expected, path, tolerance)
    wide_actual, wide_expected = _widened(actual), _widened(expected)
    finite = np.isfinite(wide_expected)
    if not np.array_equal(np.isfinite(wide_actual), finite):
        return Comparison(
            False, np.inf, path, tolerance, f"output {path} is not finite where the expected one is"
        )
    difference = float(
        np.abs(wide_actual - wide_expected, where=finite, out=np.zeros(finite.shape)).max(initial=0.0)
    )
    error = difference / scale if scale else difference
    agrees = error <= tolerance
    detail = (
        "" if agrees else f"output {path} is off by {error:.3g} of its magnitude, allowed is {tolerance:.3g}"
    )
    return Comparison(agrees, error, path, tolerance, detail)


def _compare_exact(actual: Array, expected: Array, path: str, tolerance: float) -> Comparison:
    unequal = int((actual != expected).sum())
    allowed = 0 if tolerance < _TOLERANCES["float16"] else max(1, expected.size // 4)
    detail = "" if unequal <= allowed else f"{unequal} of {expected.size} elements of output {path} differ"
    return Comparison(unequal <= allowed, unequal / expected.size, path, tolerance, detail)


def _magnitude(array: Any) -> float:
    values = np.asarray(array)
    if _is_exact(values) or not values.size:
        return 0.0
    magnitudes = np.abs(_widened(values))
    return float(np.max(magnitudes, where=np.isfinite(magnitudes), initial=0.0))


def _widened(array: Any) -> Array:
    values = np.asarray(array)
    return values if values.dtype.kind == "c" else values.astype(np.float64)


def _is_exact(array: Array) -> bool:
    return array.dtype.kind in "biu" or _is_integer(str(array.dtype))


def _is_integer(name: str) -> bool:
    return name.startswith(("int", "uint"))


def _largest(name: str) -> int:
    bits = int(name.lstrip("uint"))
    return int(2 ** (bits if name.startswith("u") else bits - 1) - 1)


def _real_name(name: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(name, name)


def _keys(shape: Sequence[int], dtype_name: str, seed: int) -> Any:
    import jax

    implementation = _KEY_NAMES.get(dtype_name.removeprefix("key<").removesuffix(">"), "threefry2x32")
    keys = jax.random.split(jax.random.key(seed, impl=implementation), max(1, prod(shape)))
    return keys[: prod(shape)].reshape(tuple(shape))
