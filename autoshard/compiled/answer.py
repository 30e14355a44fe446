"""What the TPU compiler says of one program: its schedule, its memory, its warnings. Facts, no estimates.

The answer depends on the program, the slice and the compiler alone; how fast a chip is plays no part. So it
can be kept on disk (`autoshard.compiled.cache`), and times are worked out from it anew with whatever chip
numbers hold by then.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from autoshard.compiled.largest_buffers import describe_buffers
from autoshard.cost.slices import parse_slice
from autoshard.errors import CompileError
from autoshard.programs import Program, argument_specs, chosen_orders, load
from autoshard.topology import mesh_for

_OUT_OF_MEMORY = "exceeds available HBM"
ANSWER_FORMAT = 2
"""To be raised when the fields below change or how a program is compiled: older answers are then dropped."""


class CompileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A program, and the name of the slice to compile it for."""

    program: Program
    slice_name: str


class CompilerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler says; bytes are per chip.

    Attributes:
        status: `ok`, or `out of memory`: the program does not fit HBM.
        detail: the compiler's message where the status is not `ok`.
        hbm_bytes_per_chip: peak HBM; with `out of memory`, what the program would have needed.
        argument_bytes: HBM of the arguments at rest.
        argument_specs: how the compiler expects each flat argument, as in plan files.
        argument_orders: dims of each flat argument in the order that the compiler chose for them in memory,
            outermost first.
        result_orders: the same of each flat result.
        text: the scheduled HLO.
        log: what the compiler wrote to its stderr meanwhile.
    """

    status: Literal["ok", "out of memory"]
    detail: str = ""
    hbm_bytes_per_chip: int
    argument_bytes: int | None = None
    argument_specs: tuple[str, ...] = ()
    argument_orders: tuple[tuple[int, ...], ...] = ()
    result_orders: tuple[tuple[int, ...], ...] = ()
    text: str = ""
    log: str = ""


def compile_program(request: CompileRequest) -> CompilerAnswer:
    """Compile one program in this process, which must run under `compiler_environment()`.

    Raises:
        CompileError: It does not fit HBM; the message is the compiler's, and names the largest buffers.
    """
    import jax

    jax.config.update("jax_enable_x64", request.program.enable_x64)
    mesh = mesh_for(parse_slice(request.slice_name), request.program.mesh_axes)
    loaded = load(request.program, mesh, choose_layouts=True)
    lowered = loaded.jitted.lower(*loaded.arguments)
    options = request.program.compiler_options
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if _OUT_OF_MEMORY not in str(error):
            raise
        buffers = describe_buffers(lowered, options)
        raise CompileError("; ".join(filter(None, (str(error).strip(), buffers)))) from error
    memory = compiled.memory_analysis()
    return CompilerAnswer(
        status="ok",
        hbm_bytes_per_chip=int(memory.peak_memory_in_bytes),
        argument_bytes=int(memory.argument_size_in_bytes),
        argument_specs=argument_specs(compiled, loaded.arguments),
        argument_orders=chosen_orders(compiled.input_formats[0]),
        result_orders=chosen_orders(compiled.output_formats),
        text=compiled.as_text(),
    )
