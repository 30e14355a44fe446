"""Calibration: what is run, what follows from the times, and how a profile reaches a plan."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.calibration import calibrate as module
from autoshard.calibration import text
from autoshard.calibration.bench import Request, Sample, describe, measure
from autoshard.calibration.calibrate import Calibration, calibrate
from autoshard.calibration.calibrated import ENVIRONMENT, calibrated_slice, numbers_label
from autoshard.calibration.fit import findings, model_seconds, relative_fit
from autoshard.calibration.probes import Probe, Sizes, groups_of, probes_for
from autoshard.cli import main
from autoshard.cost.chips import Chip, chip
from autoshard.cost.profiles import MeasuredQuantity, Profile, load_profile, save_profile
from autoshard.cost.slices import Slice, parse_slice
from autoshard.errors import CalibrationError, ProfileError

TINY = Sizes(
    matmul=(8, 16),
    weights=32,
    weights_dtype="float32",
    stream_bytes=(2**10, 2**12),
    activation_bytes=(2**10, 2**12),
    kernel=4,
    collective_bytes=(2**12,),
)
CPU_NUMBERS = {
    "collective_base_seconds",
    "hbm_bytes_per_second",
    "hbm_streaming_fraction",
    "hop_seconds",
    "kernel_seconds",
    "link_bytes_per_second",
    "mxu_fraction",
    "on_chip_bandwidth_ratio",
    "on_chip_bytes",
    "peak_flops_per_second.bfloat16",
    "peak_flops_per_second.float32",
    "vector_elements_per_second",
}


# ---- what is run


def test_groups_behind_a_switch_have_every_size_that_divides_the_slice() -> None:
    groups = [(mesh.shape, axes) for mesh, axes in groups_of(parse_slice("cpu:8"))]
    assert groups == [((8,), (0,)), ((2, 4), (1,)), ((4, 2), (1,))]


def test_groups_on_a_torus_are_its_dims_and_all_of_it() -> None:
    assert [axes for _, axes in groups_of(parse_slice("v4:4x4x4"))] == [(0,), (1,), (2,), (0, 1, 2)]
    assert [axes for _, axes in groups_of(parse_slice("v5e:4x4"))] == [(0,), (1,), (0, 1)]


def test_one_chip_has_no_collectives() -> None:
    assert {probe.operation for probe in probes_for(parse_slice("cpu:1"), TINY)} == {
        "matmul",
        "weights",
        "stream",
        "activation",
        "kernel",
    }


def test_every_dtype_of_the_chip_is_multiplied_in() -> None:
    found = {probe.dtype for probe in probes_for(parse_slice("v5e:4x4")) if probe.operation == "matmul"}
    assert found == {"bfloat16", "int8", "float32"}


@pytest.mark.parametrize("name", ["cpu:8", "cpu:6", "v5e:4x4", "v4:2x2x4"])
def test_matrices_of_collectives_divide_among_the_group_both_ways(name: str) -> None:
    for probe in probes_for(parse_slice(name)):
        if probe.operation == "collective":
            columns = probe.nbytes / 4 / probe.rows
            assert probe.rows % probe.group == 0
            assert columns % probe.group == 0


def test_flops_and_bytes_of_a_probe() -> None:
    matmul = Probe(operation="weights", dtype="bfloat16", rows=8, size=64)
    assert matmul.flops == 2 * 8 * 64 * 64
    assert matmul.touched_bytes == 2 * 64 * 64
    assert Probe(operation="stream", nbytes=1024).touched_bytes == 2048


# ---- what follows from the times


def test_a_fit_finds_what_made_the_times_and_nothing_negative() -> None:
    sizes = np.array([1.0, 10.0, 1e6])
    columns = np.stack([np.ones(3), sizes], axis=1)
    assert relative_fit(columns, 3e-6 + 2e-9 * sizes) == pytest.approx([3e-6, 2e-9])
    assert relative_fit(columns, 1e-12 * sizes) == pytest.approx([0.0, 1e-12], abs=1e-15)


def test_half_and_double_count_alike_in_a_fit() -> None:
    assert relative_fit(np.ones((2, 1)), np.array([1.0, 4.0])) == pytest.approx([2.0], rel=1e-3)


def timed_by(slice_: Slice, probe: Probe) -> float:
    """What a probe takes on a chip that behaves as the model says."""
    known = slice_.chip
    seconds = model_seconds(slice_, probe)
    if probe.operation == "weights":
        rate = known.hbm_bytes_per_second * known.hbm_streaming_fraction
        compute_seconds = probe.flops / (known.peak(probe.dtype) * known.mxu_fraction)
        return probe.touched_bytes / rate + known.serial_fraction * compute_seconds
    return 1.0 if seconds is None else seconds


def found_on(slice_: Slice, host_cores: int = 8) -> dict[str, float]:
    """The findings of a calibration of that chip that starts from the table's."""
    table = dataclasses.replace(slice_, chip=chip(slice_.chip.name))
    probes = probes_for(table)
    samples = [Sample(seconds=timed_by(slice_, probe)) for probe in probes]
    return {finding.name: finding.value for finding in findings(table, probes, samples, host_cores)}


def test_the_numbers_of_cpu_devices_are_found() -> None:
    values = {
        "peak_float32": 2e10,
        "peak_bfloat16": 1e10,
        "hbm_bytes_per_second": 4e9,
        "hbm_streaming_fraction": 0.5,
        "on_chip_bandwidth_ratio": 10.0,
        "on_chip_bytes": 4 * 2.0**20,
        "vector_elements_per_second": 5e8,
        "kernel_seconds": 2e-6,
        "collective_base_seconds": 5e-5,
        "link_bytes_per_second": 1e9,
        "hop_seconds": 3e-5,
    }
    known = chip("cpu").with_values("assumed", "test", **values)
    found = found_on(Slice(known, (8,)))
    assert set(found) == CPU_NUMBERS
    assert found["peak_flops_per_second.float32"] == pytest.approx(2e10)
    assert found["peak_flops_per_second.bfloat16"] == pytest.approx(1e10)
    assert found["mxu_fraction"] == 1.0
    rate = found["hbm_bytes_per_second"] * found["hbm_streaming_fraction"]
    assert rate == pytest.approx(2e9)
    assert rate * found["on_chip_bandwidth_ratio"] == pytest.approx(2e10)
    assert found["on_chip_bytes"] == 4 * 2.0**20
    assert found_on(Slice(known, (8,)), host_cores=2)["on_chip_bytes"] == 2.0**20
    assert found_on(Slice(known, (8,)), host_cores=64)["on_chip_bytes"] == 4 * 2.0**20
    for name in ("vector_elements_per_second", "kernel_seconds", "link_bytes_per_second"):
        assert found[name] == pytest.approx(values[name])
    latency = found["collective_base_seconds"] + found["hop_seconds"]
    assert latency == pytest.approx(8e-5)


def test_what_a_tpu_reaches_is_a_share_of_what_is_specified() -> None:
    known = chip("v5e").with_values(
        "assumed",
        "test",
        mxu_fraction=0.8,
        hbm_streaming_fraction=0.7,
        collective_base_seconds=2e-6,
        hop_seconds=1e-6,
        link_bytes_per_second=40e9,
    )
    found = found_on(Slice(known, (4, 4)))
    assert not any(name.startswith("peak") for name in found)
    assert "hbm_bytes_per_second" not in found
    assert found["mxu_fraction"] == pytest.approx(0.8)
    assert found["hbm_streaming_fraction"] == pytest.approx(0.7, rel=0.02)
    assert found["collective_base_seconds"] == pytest.approx(2e-6)
    assert found["hop_seconds"] == pytest.approx(1e-6)
    assert found["link_bytes_per_second"] == pytest.approx(40e9)


def test_operations_that_did_not_run_are_left_out() -> None:
    slice_ = parse_slice("cpu:8")
    probes = probes_for(slice_, TINY)
    lost = [Sample(seconds=None, problem="no such dtype")] * len(probes)
    assert findings(slice_, probes, lost, 2) == []
    only = [
        Sample(seconds=1e-6) if probe.operation == "kernel" else sample
        for probe, sample in zip(probes, lost, strict=True)
    ]
    assert [finding.name for finding in findings(slice_, probes, only, 2)] == ["kernel_seconds"]


# ---- on devices


def test_every_operation_runs_on_all_devices() -> None:
    slice_ = parse_slice(f"cpu:{jax.device_count()}")
    probes = [p for p in probes_for(slice_, TINY) if p.operation != "collective" or p.group == 4]
    steps: list[str] = []
    answer = measure(Request(probes=tuple(probes), rounds=1, loop_seconds=1e-4), steps.append)
    assert answer.device_count == jax.device_count()
    assert len(answer.samples) == len(probes)
    assert {sample.problem for sample in answer.samples} <= {"", "lost in the noise of the machine"}
    assert all(sample.seconds is None or sample.seconds > 0 for sample in answer.samples)
    assert steps[0] == f"1 of {len(probes)}: bfloat16 matmul 8x8x8"
    assert steps[-1] == "round 1 of 1"


def test_an_operation_that_the_devices_cannot_do_says_why() -> None:
    impossible = Probe(operation="matmul", dtype="float99", rows=8, size=8)
    (sample,) = measure(Request(probes=(impossible,), rounds=1), lambda _: None).samples
    assert sample.seconds is None
    assert "float99" in sample.problem


def test_cpu_devices_are_measured_in_a_child_and_give_a_profile(tmp_path: Path) -> None:
    found = calibrate("cpu:2", rounds=3, sizes=TINY, loop_seconds=1e-3)
    assert found.profile.slice == "cpu:2"
    assert set(found.profile.versions) == {"autoshard", "jax", "jaxlib"}
    assert set(found.profile.quantities) <= CPU_NUMBERS
    save_profile(found.profile, tmp_path / "cpu.json")
    assert load_profile(tmp_path / "cpu.json").quantities.keys() == chip("cpu").quantities.keys()


@pytest.mark.parametrize("name", ["v4:4x4x4", "h100:8"])
def test_a_slice_that_is_not_here_cannot_be_measured(name: str) -> None:
    with pytest.raises(CalibrationError, match=f"{name} cannot be measured from here: expected `local`"):
        calibrate(name)


# ---- the command


def calibration_of(slice_name: str) -> Calibration:
    """A calibration that found the table's numbers again, and one more."""
    slice_ = parse_slice(slice_name)
    probes = probes_for(slice_, TINY)
    samples = (Sample(seconds=None, problem="no such dtype"), *[Sample(seconds=1e-3)] * (len(probes) - 1))
    profile = Profile(
        chip="cpu",
        slice=slice_name,
        device_kind="cpu",
        quantities={
            "hbm_bytes_per_second": MeasuredQuantity(value=5e9, unit="byte/s", how="by hand"),
            "kernel_seconds": MeasuredQuantity(value=2e-6, unit="s", how="by hand"),
        },
    )
    return Calibration(slice_, probes, samples, (), profile)


def test_the_command_prints_what_was_found_against_the_table_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "calibrate", lambda name, **_: calibration_of(name))
    path = tmp_path / "cpu.json"
    assert main(["calibrate", "--slice", "cpu:8", "-o", str(path), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("hbm_bytes_per_second")]
    assert row.split() == [
        "hbm_bytes_per_second",
        "byte/s",
        "1e+10",
        "assumed",
        "5e+09",
        "0.50",
        "by",
        "hand",
    ]
    (row,) = [line for line in lines if line.startswith("kernel_seconds")]
    assert row.split()[2:6] == ["0", "assumed", "2e-06", "-"]
    (row,) = [line for line in lines if line.startswith("bfloat16 matmul 8x8x8")]
    assert row.endswith("no such dtype")
    assert lines[-1].startswith(f"profile written to {path}: ")
    assert load_profile(path).hbm_bytes_per_second == 5e9


def test_the_command_has_a_form_for_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "calibrate", lambda name, **_: calibration_of(name))
    assert main(["calibrate", "--slice", "cpu:8", "--format", "json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantities"] == {"hbm_bytes_per_second": 5e9, "kernel_seconds": 2e-6}
    assert found["table"] == {"hbm_bytes_per_second": 1e10, "kernel_seconds": 0.0}
    assert found["profile"] is None
    assert found["operations"][0]["problem"] == "no such dtype"


def test_ctrl_c_ends_the_command_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(name: str, **_: Any) -> Calibration:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "calibrate", interrupted)
    path = tmp_path / "cpu.json"
    assert main(["calibrate", "--slice", "cpu:8", "-o", str(path), "--quiet"]) == 130
    assert capsys.readouterr().err == "autoshard: interrupted: nothing was changed\n"
    assert not path.exists()


def test_every_operation_of_a_calibration_has_a_row() -> None:
    found = calibration_of("cpu:8")
    table = text.operations_text(found)
    assert all(describe(probe) in table for probe in found.probes)


# ---- what a profile does


def profile_file(folder: Path, **values: tuple[float, str]) -> str:
    path = folder / "mine.json"
    quantities = {n: MeasuredQuantity(value=v, unit=unit, how="by hand") for n, (v, unit) in values.items()}
    save_profile(Profile(chip="cpu", slice="cpu:8", device_kind="cpu", quantities=quantities), path)
    return str(path)


def test_a_profile_stands_in_for_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, slice_ = profile_file(tmp_path, mxu_fraction=(0.5, "1")), parse_slice("cpu:8")
    notes: list[str] = []
    assert calibrated_slice(slice_, None, notes.append) == slice_
    assert calibrated_slice(slice_, path, notes.append).chip.mxu_fraction == 0.5
    monkeypatch.setenv(ENVIRONMENT, path)
    assert calibrated_slice(slice_, None, notes.append).chip.mxu_fraction == 0.5
    assert len(notes) == 2
    assert all(note.startswith(f"chip numbers of {path} (1 measured, hash ") for note in notes)


def test_a_profile_of_another_chip_is_refused_or_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, slice_ = profile_file(tmp_path), parse_slice("v5e:4x4")
    with pytest.raises(ProfileError, match="describes chip cpu, and the slice is v5e:4x4"):
        calibrated_slice(slice_, path, print)
    monkeypatch.setenv(ENVIRONMENT, path)
    notes: list[str] = []
    assert calibrated_slice(slice_, None, notes.append) == slice_
    assert notes == [f"{ENVIRONMENT}={path} describes cpu: not used for v5e:4x4"]


def test_another_number_of_cpu_devices_is_worth_a_word(tmp_path: Path) -> None:
    notes: list[str] = []
    calibrated_slice(parse_slice("cpu:4"), profile_file(tmp_path), notes.append)
    assert "was measured on cpu:8" in notes[0]


def test_a_chip_with_other_numbers_has_a_label_of_its_own() -> None:
    table = chip("cpu")

    def changed(fraction: float) -> Chip:
        return table.with_values("measured", "test", mxu_fraction=fraction)

    assert numbers_label(table) == numbers_label(changed(1.0)) == ""
    assert len({numbers_label(table), numbers_label(changed(0.5)), numbers_label(changed(0.25))}) == 3


def test_a_plan_is_priced_with_the_profiles_numbers(tmp_path: Path) -> None:
    def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.einsum("be,ef->bf", x, w)

    shapes = [jax.ShapeDtypeStruct((512, 512), "float32")] * 2
    options: dict[str, Any] = {"slice": "cpu:8", "refine": "none", "mesh": "native"}
    path = profile_file(tmp_path, **{"peak_flops_per_second.float32": (5e9, "flop/s")})
    plain = autoshard.tune(matmul, *shapes, **options).predicted.compute_seconds
    slower = autoshard.tune(matmul, *shapes, profile=path, **options).predicted.compute_seconds
    assert plain == pytest.approx(2 * 512**3 / 8 / 5e10)
    assert slower == pytest.approx(10 * plain)


def test_an_unsound_profile_is_refused_before_anything_is_traced(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there is no such chip profile"):
        autoshard.tune(lambda x: 1 / 0, 1.0, slice="cpu:8", profile=tmp_path / "none.json")
