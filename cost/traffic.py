"""Where a tensor of the running program lives, and what reading or writing it costs.

What the program has just made stays on chip (VMEM, CMEM, a cache) when its local part is small, and goes to
HBM when it is not.  On-chip memory is not free, only faster (`on_chip_bandwidth_ratio` of the chip table), so
replicated work on chip still costs more than sharded work.
"""

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.roofline import stream_seconds

ON_CHIP_SHARE = 0.25
"""Share of the on-chip memory that one tensor may take and still be kept there; assumed."""

Floats = npt.NDArray[np.float64]


def traffic_seconds(local_bytes: Floats, chip: Chip) -> Floats:
    """Time to read or write, once, a tensor that the program makes and uses itself.

    Args:
        local_bytes: Bytes of one chip's part; any shape.
        chip: The chip.
    """
    seconds = stream_seconds(local_bytes, chip)
    on_chip = local_bytes <= ON_CHIP_SHARE * chip.on_chip_bytes
    return np.where(on_chip, seconds / chip.on_chip_bandwidth_ratio, seconds)


def copy_seconds(local_bytes: Floats, chip: Chip) -> Floats:
    """Time that a reshard spends on memory: reading and writing a new local part too large to stay on chip.

    Slicing a replicated tensor needs no communication, yet the slice of a large one is a copy through HBM; so
    is what a collective delivers.  Small tensors stay on chip and are fused into their neighbours: nothing is
    charged.

    Args:
        local_bytes: Bytes of one chip's part after the reshard; any shape.
        chip: The chip.
    """
    return np.where(
        local_bytes <= ON_CHIP_SHARE * chip.on_chip_bytes, 0.0, 2 * stream_seconds(local_bytes, chip)
    )
