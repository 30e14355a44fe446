"""What something costs, part by part, and how parts add up.

A `Cost` is a vector of times on one chip: ``Cost + Cost`` and ``n * Cost`` are those of vectors, and a sum
keeps every part. What does not add up, that two things happen at once, is a part too, taken where it
happens:

* compute and HBM of one op proceed at once, up to the chip's serial fraction: its `overlapped_seconds` are
  the smaller of the two, so that ``compute + HBM - overlapped`` is ``max(compute, HBM)`` of an op and the sum
  of these maxima of many;
* communication that runs behind other work: `hidden_seconds`.

``seconds = compute + HBM - overlapped + ICI + DCN + latency - hidden``. ICI and DCN are the bytes over the
bandwidth (`autoshard.cost.collectives`); what a collective or a kernel takes without any bytes is latency.
ICI is kept by the axes that a collective uses together, such as ``"y,z"``: their links are busy all at
once, so its time cannot be parted between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoshard.cost.collectives import Collective, stage_laws
from autoshard.cost.torus import DCN_DIM, TorusMesh

Bound = Literal["compute", "HBM", "ICI", "DCN", "latency"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Times on one chip, seconds; ``Cost()`` is nothing, the start of a sum.

    Attributes:
        compute_seconds: Matrix unit.
        hbm_seconds: HBM and on-chip traffic, copies of reshards included.
        overlapped_seconds: The part of these two that runs while the other does.
        ici_seconds: Bytes over interconnect bandwidth, by the mesh axes used together, joined by ``,``.
        dcn_seconds: Bytes over the bandwidth between slices.
        latency_seconds: What takes time without bytes: hops, starts of collectives and kernels.
        hidden_seconds: The part of the communication that other work hides.
    """

    compute_seconds: float = 0.0
    hbm_seconds: float = 0.0
    overlapped_seconds: float = 0.0
    ici_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    dcn_seconds: float = 0.0
    latency_seconds: float = 0.0
    hidden_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Leave out axes without time, so that equal costs are equal."""
        used = {axes: self.ici_seconds[axes] for axes in sorted(self.ici_seconds) if self.ici_seconds[axes]}
        object.__setattr__(self, "ici_seconds", used)

    def __add__(self, other: Cost) -> Cost:
        axes = {*self.ici_seconds, *other.ici_seconds}
        return Cost(
            self.compute_seconds + other.compute_seconds,
            self.hbm_seconds + other.hbm_seconds,
            self.overlapped_seconds + other.overlapped_seconds,
            {a: self.ici_seconds.get(a, 0.0) + other.ici_seconds.get(a, 0.0) for a in axes},
            self.dcn_seconds + other.dcn_seconds,
            self.latency_seconds + other.latency_seconds,
            self.hidden_seconds + other.hidden_seconds,
        )

    def __rmul__(self, times: float) -> Cost:
        return Cost(
            times * self.compute_seconds,
            times * self.hbm_seconds,
            times * self.overlapped_seconds,
            {axes: times * seconds for axes, seconds in self.ici_seconds.items()},
            times * self.dcn_seconds,
            times * self.latency_seconds,
            times * self.hidden_seconds,
        )

    @property
    def local_seconds(self) -> float:
        """Compute and HBM together: the sum over ops of the larger of the two."""
        return self.compute_seconds + self.hbm_seconds - self.overlapped_seconds

    @property
    def total_ici_seconds(self) -> float:
        """Interconnect over all axes."""
        return sum(self.ici_seconds.values())

    @property
    def communication_seconds(self) -> float:
        """Interconnect, network and latency, hidden or not."""
        return self.total_ici_seconds + self.dcn_seconds + self.latency_seconds

    @property
    def exposed_seconds(self) -> float:
        """The part of the communication that nothing hides."""
        return self.communication_seconds - self.hidden_seconds

    @property
    def seconds(self) -> float:
        """The whole time."""
        return self.local_seconds + self.exposed_seconds

    @property
    def bound_by(self) -> Bound:
        """What takes longest: the larger of compute and HBM, or of what is exposed the largest part."""
        if self.exposed_seconds <= max(self.compute_seconds, self.hbm_seconds):
            return "compute" if self.compute_seconds > self.hbm_seconds else "HBM"
        parts: dict[Bound, float] = {
            "ICI": self.total_ici_seconds,
            "DCN": self.dcn_seconds,
            "latency": self.latency_seconds,
        }
        return max(parts, key=lambda part: parts[part])


def op_cost(
    compute_seconds: float, hbm_seconds: float, latency_seconds: float = 0.0, serial_fraction: float = 0.0
) -> Cost:
    """The cost of one execution of an op without its collectives: ``max(compute, HBM) + latency``.

    Of the smaller of compute and HBM the `serial_fraction` does not proceed beside the larger.
    """
    overlapped = (1.0 - serial_fraction) * min(compute_seconds, hbm_seconds)
    return Cost(compute_seconds, hbm_seconds, overlapped, latency_seconds=latency_seconds)


def collective_cost(collective: Collective, mesh: TorusMesh) -> Cost:
    """The cost of a collective, of which the chip's ``exposed_ici_fraction`` is exposed.

    Args:
        collective: What moves; its seconds are worked out again.
        mesh: The mesh that its axes are of.
    """
    indices = tuple(mesh.names.index(name) for name in collective.axes)
    on_slice, across = stage_laws(collective.kind, indices, mesh)
    in_slice = [name for name, i in zip(collective.axes, indices, strict=True) if not _is_dcn(mesh, i)]
    moved = Cost(
        ici_seconds={",".join(in_slice): collective.bytes_per_chip * on_slice.seconds_per_byte},
        dcn_seconds=collective.bytes_per_chip * across.seconds_per_byte,
        latency_seconds=on_slice.latency_seconds + across.latency_seconds,
    )
    hidden = 1.0 - mesh.slice.chip.exposed_ici_fraction
    return moved + Cost(hidden_seconds=hidden * moved.communication_seconds)


def _is_dcn(mesh: TorusMesh, index: int) -> bool:
    return mesh.axes[index].torus_dim == DCN_DIM
