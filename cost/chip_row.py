"""What one row of the chip table holds."""

from dataclasses import dataclass
from typing import Literal

from autoshard.cost.quantities import Quantity, assumed

Kind = Literal["tpu", "gpu", "cpu"]
WrapRule = Literal["cube", "full-16", "full-32", "switch"]
Topologies = tuple[tuple[int, ...], ...]

GIB = float(2**30)
MIB = float(2**20)


@dataclass(frozen=True, slots=True)
class ChipRow:
    """One row of the table.

    Attributes:
        kind: ``"tpu"``, ``"gpu"`` or ``"cpu"``.
        torus_rank: Number of torus dims; 1 for chips behind a switch.
        wrap_rule: Which torus dims close into a ring, see `autoshard.cost.slices`.
        max_chips: Largest slice; of GPUs the largest NVLink domain.
        topologies: Slices that can be rented, in growing size.
        quantities: The numbers, by field of `autoshard.cost.chips.Chip`.
        devices_per_chip: JAX devices that one chip shows.
    """

    kind: Kind
    torus_rank: int
    wrap_rule: WrapRule
    max_chips: int
    topologies: Topologies
    quantities: dict[str, Quantity]
    devices_per_chip: int = 1


def peaks(**by_dtype: Quantity) -> dict[str, Quantity]:
    """Peak rates by dtype, under the names that the table gives them."""
    return {f"peak_flops_per_second.{dtype}": quantity for dtype, quantity in by_dtype.items()}


NO_KERNEL_TIME = assumed(0.0, "s", "not known, so nothing is charged for starting a kernel")
NO_VECTOR_LIMIT = assumed(1e15, "element/s", "not known, so elementwise kernels are bound by memory alone")
ALL_BESIDE = assumed(0.0, "1", "not known, so an einsum's compute and HBM traffic proceed at once")
HIDES_NO_GATHER = assumed(0.0, "1", "not looked into")
AS_FAST_HIDDEN = assumed(1.0, "1", "not known, so as fast as one that is waited for")
NO_VMEM = assumed(0.0, "byte", "not a TPU core")
HIDES_NOTHING = assumed(1.0, "1", "named overlap assumption: no interconnect time is hidden behind compute")
