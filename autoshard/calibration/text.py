"""What a calibration found, as tables for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from autoshard.calibration.bench import Sample, describe
from autoshard.calibration.calibrate import Calibration
from autoshard.calibration.fit import model_seconds
from autoshard.calibration.probes import Probe
from autoshard.cost.quantities import Quantity
from autoshard.text_table import align
from autoshard.units import format_seconds, three_digits


def to_text(calibration: Calibration) -> str:
    """Every operation with what it took and what the model says with the new numbers; then the numbers."""
    return f"{operations_text(calibration)}\n\n{findings_text(calibration)}"


def operations_text(calibration: Calibration) -> str:
    """A row per operation."""
    head = ("operation", "measured", "spread", "rate", "model")
    pairs = zip(calibration.probes, calibration.samples, strict=True)
    rows = [_operation_row(calibration, probe, sample) for probe, sample in pairs]
    return "\n".join(align([head, *rows], right=range(1, 5)))


def _operation_row(calibration: Calibration, probe: Probe, sample: Sample) -> tuple[str, ...]:
    if sample.seconds is None:
        return describe(probe), "-", "-", "-", sample.problem
    model = format_seconds(model_seconds(calibration.calibrated, probe))
    times = format_seconds(sample.seconds), format_seconds(sample.spread_seconds)
    return describe(probe), *times, _rate(probe, sample.seconds), model


def _rate(probe: Probe, seconds: float) -> str:
    if probe.operation in ("matmul", "kernel"):
        return f"{probe.flops / seconds:.3g} flop/s"
    nbytes = probe.nbytes if probe.operation == "collective" else probe.touched_bytes
    return f"{nbytes / seconds:.3g} byte/s"


def findings_text(calibration: Calibration) -> str:
    """A row per number: what was found against the table."""
    head = ("number", "unit", "table", "provenance", "measured", "measured/table", "from")
    rows = [(name, *_finding_row(calibration, name)) for name in calibration.profile.quantities]
    title = f"{calibration.slice_.name}: the numbers of chip {calibration.slice_.chip.name}"
    return "\n".join([title, "", *align([head, *rows], right=(2, 4, 5))])


def _finding_row(calibration: Calibration, name: str) -> Iterator[str]:
    known: Quantity = calibration.slice_.chip.source(name)
    found = calibration.profile.quantities[name]
    yield known.unit
    yield f"{known.value:.4g}"
    yield known.provenance
    yield f"{found.value:.4g}"
    yield three_digits(found.value / known.value) if known.value else "-"
    yield found.how


def to_json(calibration: Calibration, profile_path: str | None) -> str:
    """One object: the profile, where it was written, and the operations in seconds."""
    operations = [
        {
            "operation": describe(probe),
            "seconds": sample.seconds,
            "spread_seconds": sample.spread_seconds,
            "model_seconds": model_seconds(calibration.calibrated, probe),
            "problem": sample.problem,
        }
        for probe, sample in zip(calibration.probes, calibration.samples, strict=True)
    ]
    table = {name: calibration.slice_.chip.source(name).value for name in calibration.profile.quantities}
    found = {name: quantity.value for name, quantity in calibration.profile.quantities.items()}
    return json.dumps(
        {
            "slice": calibration.slice_.name,
            "chip": calibration.slice_.chip.name,
            "profile": profile_path,
            "quantities": found,
            "table": table,
            "operations": operations,
        },
        indent=2,
    )
