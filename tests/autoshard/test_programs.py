from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autoshard import programs
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis, native_mesh
from autoshard.errors import CompileError
from autoshard.programs import Program, abstract_mesh, argument_specs, export_program, load
from autoshard.topology import (
    arrange,
    chip_indices,
    compiler_environment,
    compiler_skip_reason,
    in_coordinate_order,
    mesh_of,
)

AXES = (MeshAxis("x", 2, 0, 1), MeshAxis("y", 4, 1, 1))


@partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"])
@dataclass
class Layer:
    w: Any
    b: Any
    name: str


def step(
    layer: Layer, x: jax.Array, *, cache: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    y = jnp.tanh(x @ layer.w + layer.b)
    return y, {"old": cache["old"] + y.sum()}


def shaped(shape: tuple[int, ...], *spec: Any) -> jax.ShapeDtypeStruct:
    sharding = NamedSharding(abstract_mesh(AXES), PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def exported() -> Program:
    layer = Layer(shaped((8, 16), "x", "y"), shaped((16,), "y"), "first")
    cache = {"old": shaped((4,))}
    replicated = NamedSharding(abstract_mesh(AXES), PartitionSpec())
    return export_program(
        step,
        (layer, shaped((4, 8), None, "x")),
        {"cache": cache},
        platform="cpu",
        donate=[3],
        mesh_axes=AXES,
        out_shardings=(shaped((4, 16), None, "y").sharding, {"old": replicated}),
    )


def cpu_mesh() -> jax.sharding.Mesh:
    return mesh_of(in_coordinate_order(jax.devices()[:8], (2, 4)), AXES)


def test_a_program_crosses_as_bytes_and_computes_the_same() -> None:
    program = msgspec.msgpack.decode(msgspec.msgpack.encode(exported()), type=Program)
    mesh = cpu_mesh()
    loaded = load(program, mesh)
    w, b, x, old = (
        np.random.default_rng(i).normal(size=a.shape).astype("float32")
        for i, a in enumerate(loaded.arguments)
    )
    placed = [
        jax.device_put(array, a.sharding) for array, a in zip([w, b, x, old], loaded.arguments, strict=True)
    ]
    y, new = loaded.jitted(*placed)
    expected = np.tanh(x @ w + b)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    np.testing.assert_allclose(new, old + expected.sum(), rtol=1e-4)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, "y")), 2)
    assert placed[3].is_deleted()  # donated
    assert not placed[0].is_deleted()


def test_a_program_knows_its_paths_and_its_shardings() -> None:
    program = exported()
    assert program.argument_paths == ("0.w", "0.b", "1", "cache['old']")
    assert program.result_paths == ("[0]", "[1]['old']")
    assert (program.donated, program.mesh_axes, program.platform) == ((3,), AXES, "cpu")
    loaded = load(program, cpu_mesh())
    compiled = loaded.jitted.lower(*loaded.arguments).compile()
    assert argument_specs(compiled, loaded.arguments) == ("x;y", "y", ";x", "")


def test_an_unsharded_program_runs_on_one_device() -> None:
    program = export_program(
        lambda key, x: jax.random.normal(key, x.shape) + x,
        (jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((3,), jnp.float32)),
        platform="cpu",
    )
    mesh = mesh_of(in_coordinate_order(jax.devices()[:1], ()), ())
    (got,) = load(program, mesh).jitted(jax.random.key(7), jnp.ones(3))
    np.testing.assert_allclose(got, jax.random.normal(jax.random.key(7), (3,)) + 1, rtol=1e-6)
    assert len(got.sharding.device_set) == 1


def test_a_function_is_run_once() -> None:
    runs = []

    def counted(x: Any) -> Any:
        runs.append(x)
        return {"b": x, "a": [2 * x]}

    program = export_program(counted, (shaped((8, 4), "x"),), platform="cpu", mesh_axes=AXES)
    assert len(runs) == 1
    assert program.result_paths == ("['a'][0]", "['b']")


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_prints_stays_behind(platform: str) -> None:
    """`jax.export` takes no calls to Python; shardings and donation cross all the same."""

    def noisy(x: Any) -> Any:
        jax.debug.print("{}", x, ordered=True)

        def layer(x: Any, _: Any) -> Any:
            jax.debug.callback(print, x)
            return 2 * x, None

        return jax.lax.scan(layer, x, None, length=3)[0]

    program = export_program(
        noisy,
        (shaped((8, 4), "x"),),
        platform=platform,
        donate=[0],
        mesh_axes=AXES,
        out_shardings=shaped((8, 4), "x").sharding,
    )
    assert program.result_paths == ("",)
    if platform == "cpu":
        loaded = load(program, cpu_mesh())
        x = jax.device_put(np.ones((8, 4), "float32"), loaded.arguments[0].sharding)
        (got,) = loaded.jitted(x)
        np.testing.assert_array_equal(got, np.full((8, 4), 8.0))
        assert got.sharding.is_equivalent_to(NamedSharding(cpu_mesh(), PartitionSpec("x")), 2)
        assert x.is_deleted()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_only_python_can_do_is_refused(platform: str) -> None:
    def host(x: Any) -> Any:
        return jax.pure_callback(np.sin, x, x)

    with pytest.raises(CompileError, match=rf"cannot be exported for {platform}: .*callbacks"):
        export_program(host, (jax.ShapeDtypeStruct((4,), jnp.float32),), platform=platform)


def test_without_flatbuffers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match="pip install flatbuffers"):
        exported()


def test_out_shardings_must_match_the_result() -> None:
    sharding = shaped((4,), "x").sharding
    with pytest.raises(CompileError, match="1 leaves, but the function returns 2"):
        export_program(
            lambda x: (x, x), (shaped((4,)),), platform="cpu", mesh_axes=AXES, out_shardings=[sharding]
        )


def test_a_custom_call_without_a_promise_is_exported_all_the_same() -> None:
    """`jax.export` refuses targets that it has no compatibility promise for; ours need none."""
    call = jax.ffi.ffi_call("someone_elses_kernel", jax.ShapeDtypeStruct((4,), jnp.float32))
    program = export_program(lambda x: call(x), (jax.ShapeDtypeStruct((4,), jnp.float32),), platform="cpu")
    assert b"someone_elses_kernel" in program.serialised


def test_axes_in_torus_order_keep_the_coordinate_order() -> None:
    axes = native_mesh(parse_slice("v4:2x2x4")).axes
    assert chip_indices(axes).ravel().tolist() == list(range(16))


def test_axes_in_another_order_and_split_axes_find_their_chips() -> None:
    """On a 2x4 torus chip (x, y) has index 4x + y; y is split into y0 (stride 2) and y1."""
    axes = (MeshAxis("y1", 2, 1, 1), MeshAxis("x", 2, 0, 1), MeshAxis("y0", 2, 1, 2))
    expected = [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert chip_indices(axes).tolist() == expected
    devices = np.array([f"chip {i}" for i in range(8)], dtype=object)
    assert arrange(devices, axes)[1, 0, 1] == "chip 3"


def test_slices_over_dcn_come_first() -> None:
    axes = (MeshAxis("x", 2, 0, 1), MeshAxis("dcn", 2, -1, 1))
    assert chip_indices(axes).tolist() == [[0, 2], [1, 3]]


@dataclass(frozen=True)
class FakeDevice:
    id: int
    coords: tuple[int, ...]
    slice_index: int
    core_on_chip: int = 0


def test_devices_are_sorted_by_slice_then_x_then_y() -> None:
    """TPU ids run x fastest; the array runs x slowest."""
    devices = [FakeDevice(i, (i % 2, i // 2 % 2, 0), i // 4) for i in range(8)]
    ordered = in_coordinate_order(devices[::-1], (2, 2, 2))
    assert [device.id for device in ordered.ravel()] == [0, 2, 1, 3, 4, 6, 5, 7]


def test_too_few_devices_are_an_error() -> None:
    with pytest.raises(CompileError, match="needs 8 devices, but there are 2"):
        in_coordinate_order(jax.devices()[:2], (2, 4))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("h100:8", "not a TPU"), ("tpu7x:2x2x1", "two devices per chip"), ("v3:2x2", "two devices per chip")],
)
def test_slices_that_the_compiler_cannot_judge_have_a_reason(name: str, reason: str) -> None:
    found = compiler_skip_reason(parse_slice(name))
    assert found is not None
    assert reason in found


def test_the_compiler_environment_keeps_processes_apart_and_quiet() -> None:
    environment = compiler_environment()
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert environment["TPU_LOG_DIR"] == "disabled"
