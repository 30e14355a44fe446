"""The table of chips: every hardware number once, with unit, provenance and source.

The rows stand in one module per family: `autoshard.cost.chips_tpu`, `autoshard.cost.chips_gpu` and
`autoshard.cost.chips_cpu`. Sizes are in bytes, rates per second, SI (1 TB/s = 1e12); HBM limits that a vendor
prints in "GB" and the compiler enforces in GiB stand in GiB. One row is one *chip*: the cores of a chip are
added up, also where JAX sees them as several devices (`ChipRow.devices_per_chip`).
"""

from autoshard.cost.chip_row import ChipRow
from autoshard.cost.chips_cpu import CPUS
from autoshard.cost.chips_gpu import GPUS
from autoshard.cost.chips_tpu import TPUS

TABLE: dict[str, ChipRow] = TPUS | GPUS | CPUS
