"""Time of an einsum on one chip: its matrix unit against its HBM.

``compute = flops / (peak * mxu_fraction)`` and ``hbm = bytes / (bandwidth * hbm_streaming_fraction)``; the op
takes the larger of the two, since both proceed at once (arXiv:2211.05102, sec. 2). The two fractions are what
large matmuls and weights streamed into a matmul reach (`autoshard.cost.chip_table`). What stays on chip
between ops is not HBM traffic; the caller leaves it out of the bytes.

Small local matmuls waste a part of the matrix unit: ``m x k`` by ``k x n`` is computed with k and n padded to
the unit's tile (128 or 256) and m, whose rows are streamed through it, to 8. Either operand may be the one
that stays in the unit; the cheaper choice counts.

Where m, k or n is 1 the TPU compiler uses no matrix unit: it multiplies element by element and sums,

    compute = batch * m * k * n / row_elements_per_second

which takes several times as long as reading the matrix does. So it is with the attention of a decode step
that has a key-value head for every head, and with the weights when there is a single token. Read out of
programs that libtpu 0.0.42.1 compiled for v4, v5e, v5p and v6e, 20 einsums of caches, weights and experts:
all with a dim of size 1 are so, two rows are a matmul again. Known weakness: without such a dim
(``bhd,bkhd->bhk``) the compiler takes one or the other; float32 is a fifth slower, int8 weights a fifth
faster.
"""

from typing import overload

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip

Floats = npt.NDArray[np.float64]


@overload
def einsum_seconds(flops: float, hbm_bytes: float, dtype: str, chip: Chip) -> tuple[float, float]: ...
@overload
def einsum_seconds(flops: Floats, hbm_bytes: Floats, dtype: str, chip: Chip) -> tuple[Floats, Floats]: ...
def einsum_seconds(
    flops: float | Floats, hbm_bytes: float | Floats, dtype: str, chip: Chip
) -> tuple[float | Floats, float | Floats]:
    """Compute and HBM time of an einsum on one chip.

    Args:
        flops: Floating point operations of the chip's share, 2 per multiply-add; any shape.
        hbm_bytes: Bytes that it reads from and writes to HBM; any shape.
        dtype: Name of the dtype in which it multiplies.
        chip: The chip.

    Returns:
        ``(compute_seconds, hbm_seconds)``, of the shapes of flops and hbm_bytes.
    """
    return flops / (chip.peak(dtype) * chip.mxu_fraction), stream_seconds(hbm_bytes, chip)


@overload
def stream_seconds(nbytes: float, chip: Chip) -> float: ...
@overload
def stream_seconds(nbytes: Floats, chip: Chip) -> Floats: ...
def stream_seconds(nbytes: float | Floats, chip: Chip) -> float | Floats:
    """Time to read or write that many bytes of one chip's HBM."""
    return nbytes / (chip.hbm_bytes_per_second * chip.hbm_streaming_fraction)


def matmul_seconds(
    batch: npt.ArrayLike, m: npt.ArrayLike, k: npt.ArrayLike, n: npt.ArrayLike, dtype: str, chip: Chip
) -> Floats:
    """Compute seconds of a batch of local matmuls ``[m, k] x [k, n]`` in a dtype.

    Sizes and shapes are as of `padded_flops`.
    """
    unit = padded_flops(batch, m, k, n, chip) / (chip.peak(dtype) * chip.mxu_fraction)
    sizes = np.broadcast_arrays(*(np.asarray(size, dtype=np.float64) for size in (batch, m, k, n)))
    single = np.minimum.reduce(sizes[1:]) <= 1
    by_element = np.multiply.reduce(sizes) / chip.row_elements_per_second
    seconds: Floats = np.where(single, np.maximum(by_element, unit), unit)
    return seconds


def padded_flops(
    batch: npt.ArrayLike, m: npt.ArrayLike, k: npt.ArrayLike, n: npt.ArrayLike, chip: Chip
) -> Floats:
    """Flops that the matrix unit spends on a batch of local matmuls ``[m, k] x [k, n]``, waste included.

    Args:
        batch: Number of matmuls; any shape that broadcasts with the others.
        m: Rows of the left operand.
        k: The reduced size.
        n: Columns of the right operand.
        chip: The chip.

    Returns:
        ``2 * batch * m' * k' * n'`` with padded sizes, the cheaper of the two operands staying in the unit;
        of the broadcast shape.
    """
    tile, rows = chip.mxu_tile, chip.mxu_sublanes
    outer = np.minimum(_pad(m, rows) * _pad(n, tile), _pad(m, tile) * _pad(n, rows))
    flops: Floats = 2.0 * np.asarray(batch, dtype=np.float64) * _pad(k, tile) * outer
    return flops


def _pad(size: npt.ArrayLike, multiple: float) -> Floats:
    padded: Floats = np.ceil(np.asarray(size, dtype=np.float64) / multiple) * multiple
    return padded
