from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import autoshard
from autoshard.compiled import program_key as module
from autoshard.compiled.program_key import canonical_text, program_key, without_callers
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.refining import export_candidate
from autoshard.trace import trace

SLICE = parse_slice("v5e:2x4")
AXES = native_mesh(SLICE).axes


def scaled(factor: float, scope: str = "scale") -> Callable[[jax.Array], jax.Array]:
    def model(x: jax.Array) -> jax.Array:
        with jax.named_scope(scope):
            return jnp.tanh(x * factor)

    return model


def exported(model: Callable[[jax.Array], jax.Array], *spec: Any, donate: tuple[int, ...] = ()) -> Program:
    sharding = NamedSharding(abstract_mesh(AXES), PartitionSpec(*spec))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=sharding)
    return export_program(model, [x], platform="tpu", mesh_axes=AXES, donate=donate)


def another_caller(model: Callable[[jax.Array], jax.Array]) -> Program:
    return exported(model, "x")


def key(program: Program, slice_: Slice = SLICE) -> str:
    return program_key(program, slice_)


def test_who_asks_does_not_matter() -> None:
    one, two = exported(scaled(2.0), "x"), another_caller(scaled(2.0))
    assert one.serialised != two.serialised  # the callers stand in the locations
    assert key(one) == key(two)
    assert canonical_text(one) == canonical_text(two)
    assert len(key(one)) == 64


def step(weights: jax.Array, x: jax.Array) -> jax.Array:
    """The gradient of some layers under a scan, each of which adds to the loss."""

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(x @ w), jnp.sum(x)

    def loss(weights: jax.Array) -> jax.Array:
        last, sums = jax.lax.scan(layer, x, weights)
        return last.sum() + sums.sum()

    gradient: jax.Array = jax.grad(loss)(weights)
    return gradient


def test_what_was_traced_before_does_not_matter() -> None:
    """JAX keeps the functions that slice a loop's arrays, with the lines of the first such loop."""
    arguments = jax.ShapeDtypeStruct((3, 64, 64), "float32"), jax.ShapeDtypeStruct((16, 64), "float32")
    plan = autoshard.tune(step, *arguments, slice="v5e:2x2", refine="none", mesh="native", top_k=1)

    def unlike(weights: jax.Array, x: jax.Array) -> jax.Array:
        return step(weights, x)

    jax.clear_caches()
    alone = export_candidate(trace(step, arguments), plan, "tpu")
    jax.clear_caches()
    jax.jit(unlike).lower(*arguments)
    after = export_candidate(trace(step, arguments), plan, "tpu")
    texts = [str(jax.export.deserialize(bytearray(each.serialised)).mlir_module()) for each in (alone, after)]
    assert ["unlike" in text for text in texts] == [False, True]  # the other's lines are in the program
    assert canonical_text(alone) == canonical_text(after)
    assert program_key(alone, parse_slice("v5e:2x2")) == program_key(after, parse_slice("v5e:2x2"))


def looped(x: jax.Array) -> jax.Array:
    def body(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(carry + row), carry * row

    last, rows = jax.lax.scan(body, x[0], x)
    return rows + last


def test_the_lines_of_a_loops_body_matter() -> None:
    def shifted(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.tanh(carry + row), carry * row

        last, rows = jax.lax.scan(body, x[0], x)
        return rows + last

    assert key(exported(shifted, "x")) != key(exported(looped, "x"))


def test_every_part_of_a_program_matters() -> None:
    base = exported(scaled(2.0), "x")
    replaced = [
        msgspec.structs.replace(base, **change)
        for change in (
            {"donated": (0,)},
            {"enable_x64": True},
            {"platform": "cpu"},
            {"mesh_axes": AXES[::-1]},
            {"compiler_options": {"xla_a": "1"}},
            {"compiler_options": {"xla_a": "2"}},
        )
    ]
    programs = [base, *replaced, exported(scaled(3.0), "x"), exported(scaled(2.0), "y")]
    programs.append(exported(scaled(2.0, scope="other"), "x"))  # the name stands in the answer
    assert len({key(program) for program in programs}) == len(programs)


def test_the_order_of_options_does_not_matter() -> None:
    base = exported(scaled(2.0), "x")
    one = msgspec.structs.replace(base, compiler_options={"a": "1", "b": "2"})
    two = msgspec.structs.replace(base, compiler_options={"b": "2", "a": "1"})
    assert key(one) == key(two)


def test_the_slice_matters_and_its_chips_speed_does_not() -> None:
    program = exported(scaled(2.0), "x")
    slow = SLICE.chip.with_values("measured", "this test", clock_hz=SLICE.chip.clock_hz / 2)
    assert key(program, Slice(slow, SLICE.topology)) == key(program)
    slices = [SLICE, parse_slice("v6e:2x4"), parse_slice("v5e:4x4"), parse_slice("2*v5e:2x4")]
    assert len({key(program, each) for each in slices}) == 4


def test_the_compilers_versions_and_environment_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    program = exported(scaled(2.0), "x")
    keys = {key(program)}
    with monkeypatch.context() as patch:
        patch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_latency_hiding_scheduler=false")
        keys.add(key(program))
    with monkeypatch.context() as patch:
        patch.setattr(module, "version", lambda package: "99")
        keys.add(key(program))
    assert len(keys) == 3
    for name, value in (("EDITOR", "ed"), ("JAX_PLATFORMS", "tpu")):  # the compile's own platform is fixed
        monkeypatch.setenv(name, value)
        assert key(program) in keys


def test_a_program_that_cannot_be_printed_stands_for_itself() -> None:
    broken = msgspec.structs.replace(exported(scaled(2.0), "x"), serialised=b"no program")
    assert canonical_text(broken) == b"no program"


TEXT = """#loc1 = loc("x")
module @m {
  %0 = add %a, %a : tensor<2xf32> loc(#loc7)
  %1 = mul %0, %0 : tensor<2xf32> loc(#loc8)
  return %1 loc(#loc)
} loc(#loc)
#loc = loc(unknown)
#loc2 = loc("/home/me/model.py":LINE:4 to :9)
#loc3 = loc("OWN/refining.py":50:14 to 57:5)
#loc4 = loc("layer"(#loc2))
#loc5 = loc("export"(#loc3))
#loc6 = loc("main"("/home/me/SCRIPT.py":3:1 to :2))
#loc7 = loc("jit(f)/SCOPE"(#loc9))
#loc8 = loc("jit(f)/mul"(#loc10))
#loc9 = loc(callsite(#loc4 at #loc10))
#loc10 = loc(callsite(#loc5 at #loc6))
"""


def written(line: str = "12", scope: str = "add", script: str = "run") -> str:
    own = module._MACHINERY.strip('"/')
    text = TEXT.replace("LINE", line).replace("OWN", f"/{own}").replace("SCOPE", scope)
    return without_callers(text.replace("SCRIPT", script))


def test_locations_keep_names_and_the_models_lines_and_lose_the_callers() -> None:
    assert written(script="notebook") == written()
    assert written(line="13") != written()
    assert written(scope="sub") != written()
    assert "#loc" not in written()
    assert written().count("\n") == 5
    lines = [each.splitlines() for each in (written(), written(line="13"))]
    assert [a == b for a, b in zip(*lines, strict=True)] == [True, False, True, True, True]
