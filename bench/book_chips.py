"""Chips as the paper and the books count them, whose worked examples know no losses and no latencies.

A book's chip is that of the chip table at its full rates: the shares reached of peak and bandwidths are 1 and
every latency is 0, so that a formula's result comes out of the model's own functions. Where a book computes
with a number of its own, that number is given by name. The books also drop the factor (n-1)/n of a collective
over n chips, which the model keeps: `book_seconds` leaves it out too.
"""

import math

from autoshard.cost.chips import Chip, chip
from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import Slice
from autoshard.cost.torus import TorusMesh, native_mesh

_CONVENTION = "the convention of worked examples: full rates and no latencies, or the book's own number"
_REACHED = ("mxu_fraction", "hbm_streaming_fraction", "joint_dim_fraction")


def book_chip(name: str, **values: float) -> Chip:
    """A chip of the table at full rates, with some numbers of a book's own.

    Args:
        name: Name in the chip table.
        **values: Numbers of the book, by field of `Chip`.
    """
    known = chip(name)
    full = dict.fromkeys(_REACHED, 1.0)
    instant = {field: 0.0 for field, number in known.quantities.items() if number.unit == "s"}
    return known.with_values("assumed", _CONVENTION, **{**full, **instant, **values})


def book_mesh(name: str, topology: tuple[int, ...], **values: float) -> TorusMesh:
    """The native mesh of a slice of book chips."""
    return native_mesh(Slice(book_chip(name, **values), topology))


def book_seconds(kind: Kind, nbytes: float, axes: tuple[str, ...], mesh: TorusMesh) -> float:
    """Time of a collective without the factor (n-1)/n, by the names of its axes."""
    numbers = tuple(mesh.names.index(axis) for axis in axes)
    n_chips = math.prod(mesh.shape[number] for number in numbers)
    return collective_seconds(kind, nbytes, numbers, mesh) * n_chips / (n_chips - 1)
