"""From the times of operations to the numbers of a chip.

Each fit is a least squares of relative errors with coefficients that cannot be negative (`relative_fit`), so
that a small operation counts as much as a large one:

* matmuls of a dtype: ``seconds = start + flops / rate``;
* collectives: ``seconds = a base + b hop + bytes c / link``, where a, b and c are those of
  `autoshard.cost.collectives`; terms that the groups which were measured cannot tell apart stay the table's;
* activations, on CPU devices: ``seconds = start + elements / rate``; elsewhere memory may bound them;
* weights streamed into a matmul of few rows: their bytes over seconds, less the part of the compute that the
  chip does not do meanwhile (``serial_fraction``);
* a multiplication and an addition, on CPU devices: bytes over seconds, on the largest array those of main
  memory.  The cache holds the largest array that moves twice as fast, where there is one.  A loop does not
  wait for the other devices, so only as many run at once as there are cores, and each sees their part of the
  cache; in a program the devices that share a core take turns: ``cores / devices`` of it is theirs.
  Elsewhere memory on chip is the compiler's to give, and not seen here.

Where the table has a specified rate, what was found is a share of it (``mxu_fraction``,
``hbm_streaming_fraction``); where it only has an assumption, the rate itself is replaced and the share is 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from autoshard.calibration.bench import Sample
from autoshard.calibration.probes import ITEM_BYTES, Probe
from autoshard.cost.chips import Chip
from autoshard.cost.collectives import Law, collective_law
from autoshard.cost.slices import Slice
from autoshard.cost.torus import TorusMesh
from autoshard.cost.traffic import ON_CHIP_SHARE

_PEAK = "peak_flops_per_second"
_LINK, _BASE, _HOP = "link_bytes_per_second", "collective_base_seconds", "hop_seconds"

_LEAST_READING = 0.5
"""Share of the time of a matmul of few rows that reading its weights takes at least."""
_CACHED = 2.0
"""An array is in a cache if it moves so many times faster than one in main memory."""
_REWEIGHTINGS = 50
_LEAST_RATIO, _SAME = 1e-3, 1e-9
"""Fitted over measured: the least that counts for a weight, and how close to 1 is the same."""

Floats = npt.NDArray[np.float64]
Timed = Sequence[tuple[Probe, float]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A number of the chip.

    Attributes:
        name: Its name in the chip table.
        value: What was found, in the table's unit.
        how: From what.
    """

    name: str
    value: float
    how: str


def findings(
    slice_: Slice, probes: Sequence[Probe], samples: Sequence[Sample], host_cores: int
) -> list[Finding]:
    """The numbers that the samples give, in the order of the model's terms.

    Args:
        slice_: What was measured, with the table's chip.
        probes: What was run.
        samples: What each of them took; those without a time are left out.
        host_cores: Cores that CPU devices share.
    """
    timed = [(p, s.seconds) for p, s in zip(probes, samples, strict=True) if s.seconds is not None]
    chip, matmuls = slice_.chip, _of("matmul", timed)
    rates, share = _matmul_rates(matmuls), min(1.0, host_cores / slice_.n_chips)
    return [
        *_matmuls(chip, matmuls, rates),
        *_memory(chip, _of("stream", timed), _of("weights", timed), rates, share),
        *_vector(chip, _of("activation", timed)),
        *(Finding("kernel_seconds", seconds, _size("chain of", p)) for p, seconds in _of("kernel", timed)),
        *_interconnect(slice_, _of("collective", timed)),
    ]


def model_seconds(slice_: Slice, probe: Probe) -> float | None:
    """What the cost model says that a probe takes; None for operations that no one term prices."""
    chip = slice_.chip
    if probe.operation == "matmul":
        return probe.flops / (chip.peak(probe.dtype) * chip.mxu_fraction)
    if probe.operation == "collective" and probe.kind is not None:
        law = collective_law(probe.kind, probe.axes, TorusMesh(slice_, probe.mesh_axes))
        return law.latency_seconds + probe.nbytes * law.seconds_per_byte
    if probe.operation == "kernel":
        return chip.kernel_seconds
    if probe.operation == "activation" and chip.kind == "cpu":
        return probe.nbytes / ITEM_BYTES / chip.vector_elements_per_second
    if probe.operation == "stream" and chip.kind == "cpu":
        rate = chip.hbm_bytes_per_second * chip.hbm_streaming_fraction
        on_chip = probe.nbytes <= ON_CHIP_SHARE * chip.on_chip_bytes
        return probe.touched_bytes / (rate * (chip.on_chip_bandwidth_ratio if on_chip else 1.0))
    return None


def relative_fit(columns: Floats, seconds: Floats) -> Floats:
    """Coefficients ``c >= 0`` that minimise ``sum(log(columns @ c / seconds) ** 2)``.

    Half and double count alike. It is found by weighted least squares: where f is fitted and m measured, the
    weight ``log(f/m) / ((f - m) f)`` of the fit before gives the sum of ``(f - m)**2`` the same slope.

    Args:
        columns: ``[N, K]``.
        seconds: ``[N]``, all above 0.

    Returns:
        ``[K]``.
    """
    scale = np.max(columns, axis=0, initial=1e-300)  # columns of like size: flops beside ones
    scaled, weights = columns / scale, 1 / seconds**2
    for _ in range(_REWEIGHTINGS):
        roots = np.sqrt(weights)
        solution, _residual = nnls(scaled * roots[:, None], seconds * roots)
        ratio = np.maximum(scaled @ solution / seconds, _LEAST_RATIO)
        apart = np.abs(ratio - 1) > _SAME
        slope = np.where(apart, np.log(ratio) / np.where(apart, ratio - 1, 1.0), 1.0)
        weights = slope / ratio / seconds**2
    return np.asarray(solution / scale, dtype=np.float64)


def _of(operation: str, timed: Timed) -> list[tuple[Probe, float]]:
    return [(probe, seconds) for probe, seconds in timed if probe.operation == operation]


def _matmul_rates(timed: Timed) -> dict[str, float]:
    """flop/s by dtype."""
    rates = {}
    for dtype in dict.fromkeys(probe.dtype for probe, _ in timed):
        own = [(probe.flops, seconds) for probe, seconds in timed if probe.dtype == dtype]
        rates[dtype] = _rate(*np.array(own).T)
    return rates


def _matmuls(chip: Chip, timed: Timed, rates: Mapping[str, float]) -> Iterator[Finding]:
    how = "matmuls of " + ", ".join(str(size) for size in sorted({probe.size for probe, _ in timed}))
    for dtype, rate in rates.items():
        if _assumed(chip, f"{_PEAK}.{dtype}"):
            yield Finding(f"{_PEAK}.{dtype}", rate, how)
    best = {d: rate / chip.peak(d) for d, rate in rates.items() if not _assumed(chip, f"{_PEAK}.{d}")}
    if best:
        dtype = "bfloat16" if "bfloat16" in best else next(iter(best))
        yield Finding("mxu_fraction", min(1.0, best[dtype]), f"{dtype} {how}")
    elif rates:
        yield Finding("mxu_fraction", 1.0, "the peak is the measured rate")


def _rate(work: Floats, seconds: Floats) -> float:
    """Work per second, without what each operation takes to start."""
    _, per_item = relative_fit(np.stack([np.ones(len(work)), work], axis=1), seconds)
    return float(1 / per_item) if per_item > 0 else float(np.max(work / seconds))


def _memory(
    chip: Chip, stream: Timed, weights: Timed, matmul_rates: Mapping[str, float], share: float
) -> Iterator[Finding]:
    """Bandwidth, the share of it that streamed weights reach, and the cache of CPU devices.

    A device has this share of the cache that it sees when the others do not use it.
    """
    rates = {probe.nbytes: probe.touched_bytes / seconds for probe, seconds in stream}
    bandwidth = chip.hbm_bytes_per_second
    if rates and _assumed(chip, "hbm_bytes_per_second"):
        bandwidth = rates[max(rates)]
        yield Finding("hbm_bytes_per_second", bandwidth, f"multiplication and addition on {max(rates)} bytes")
    streamed = bandwidth * chip.hbm_streaming_fraction
    for probe, seconds in weights:
        compute_seconds = probe.flops / matmul_rates.get(probe.dtype, chip.peak(probe.dtype))
        reading_seconds = max(seconds - chip.serial_fraction * compute_seconds, _LEAST_READING * seconds)
        streamed = min(bandwidth, probe.touched_bytes / reading_seconds)
        yield Finding("hbm_streaming_fraction", streamed / bandwidth, _size("weights of", probe))
    if rates and chip.kind == "cpu":
        yield from _cache(rates, streamed, share)


def _cache(rates: Mapping[int, float], streamed: float, share: float) -> Iterator[Finding]:
    slow, fast = rates[max(rates)], max(rates.values())
    cached = max((nbytes for nbytes, rate in rates.items() if rate >= _CACHED * slow), default=min(rates))
    how = f"multiplication and addition on {min(rates)} to {max(rates)} bytes"
    yield Finding("on_chip_bandwidth_ratio", max(1.0, fast / streamed), how)
    yield Finding("on_chip_bytes", cached * share / ON_CHIP_SHARE, how)


def _vector(chip: Chip, timed: Timed) -> Iterator[Finding]:
    if timed and chip.kind == "cpu":
        elements = np.array([probe.nbytes / ITEM_BYTES for probe, _ in timed])
        rate = _rate(elements, np.array([seconds for _, seconds in timed]))
        yield Finding("vector_elements_per_second", rate, f"activation on {_sizes(timed)} bytes")


def _interconnect(slice_: Slice, timed: Timed) -> Iterator[Finding]:
    if not timed:
        return
    columns = np.array([_coefficients(slice_, probe) for probe, _ in timed])
    seconds = np.array([seconds for _, seconds in timed])
    names = [_BASE, _HOP, _LINK] if np.linalg.matrix_rank(columns[:, :2]) == 2 else [_BASE, _LINK]
    if _HOP not in names:
        fixed = columns[:, 1] * slice_.chip.hop_seconds
        seconds, columns = np.maximum(seconds - fixed, 1e-3 * seconds), columns[:, [0, 2]]
    groups = sorted({probe.group for probe, _ in timed})
    how = f"{len(timed)} collectives over groups of {', '.join(map(str, groups))}"
    for name, value in zip(names, relative_fit(columns, seconds), strict=True):
        if name != _LINK:
            yield Finding(name, float(value), how)
        elif value > 0:
            yield Finding(name, float(1 / value), how)


def _coefficients(slice_: Slice, probe: Probe) -> tuple[float, float, float]:
    """How often a collective pays the base, a hop, and the time of a byte on a link."""
    assert probe.kind is not None
    kind = probe.kind

    def law(**numbers: float) -> Law:
        chip = slice_.chip.with_values("assumed", "unit of a fit", **{_LINK: 1.0, **numbers})
        mesh = TorusMesh(dataclasses.replace(slice_, chip=chip), probe.mesh_axes)
        return collective_law(kind, probe.axes, mesh)

    base = law(**{_BASE: 1.0, _HOP: 0.0})
    hop = law(**{_BASE: 0.0, _HOP: 1.0})
    return base.latency_seconds, hop.latency_seconds, probe.nbytes * base.seconds_per_byte


def _assumed(chip: Chip, name: str) -> bool:
    return chip.source(name).provenance == "assumed"


def _size(words: str, probe: Probe) -> str:
    return f"{words} {probe.dtype} matmuls of {probe.rows}x{probe.size}x{probe.size}"


def _sizes(timed: Timed) -> str:
    return ", ".join(str(probe.nbytes) for probe, _ in timed)
