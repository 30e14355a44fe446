"""Audit a function as its author sharded it: where its collectives come from, without any plan.

What the author said counts: shardings of the abstract arguments, `in_shardings` and `out_shardings` of a
`jax.jit`, constraints in the model. All of it names one mesh, whose axes are laid on the slice
(`autoshard.audit.meshes`); JAX needs as many devices as it has, virtual CPU devices will do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any

import jax
import msgspec
from jax.sharding import AxisType

from autoshard.audit.attribution import Attributed, attributed
from autoshard.audit.attribution_source import short
from autoshard.audit.hints import Hints
from autoshard.audit.matching import grouped
from autoshard.audit.meshes import laid_out
from autoshard.audit.records import Audit, Compiled, in_order
from autoshard.audit.replicated import replicated
from autoshard.audit.shardings import Authored, authored_shardings, only_mesh
from autoshard.audit.worker import AuthoredAnswer, AuthoredRequest
from autoshard.compiled.hlo import parse_module
from autoshard.compiled.rematerialisation import rematerialised_in
from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.errors import CompileError, TraceError
from autoshard.jit_options import argument_options, bind_call
from autoshard.programs import Program, export_program
from autoshard.refinement import compile_limit_seconds
from autoshard.targets import Target, load_target
from autoshard.topology import compiler_environment, compiler_skip_reason
from autoshard.trace import Traced, trace
from autoshard.workers import run_jobs


def audit_authored(
    target_text: str,
    slice_text: str,
    *,
    inputs: str | None = None,
    mesh: dict[str, int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Audit:
    """Compile a function with its author's shardings, and attribute its collectives.

    Args:
        target_text: MODULE_OR_FILE:FUNCTION.
        slice_text: The slice, such as `v5e:2x4`.
        inputs: MODULE_OR_FILE:FUNCTION that returns the abstract arguments.
        mesh: Size of each mesh axis by name, outermost first: under it the model is traced, so that bare
            `PartitionSpec`s have a mesh. None takes the mesh of the author's shardings.
        say: Told which stage begins.

    Raises:
        OptionError: There is no mesh, several, or one of another size than the slice.
        CompileError: The program cannot be compiled here, or does not fit.
    """
    slice_ = parse_slice(slice_text)
    reason = compiler_skip_reason(slice_)
    if reason is not None:
        raise CompileError(f"`{slice_.name}` cannot be compiled for: {reason}")
    with _under(mesh):
        say(f"trace {target_text}")
        target = load_target(target_text, inputs)
        traced = _traced(target, mesh)
        call = bind_call(
            target.function, target.arguments, target.keywords, argument_options(target.jit_options)
        )
        authored = authored_shardings(traced, jax.tree.leaves(call.dynamic))
        sizes = only_mesh(traced.closed, authored, mesh)
        program = _export(call.run, call.dynamic, authored, sizes, slice_)
    say(f"compile for {slice_.name}")
    answer, log = _compiled(program, slice_, sizes, compile_limit_seconds(len(traced.equations.equations)))
    return _audit(target.name, slice_, sizes, program, answer, log, authored)


def _traced(target: Target, mesh: dict[str, int] | None) -> Traced:
    try:
        return trace(target.function, target.arguments, target.keywords, **target.jit_options)
    except TraceError as error:
        if mesh is not None or "mesh" not in str(error):
            raise
        raise TraceError(
            f"{error}\nA model with bare PartitionSpecs needs a mesh: give --mesh data=2,model=4, say"
        ) from error


def _under(mesh: dict[str, int] | None) -> AbstractContextManager[Any]:
    if mesh is None:
        return nullcontext()
    types = (AxisType.Auto,) * len(mesh)
    made: AbstractContextManager[Any] = jax.set_mesh(
        jax.make_mesh(tuple(mesh.values()), tuple(mesh), axis_types=types)
    )
    return made


def _export(
    run: Callable[..., Any], arguments: Any, authored: Authored, sizes: dict[str, int], slice_: Slice
) -> Program:
    leaves, tree = jax.tree.flatten(arguments)
    placed = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for leaf, sharding in zip(leaves, authored.arguments, strict=True)
    ]

    def flat(*arrays: Any) -> list[Any]:
        return jax.tree.leaves(run(*jax.tree.unflatten(tree, arrays)))

    return export_program(
        flat,
        placed,
        platform="tpu",
        donate=authored.donated,
        mesh_axes=laid_out(sizes, slice_),
        out_shardings=list(authored.results) if any(authored.results) else None,
    )


def _compiled(
    program: Program, slice_: Slice, sizes: dict[str, int], limit_seconds: float
) -> tuple[AuthoredAnswer, str]:
    request = AuthoredRequest(
        program=program, slice_name=slice_.name, names=tuple(sizes), sizes=tuple(sizes.values())
    )
    jobs = run_jobs(
        [request],
        module="autoshard.audit.worker",
        workers=1,
        time_limit_seconds=limit_seconds,
        environment=compiler_environment(),
    )
    with closing(jobs):  # Ctrl-C ends the child
        outcome = next(jobs)
    if outcome.status != "ok":
        raise CompileError(f"the function cannot be compiled for {slice_.name}: {outcome.detail}")
    return msgspec.msgpack.decode(outcome.answer, type=AuthoredAnswer), outcome.log


def _audit(
    name: str,
    slice_: Slice,
    sizes: dict[str, int],
    program: Program,
    answer: AuthoredAnswer,
    log: str,
    authored: Authored,
) -> Audit:
    module = parse_module(answer.text)
    mesh = TorusMesh(slice_, program.mesh_axes)
    timeline = estimate_timeline(module, mesh)
    hints = Hints(authored.traced.equations)
    found = [_named(each, sizes, program) for each in attributed(module, timeline.collectives)]
    rows = grouped((_compiled_at(each, hints) for each in found), "found")
    return Audit(
        function=name,
        slice=slice_.name,
        mesh=sizes,
        has_plan=False,
        rows=in_order(rows),
        rematerialised=replicated(rematerialised_in(log), module, mesh),
        unknown_loops=timeline.unknown_loops,
        seconds_estimated=timeline.seconds,
        notes=_notes(authored),
    )


def _named(found: Attributed, sizes: dict[str, int], program: Program) -> Attributed:
    """A collective with the author's axes for those of the torus; exact where it spans whole ones."""
    axes = tuple(name for name in sizes if name in found.axes)
    whole = all(
        sum(axis.name == name for axis in program.mesh_axes) == sum(each == name for each in found.axes)
        for name in axes
    )
    return replace(found, axes=axes, exact=found.exact and whole)


def _compiled_at(found: Attributed, hints: Hints) -> Compiled:
    line = short(found.stack[0]) if found.stack else ""
    return Compiled(found, None, found.op, line, hints=hints.beside(line, found.op))


def _notes(authored: Authored) -> tuple[str, ...]:
    free = [
        name for name, s in zip(authored.traced.argument_names, authored.arguments, strict=True) if s is None
    ]
    if not free:
        return ()
    shown = ", ".join(free[:5]) + (f" and {len(free) - 5} more" if len(free) > 5 else "")
    return (f"Without a sharding, so left to the compiler: {shown}.",)
