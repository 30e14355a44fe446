"""The communication volumes of the paper's feed-forward layouts, by its formulas and by our reshard model.

Pope et al., arXiv:2211.05102, sec. 3.2 and App. A.2, for two matrices of E x F on a torus of X x Y x Z chips
(n = XYZ) and T = BL tokens. All formulas count *elements per chip*: the output of each all-gather and the
input of each reduce-scatter, with the factor (K-1)/K set to 1; the time is that over the network bandwidth.

* 1D weight-stationary: ``2TE``.
* 2D weight-stationary, weights E_xF_yz: ``2T (E/X + F/(YZ))``.
* weight-gathered over N chips (X: N = X; XY: N = XY; XYZ: N = n), the same weights at rest:
  weights ``2EF N/n`` and activations ``2TE/N``; for XYZ nothing is left of the activations' part.

`model_volume_bytes` derives the same numbers from `autoshard.cost.reshard`: it walks the layer's tensors
through their layouts and adds up the bytes of the collectives that the model finds. It is a check of the
model and knows the paper's layouts by name; the search does not.
"""

import enum
import math
from collections.abc import Callable

import numpy as np

from autoshard.cost.collectives import Collective, Kind
from autoshard.cost.errors import AutoshardError
from autoshard.cost.layouts import REPLICATED, UNREDUCED
from autoshard.cost.reshard import reshard_collectives
from autoshard.cost.slices import Slice
from autoshard.cost.torus import TorusMesh, native_mesh

MeshShape = tuple[int, int, int]

_R, _U = REPLICATED, UNREDUCED
_T, _E, _F = 0, 1, 1  # activations are [T, E] and [T, F]
_IN_E, _IN_F = 0, 1  # the first matrix is [E, F], the second [F, E]
_OUT_F, _OUT_E = 0, 1


class FeedForward(enum.StrEnum):
    """The paper's layouts of a feed-forward layer."""

    WS_1D = "WS 1D"
    WS_2D = "WS 2D"
    WG_X = "WG X"
    WG_XY = "WG XY"
    WG_XYZ = "WG XYZ"


# What each layout reshards, in order: (tensor, entries for x, y, z before, and after). The activation between
# the two matrices is computed where it lies, except in 2D weight-stationary, where it is unreduced over x.
_Step = tuple[str, tuple[int, int, int], tuple[int, int, int]]
_STEPS: dict[FeedForward, tuple[_Step, ...]] = {
    FeedForward.WS_1D: (
        ("TE", (_E, _E, _E), (_R, _R, _R)),
        ("TE", (_U, _U, _U), (_E, _E, _E)),
    ),
    FeedForward.WS_2D: (
        ("TE", (_E, _E, _E), (_E, _R, _R)),
        ("TF", (_U, _F, _F), (_F, _F, _F)),
        ("TF", (_F, _F, _F), (_R, _F, _F)),
        ("TE", (_E, _U, _U), (_E, _E, _E)),
    ),
    FeedForward.WG_X: (
        ("TE", (_T, _E, _E), (_T, _R, _R)),
        ("EF", (_IN_E, _IN_F, _IN_F), (_R, _IN_F, _IN_F)),
        ("FE", (_OUT_E, _OUT_F, _OUT_F), (_R, _OUT_F, _OUT_F)),
        ("TE", (_T, _U, _U), (_T, _E, _E)),
    ),
    FeedForward.WG_XY: (
        ("TE", (_T, _T, _E), (_T, _T, _R)),
        ("EF", (_IN_E, _IN_F, _IN_F), (_R, _R, _IN_F)),
        ("FE", (_OUT_E, _OUT_F, _OUT_F), (_R, _R, _OUT_F)),
        ("TE", (_T, _T, _U), (_T, _T, _E)),
    ),
    FeedForward.WG_XYZ: (
        ("EF", (_IN_E, _IN_F, _IN_F), (_R, _R, _R)),
        ("FE", (_OUT_E, _OUT_F, _OUT_F), (_R, _R, _R)),
    ),
}


def formula_volume_bytes(
    layout: FeedForward, tokens: float, d_model: int, d_ff: int, mesh_shape: MeshShape, itemsize: int = 2
) -> float:
    """The paper's communication volume of one feed-forward layer.

    Args:
        layout: Which of the paper's layouts.
        tokens: Tokens of the batch, B times L.
        d_model: Model width, E.
        d_ff: Hidden width, F.
        mesh_shape: X, Y, Z.
        itemsize: Bytes per element.

    Returns:
        Bytes per chip.
    """
    x, y, z = mesh_shape
    if layout is FeedForward.WS_1D:
        return itemsize * 2 * tokens * d_model
    if layout is FeedForward.WS_2D:
        return itemsize * 2 * tokens * (d_model / x + d_ff / (y * z))
    gathered = {FeedForward.WG_X: x, FeedForward.WG_XY: x * y, FeedForward.WG_XYZ: x * y * z}[layout]
    weights = 2 * d_model * d_ff * gathered / (x * y * z)
    activations = 0 if layout is FeedForward.WG_XYZ else 2 * tokens * d_model / gathered
    return itemsize * (weights + activations)


def model_collectives(
    layout: FeedForward, tokens: float, d_model: int, d_ff: int, mesh: TorusMesh, itemsize: int = 2
) -> tuple[Collective, ...]:
    """The collectives that the reshard model finds for one feed-forward layer.

    Args:
        layout: Which of the paper's layouts.
        tokens: Tokens of the batch, B times L.
        d_model: Model width, E.
        d_ff: Hidden width, F.
        mesh: A mesh of three axes, x, y and z.
        itemsize: Bytes per element.
    """
    sizes = {"T": tokens, "E": float(d_model), "F": float(d_ff)}
    steps = [_collectives_of(step, sizes, mesh, itemsize) for step in _STEPS[layout]]
    return tuple(collective for step in steps for collective in step)


def _collectives_of(
    step: _Step, sizes: dict[str, float], mesh: TorusMesh, itemsize: int
) -> tuple[Collective, ...]:
    tensor, before, after = step
    nbytes = itemsize * math.prod(sizes[dim] for dim in tensor)
    return reshard_collectives(np.array(before, dtype=np.int8), np.array(after, dtype=np.int8), nbytes, mesh)


def model_volume_bytes(
    layout: FeedForward, tokens: float, d_model: int, d_ff: int, slice: Slice, itemsize: int = 2
) -> float:
    """The communication volume that the reshard model gives, counted as the paper counts it.

    Args:
        layout: Which of the paper's layouts.
        tokens: Tokens of the batch, B times L.
        d_model: Model width, E.
        d_ff: Hidden width, F.
        slice: A slice of three torus dims above 1.
        itemsize: Bytes per element.

    Returns:
        Bytes per chip: outputs of all-gathers and inputs of reduce-scatters. A tensor that is gathered dim
        by dim counts once, with its last output: the paper takes it for one all-gather.
    """
    sizes = {"T": tokens, "E": float(d_model), "F": float(d_ff)}
    mesh = native_mesh(slice)
    volume = 0.0
    for step in _STEPS[layout]:
        collectives = _collectives_of(step, sizes, mesh, itemsize)
        gathers = [each.bytes_per_chip for each in collectives if each.kind is Kind.ALL_GATHER]
        volume += sum(each.bytes_per_chip for each in collectives if each.kind is not Kind.ALL_GATHER)
        volume += sum(gathers[-1:])
    return volume


def crossover_tokens(
    first: Callable[[float], float], second: Callable[[float], float], low: float, high: float
) -> float:
    """The number of tokens at which two layouts cost the same, by bisection.

    Args:
        first: Cost by tokens of the layout that is cheaper at ``low``.
        second: Cost by tokens of the layout that is cheaper at ``high``.
        low: Fewest tokens.
        high: Most tokens.

    Raises:
        AutoshardError: If the order of the two does not change between low and high.
    """
    if first(low) > second(low) or first(high) < second(high):
        raise AutoshardError(
            f"no crossover between {low:g} and {high:g} tokens: expected the first layout to be the cheaper "
            "one at the low end and the dearer one at the high end; widen the range or swap the layouts"
        )
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if first(middle) < second(middle) else (low, middle)
    return high


def closed_form_crossovers(d_model: int, d_ff: int, mesh_shape: MeshShape) -> tuple[float, float, float]:
    """The paper's crossovers in tokens: 2D WS to WG X, WG X to WG XY, WG XY to WG XYZ.

    From setting the formulas' volumes equal: ``T = E``, ``T = F X/Z`` and ``T = F X Y (Z-1)/Z``.
    """
    x, y, z = mesh_shape
    return float(d_model), d_ff * x / z, d_ff * x * y * (z - 1) / z
