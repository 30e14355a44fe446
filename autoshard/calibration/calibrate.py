"""Measure the numbers of a chip on devices: the attached ones, or virtual CPU devices in a child process.

`autoshard.calibration.probes` says what is run, `autoshard.calibration.bench` times it on all devices at
once, and `autoshard.calibration.fit` makes numbers of the chip table of the times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import autoshard
from autoshard.calibration.bench import Answer, Request, Sample, measure
from autoshard.calibration.fit import Finding, findings
from autoshard.calibration.probes import ROUNDS, Probe, Sizes, probes_for
from autoshard.calibration.worker import measure_cpu_devices
from autoshard.cost.profiles import MeasuredQuantity, Profile, calibrated_chip, format_profile, parse_profile
from autoshard.cost.slices import Slice, parse_slice
from autoshard.errors import CalibrationError
from autoshard.tune_options import LOCAL


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found.

    Attributes:
        slice_: The slice, with the table's chip.
        probes: What was run.
        samples: What each of them took.
        findings: The numbers that follow.
        profile: The same as a chip profile.
    """

    slice_: Slice
    probes: tuple[Probe, ...]
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...]
    profile: Profile

    @property
    def calibrated(self) -> Slice:
        """The slice with the chip that was measured."""
        return dataclasses.replace(self.slice_, chip=calibrated_chip(self.profile, "calibration"))


def calibrate(
    slice: str = LOCAL,
    *,
    rounds: int = ROUNDS,
    sizes: Sizes | None = None,
    loop_seconds: float = 0.02,
    on_step: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure the numbers of the chip of a slice.

    Args:
        slice: ``"local"`` for the attached devices, or ``"cpu:N"`` for N virtual CPU devices of this host.
        rounds: How often each operation is timed; the median counts.
        sizes: How large the operations are; those that suit the chip when left out.
        loop_seconds: How long each is repeated for one timing.
        on_step: Told each step.

    Raises:
        CalibrationError: The slice is not here, or what was measured makes no sense.
        SliceError: The slice does not exist.
    """
    slice_ = _slice_to_measure(slice)
    probes = probes_for(slice_, sizes)
    request = Request(probes=probes, rounds=rounds, loop_seconds=loop_seconds)
    if slice == LOCAL:
        answer = measure(request, on_step)
    else:
        answer = measure_cpu_devices(request, slice_.n_chips, on_step)
    found = tuple(findings(slice_, probes, answer.samples, answer.host_cores))
    return Calibration(slice_, probes, answer.samples, found, _profile(slice_, found, answer))


def _slice_to_measure(text: str) -> Slice:
    if text != LOCAL:
        slice_ = parse_slice(text)
        if slice_.chip.kind != "cpu":
            raise CalibrationError(
                f"{slice_.name} cannot be measured from here: expected `local`, run on the slice itself, or "
                "`cpu:N` for N CPU devices of this host"
            )
        return slice_
    import jax

    from autoshard.attached import attached_slice

    if jax.process_count() > 1:
        raise CalibrationError(
            "the attached devices belong to several hosts: calibrate on a slice of one host, the numbers of "
            "a chip are the same"
        )
    slice_ = attached_slice()
    if slice_.chip.devices_per_chip > 1:
        raise CalibrationError(
            f"a {slice_.chip.name} chip shows itself as {slice_.chip.devices_per_chip} devices, which cannot "
            "be measured yet: use the numbers of the table"
        )
    return slice_


def _profile(slice_: Slice, found: Sequence[Finding], answer: Answer) -> Profile:
    known = slice_.chip.quantities
    profile = Profile(
        chip=slice_.chip.name,
        slice=slice_.name,
        device_kind=answer.device_kind,
        quantities={
            each.name: MeasuredQuantity(value=each.value, unit=known[each.name].unit, how=each.how)
            for each in found
        },
        versions={"autoshard": autoshard.__version__, **answer.versions},
    )
    if not found:
        problems = sorted({sample.problem for sample in answer.samples if sample.problem})
        raise CalibrationError(f"{slice_.name}: nothing could be measured: {'; '.join(problems)}")
    return parse_profile(format_profile(profile), "the measured profile")  # as a file would hold it
