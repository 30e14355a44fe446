from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.compiled.hlo import parse_module
from autoshard.compiled.worker import CompileResult, compile_all, out_of_memory_bytes, result_of
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.topology import libtpu_available
from autoshard.workers import Outcome

needs_compiler = pytest.mark.skipif(
    not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu"
)

SLICE = parse_slice("v5e:2x4")
AXES = native_mesh(SLICE).axes
LAYERS, BATCH, MODEL, HIDDEN = 6, 64, 512, 2048


def mlp(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        up, down = pair
        return x + jax.nn.relu(x @ up) @ down, None

    return jax.lax.scan(layer, x, weights)[0]


def mlp_program(hidden_axes: Any, layers: int = LAYERS) -> Program:
    """`mlp` with the hidden dim sharded over some axes, everything else replicated."""
    mesh = abstract_mesh(AXES)

    def shaped(shape: tuple[int, ...], *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    up = shaped((layers, MODEL, HIDDEN), None, None, hidden_axes)
    down = shaped((layers, HIDDEN, MODEL), None, hidden_axes, None)
    x = shaped((BATCH, MODEL))
    return export_program(
        mlp, ((up, down), x), platform="tpu", donate=[2], mesh_axes=AXES, out_shardings=x.sharding
    )


@pytest.fixture(scope="module")
def results() -> list[CompileResult]:
    """One worker, four jobs: two shardings, one program too large for HBM, one that is no program."""
    sound = mlp_program(("x", "y"))
    broken = msgspec.structs.replace(sound, serialised=b"no program")
    programs = [sound, mlp_program(None, layers=10_000), broken, mlp_program("y")]
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSHARD_CACHE", "off")
        found = compile_all(
            programs, SLICE, time_limit_seconds=120, on_result=lambda i, _: seen.append(i), keep_text=True
        )
    assert seen == [0, 1, 2, 3]
    return found


@needs_compiler
def test_a_compiled_program_reports_what_the_compiler_says(results: list[CompileResult]) -> None:
    result = results[0]
    assert (result.status, result.detail) == ("ok", "")
    sharded_weights = 2 * LAYERS * MODEL * HIDDEN * 2 // 8
    assert result.argument_bytes == sharded_weights + BATCH * MODEL * 2
    assert result.hbm_bytes_per_chip is not None
    assert result.argument_bytes <= result.hbm_bytes_per_chip < 2 * result.argument_bytes
    assert result.argument_specs == (";;x,y", ";x,y;", ";")
    assert result.text is not None
    assert parse_module(result.text).n_partitions == 8


@needs_compiler
def test_the_one_reduction_per_layer_is_found_and_priced(results: list[CompileResult]) -> None:
    result = results[0]
    reductions = [each for each in result.collectives if each.kind == "all-reduce"]
    assert sum(each.trips for each in reductions) == LAYERS
    assert {(each.axes, each.exact) for each in reductions} == {(("x", "y"), True)}
    assert {each.bytes_per_chip for each in reductions} <= {BATCH * MODEL * 2, BATCH * MODEL * 4}
    assert result.seconds_estimated == pytest.approx(
        (result.compute_seconds or 0)
        + (result.filled_seconds or 0)
        + (result.exposed_collective_seconds or 0)
    )
    assert result.compute_seconds is not None
    assert result.compute_seconds > 2 * LAYERS * 2 * BATCH * MODEL * HIDDEN / 8 / SLICE.chip.peak("bfloat16")
    assert result.unknown_loops == ()


@needs_compiler
def test_fewer_chips_per_weight_take_more_hbm_and_more_compute(results: list[CompileResult]) -> None:
    over_eight, over_four = results[0], results[3]
    assert over_four.argument_bytes == 2 * LAYERS * MODEL * HIDDEN * 2 // 4 + BATCH * MODEL * 2
    assert (over_four.compute_seconds or 0) > (over_eight.compute_seconds or 0)
    assert {each.axes for each in over_four.collectives} == {("y",)}


@needs_compiler
def test_a_program_that_does_not_fit_reports_the_bytes_it_needs(results: list[CompileResult]) -> None:
    result = results[1]
    weights = 2 * 10_000 * MODEL * HIDDEN * 2
    assert result.status == "out of memory"
    assert result.hbm_bytes_per_chip == pytest.approx(weights, rel=0.05)
    assert "exceeds available HBM (15.75G)" in result.detail
    assert result.seconds_estimated is None


@needs_compiler
def test_a_program_that_cannot_be_read_fails_alone(results: list[CompileResult]) -> None:
    assert results[2].status == "failed"
    assert results[2].detail


@needs_compiler
def test_a_calibrated_chip_changes_the_estimate_and_nothing_reaches_the_terminal(
    results: list[CompileResult], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOSHARD_CACHE", "off")
    slow_chip = SLICE.chip.with_values("measured", "this test", clock_hz=SLICE.chip.clock_hz / 2)
    (slow,) = compile_all([mlp_program(("x", "y"))], Slice(slow_chip, SLICE.topology))
    assert slow.compute_seconds == pytest.approx(2 * (results[0].compute_seconds or 0))
    assert slow.exposed_collective_seconds == pytest.approx(results[0].exposed_collective_seconds)
    assert capfd.readouterr() == ("", "")


def test_a_slice_that_the_compiler_does_not_know_is_skipped_with_the_reason() -> None:
    program = mlp_program("y")
    given: list[tuple[int, str]] = []
    found = compile_all(
        [program, program], "h100:8", on_result=lambda i, result: given.append((i, result.status))
    )
    assert [result.status for result in found] == ["skipped", "skipped"]
    assert "not a TPU" in found[0].detail
    assert given == [(0, "skipped"), (1, "skipped")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("required for HLO temporaries (132.61G) exceeds available HBM (30.75G). HLO", round(132.61 * 2**30)),
        ("required for HLO temporaries (512.5M) exceeds available HBM (15.75G).", round(512.5 * 2**20)),
        ("INTERNAL: something else (3.0G)", None),
    ],
)
def test_out_of_memory_messages(message: str, expected: int | None) -> None:
    assert out_of_memory_bytes(message) == expected


def test_a_crash_and_its_last_words_are_in_the_result() -> None:
    log = "W spmd_partitioner.cc:675] [SPMD] Involuntary full rematerialization. ...\nFatal: no luck\n"
    outcome = Outcome(0, "crashed", b"", "the child process was ended by SIGABRT", log, "compiling")
    result = result_of(outcome, SLICE, AXES)
    assert (result.status, result.rematerialisations) == ("crashed", 1)
    assert "SIGABRT" in result.detail
    assert result.detail.endswith("Fatal: no luck")
