"""Chips: what one accelerator can compute, hold, stream and send.

The numbers come from `autoshard.cost.chip_table`; `Chip.source` says for each where it was found and whether
it is specified, read from the compiler, measured, fitted or assumed. A calibrated chip is a copy with other
numbers and their new source (`Chip.with_values`).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoshard.cost.chip_row import ChipRow, Kind, Topologies, WrapRule
from autoshard.cost.chip_table import TABLE
from autoshard.cost.errors import AutoshardError, UnknownChipError
from autoshard.cost.quantities import Provenance, Quantity

_PEAK = "peak_flops_per_second"


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip, in SI units. For v2, v3 and tpu7x it is two JAX devices; the numbers are the chip's.

    Attributes:
        name: Name in slices, such as ``"v5e"``.
        kind: ``"tpu"``, ``"gpu"`` or ``"cpu"``.
        torus_rank: Number of torus dims of a slice (1 behind a switch).
        wrap_rule: Which torus dims are rings, see `autoshard.cost.slices`.
        max_chips: Largest slice; of GPUs the largest NVLink domain.
        topologies: Slices that can be rented, in growing size.
        devices_per_chip: JAX devices that one chip shows.
        hbm_bytes: HBM of the chip.
        hbm_usable_bytes: What a program may use of it.
        hbm_bytes_per_second: Specified HBM bandwidth.
        hbm_streaming_fraction: Share of it that weights streamed into a matmul reach.
        on_chip_bytes: VMEM, CMEM or cache: memory in which small activations live between ops.
        vmem_bytes: Memory of one TPU core for the blocks of kernels; 0: there is none, or it is not known.
        on_chip_bandwidth_ratio: Bandwidth of that memory over HBM bandwidth.
        mxu_fraction: Share of the peak that a large matmul reaches.
        serial_fraction: Share of the smaller of an einsum's compute and HBM time that does not run beside the
            larger.
        mxu_tile: Rows and columns of a matrix unit; k and n of a matmul are padded to it.
        mxu_sublanes: m of a matmul is padded to it.
        clock_hz: Clock in which the compiler counts its cycles.
        link_bytes_per_second: One interconnect link, one direction (behind a switch: one chip's total).
        hop_seconds: Time to pass one link.
        collective_base_seconds: Time of a collective of no bytes and no hops.
        chips_per_host: Chips that share the network of one host.
        dcn_bytes_per_second: Share of one chip in that network, one direction.
        dcn_base_seconds: Time of a collective of no bytes between slices.
        exposed_ici_fraction: Share of the interconnect time that compute does not hide.
        hidden_gather_fraction: Share of a weight's gather that runs beside other work, where there is enough.
        hidden_gather_slowdown: How much longer such a gather takes than one that is waited for.
        kernel_seconds: Time that each kernel that is run costs beside its work.
        vector_elements_per_second: Elements that an elementwise or reducing kernel passes over.
        row_elements_per_second: Elements of a matrix that an einsum with a single row multiplies and sums,
            where the compiler does that outside of the matrix unit.
        joint_dim_fraction: Share reached of the links beyond the two per chip of a single ring.
        peak_flops_per_second: Peak by dtype name; use `peak` for any dtype.
        quantities: Unit, provenance and source of each number; use `source`.
    """

    name: str
    kind: Kind
    torus_rank: int
    wrap_rule: WrapRule
    max_chips: int
    topologies: Topologies
    devices_per_chip: int
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_second: float
    hbm_streaming_fraction: float
    on_chip_bytes: float
    vmem_bytes: float
    on_chip_bandwidth_ratio: float
    mxu_fraction: float
    serial_fraction: float
    mxu_tile: float
    mxu_sublanes: float
    clock_hz: float
    link_bytes_per_second: float
    hop_seconds: float
    collective_base_seconds: float
    chips_per_host: float
    dcn_bytes_per_second: float
    dcn_base_seconds: float
    exposed_ici_fraction: float
    hidden_gather_fraction: float
    hidden_gather_slowdown: float
    kernel_seconds: float
    vector_elements_per_second: float
    row_elements_per_second: float
    joint_dim_fraction: float
    peak_flops_per_second: Mapping[str, float] = field(hash=False)
    quantities: Mapping[str, Quantity] = field(hash=False, repr=False)

    def source(self, name: str) -> Quantity:
        """Where a number comes from.

        Args:
            name: A field, such as ``"hbm_bytes_per_second"``, or ``"peak_flops_per_second.int8"``.

        Returns:
            The number with its unit, provenance and source.

        Raises:
            AutoshardError: If the table has no such number.
        """
        if name not in self.quantities:
            known = ", ".join(sorted(self.quantities))
            raise AutoshardError(f"chip {self.name} has no number {name!r}; it has {known}")
        return self.quantities[name]

    def peak(self, dtype: str) -> float:
        """Peak flop/s of matmuls in a dtype.

        A dtype without an entry of its own takes the one whose arithmetic it uses: float8 and small integers
        theirs where the chip has it and else bfloat16, float16 bfloat16, all the rest float32.

        Args:
            dtype: A numpy or JAX dtype name, such as ``"bfloat16"`` or ``"float8_e4m3fn"``.
        """
        peaks = self.peak_flops_per_second
        return next(peaks[name] for name in _stand_ins(dtype) if name in peaks)

    def with_values(self, provenance: Provenance, source: str, **values: float) -> "Chip":
        """A copy with other numbers, each with its new source.

        Args:
            provenance: How the new numbers were found.
            source: Where they were found.
            **values: Fields of this class, or ``peak_<dtype>`` for one peak.

        Raises:
            AutoshardError: If a name is not a number of the chip.
        """
        named = {_field_name(name): value for name, value in values.items()}
        numbers = {
            name: dataclasses.replace(self.source(name), value=value, provenance=provenance, source=source)
            for name, value in named.items()
        }
        quantities = {**self.quantities, **numbers}
        fields = {name: value for name, value in named.items() if not name.startswith(_PEAK)}
        changes: dict[str, object] = {**fields, "quantities": quantities, _PEAK: _peaks(quantities)}
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def chip(name: str) -> Chip:
    """Look a chip up by name.

    Raises:
        UnknownChipError: If there is no such chip; the message lists the known ones and the nearest.
    """
    if name in CHIPS:
        return CHIPS[name]
    near = difflib.get_close_matches(name.lower(), CHIPS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of them, as in 'v5e:4x4'."
    raise UnknownChipError(f"unknown chip {name!r}: the known chips are {', '.join(CHIPS)}; {hint}")


def _stand_ins(dtype: str) -> tuple[str, ...]:
    if dtype.startswith("float8"):
        return ("float8", "bfloat16")
    if dtype in ("int8", "uint8", "int4", "uint4", "int2", "uint2"):
        return ("int8", "bfloat16")
    if dtype in ("bfloat16", "float16"):
        return (dtype, "bfloat16")
    return ("float32",)


def _field_name(name: str) -> str:
    return f"{_PEAK}.{name.removeprefix('peak_')}" if name.startswith("peak_") else name


def _peaks(quantities: Mapping[str, Quantity]) -> dict[str, float]:
    prefix = _PEAK + "."
    return {n.removeprefix(prefix): q.value for n, q in quantities.items() if n.startswith(prefix)}


def _chip_of(name: str, row: ChipRow) -> Chip:
    values = {n: q.value for n, q in row.quantities.items() if not n.startswith(_PEAK)}
    return Chip(
        name=name,
        kind=row.kind,
        torus_rank=row.torus_rank,
        wrap_rule=row.wrap_rule,
        max_chips=row.max_chips,
        topologies=row.topologies,
        devices_per_chip=row.devices_per_chip,
        peak_flops_per_second=_peaks(row.quantities),
        quantities=row.quantities,
        **values,
    )


CHIPS: dict[str, Chip] = {name: _chip_of(name, row) for name, row in TABLE.items()}
