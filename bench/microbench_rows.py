"""Published micro-benchmarks of TPUs: matmuls, copies in HBM, and collectives, with what the model predicts.

`data/microbench.csv` has one row per measurement, each with its public source. Only times are used: tools
define their bandwidths differently. Where a source gives a rate alone, the time is worked out with the bytes
that its tool counts (`note`). Rows with a text in `left_out` are kept to say what is not compared and why.

Bytes are per chip and as `autoshard.cost.collectives` counts them: all-gather: output; reduce-scatter and
all-reduce: input; permute: sent; copy: the array, which is read and written. A kernel that is run alone is
predicted with `kernel_seconds`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from autoshard.cost.chips import Chip
from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.roofline import einsum_seconds, padded_flops, stream_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh

DATA = Path(__file__).parent / "data" / "microbench.csv"
MATMUL, COPY = "matmul", "copy"
_ITEM_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Bench:
    """One measurement.

    Attributes:
        name: Its key in the file.
        slice_name: Where it ran.
        op: ``"matmul"``, ``"copy"`` or the name of a collective.
        axes: Axes of the slice's native mesh over which a collective runs.
        chip_share: Share of the chip that works: 0.5 for one of two cores.
        count: How many equal ops in turn took the time.
        dtype: Of the elements.
        sizes: m, k and n of a matmul.
        nbytes: Bytes of all ops together, see above; 0 for a matmul.
        seconds: Published time.
        note: What to know of it.
    """

    name: str
    slice_name: str
    op: str
    axes: tuple[str, ...]
    chip_share: float
    count: int
    dtype: str
    sizes: tuple[int, int, int]
    nbytes: float
    seconds: float
    note: str

    @property
    def chip_name(self) -> str:
        """The chip that it ran on."""
        return parse_slice(self.slice_name).chip.name

    @property
    def family(self) -> str:
        """What errors are averaged over: op and chip; collectives across slices apart."""
        return f"{self.op} {'over DCN ' if self.axes == ('dcn',) else ''}{self.chip_name}"

    @property
    def shape(self) -> str:
        """Its size in words."""
        return "x".join(map(str, self.sizes)) if self.op == MATMUL else f"{self.nbytes:.6g} B"

    def mesh(self, chip: Chip | None = None) -> TorusMesh:
        """The slice's own mesh, with another chip's numbers if one is given."""
        slice_ = parse_slice(self.slice_name)
        return native_mesh(slice_ if chip is None else replace(slice_, chip=chip))

    def predict(self, chip: Chip | None = None) -> float:
        """Seconds by the model, on the table's chip or another."""
        mesh = self.mesh(chip)
        if self.op not in (MATMUL, COPY):
            axes = tuple(mesh.names.index(name) for name in self.axes)
            return self.count * collective_seconds(Kind(self.op), self.nbytes / self.count, axes, mesh)
        compute, hbm = self.roofline(mesh.slice.chip)
        serial = mesh.slice.chip.serial_fraction * min(compute, hbm)
        return max(compute, hbm) + serial + mesh.slice.chip.kernel_seconds

    def roofline(self, chip: Chip) -> tuple[float, float]:
        """Compute and HBM time of a matmul or copy on the share of the chip that works."""
        if self.op == COPY:
            return 0.0, stream_seconds(2 * self.nbytes, chip) / self.chip_share
        m, k, n = self.sizes
        flops = float(padded_flops(1, m, k, n, chip))
        moved = _ITEM_BYTES[self.dtype] * (m * k + k * n + m * n)
        compute, hbm = einsum_seconds(flops, moved, self.dtype, chip)
        return compute / self.chip_share, hbm / self.chip_share


@cache
def read_benches() -> tuple[tuple[Bench, ...], tuple[tuple[str, str, str], ...]]:
    """The measurements to compare; and name, op and reason of those left out."""
    with DATA.open() as lines:
        rows = list(csv.DictReader(lines))
    used = tuple(_bench(row) for row in rows if not row["left_out"])
    return used, tuple((row["id"], row["op"], row["left_out"]) for row in rows if row["left_out"])


def _bench(row: dict[str, str]) -> Bench:
    return Bench(
        name=row["id"],
        slice_name=row["slice"],
        op=row["op"],
        axes=tuple(row["axes"].split(",")) if row["axes"] else (),
        chip_share=float(row["chip_share"] or 1),
        count=int(row["count"] or 1),
        dtype=row["dtype"],
        sizes=(int(row["m"] or 0), int(row["k"] or 0), int(row["n"] or 0)),
        nbytes=float(row["bytes"] or 0),
        seconds=float(row["seconds"]),
        note=row["note"],
    )
