"""Compiles a program as its author sharded it, for the TPUs of a slice. Run as a module, this is a child.

Unlike a plan's program (`autoshard.compiled.worker`) it is compiled as `jax.jit` would: arguments lie in
memory as written, and a result or an argument that the author gave no sharding has the one that the
partitioner chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from autoshard.cost.slices import parse_slice
from autoshard.programs import Program
from autoshard.topology import aot_devices, arrange
from autoshard.workers import serve


class AuthoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A program, the slice, and the mesh of the program.

    Attributes:
        program: The program; its `mesh_axes` are those of the torus, in the order of the mesh.
        slice_name: The slice.
        names: Names of the author's axes, outermost first.
        sizes: Their sizes.
    """

    program: Program
    slice_name: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]


class AuthoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduled HLO, and the peak HBM of a chip in bytes."""

    text: str
    hbm_bytes_per_chip: int


def compile_authored(request: AuthoredRequest) -> AuthoredAnswer:
    """Compile one program in this process, which must run under `compiler_environment()`."""
    import jax

    jax.config.update("jax_enable_x64", request.program.enable_x64)
    exported = jax.export.deserialize(bytearray(request.program.serialised))
    mesh = _mesh(request)

    def call_flat(*arrays: Any) -> Any:
        return exported.call(*arrays)

    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
        for aval, sharding in zip(exported.in_avals, exported.in_shardings_jax(mesh), strict=True)
    ]
    jitted = jax.jit(
        call_flat,
        donate_argnums=request.program.donated,
        out_shardings=list(exported.out_shardings_jax(mesh)),
    )
    with jax.set_mesh(mesh):  # what no sharding says is compiled for its devices, too
        compiled = jitted.lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    return AuthoredAnswer(text=compiled.as_text() or "", hbm_bytes_per_chip=int(memory.peak_memory_in_bytes))


def _mesh(request: AuthoredRequest) -> Any:
    from jax.sharding import AxisType, Mesh

    devices = arrange(aot_devices(parse_slice(request.slice_name)), request.program.mesh_axes)
    types = (AxisType.Auto,) * len(request.names)
    return Mesh(devices.reshape(request.sizes), request.names, axis_types=types)


def _handle(request: AuthoredRequest, report: Callable[[str], None]) -> AuthoredAnswer:
    report("compiling")
    return compile_authored(request)


if __name__ == "__main__":
    serve(_handle, AuthoredRequest)
