"""A candidate program as bytes, so that a child process can compile or time it without the user's modules.

A plan is judged by compiling the function under it, and compilers and devices are used in child processes:
a crash then costs one candidate. What crosses the border is a `jax.export` module (StableHLO with its
shardings) of a *flat* function: leaves in, leaves out. Pytrees do not cross, so a model's own node types
need not be importable in the child.

Source: https://docs.jax.dev/en/latest/export/export.html. Serialisation needs the package `flatbuffers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

from autoshard.cost.torus import MeshAxis
from autoshard.errors import CompileError
from autoshard.specs import format_spec, normalise

if TYPE_CHECKING:
    import jax

_CUSTOM_CALL_TARGET = re.compile(r"custom_call\s+@([\w.$]+)|call_target_name\s*=\s*\"([^\"]+)\"")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate, ready to be sent to a child process.

    Attributes:
        serialised: the `jax.export` module of the flat function.
        donated: indices of the flat arguments whose buffers the program may reuse.
        mesh_axes: axes of the mesh which the shardings name, outermost first; empty for an unsharded program.
        platform: `tpu`, `cpu`, `cuda` or `rocm`, the one platform that the module was lowered for.
        argument_paths: path of every flat argument, for messages.
        result_paths: path of every flat result, for messages.
        enable_x64: whether the function was traced with 64-bit types.
        compiler_options: options of the TPU compiler that belong to it; elsewhere they do nothing.
        as_written: whether all arrays lie in memory in the order of their dims, so that the compiler has none
            to choose.
    """

    serialised: bytes
    donated: tuple[int, ...]
    mesh_axes: tuple[MeshAxis, ...]
    platform: str
    argument_paths: tuple[str, ...]
    result_paths: tuple[str, ...]
    enable_x64: bool = False
    compiler_options: dict[str, str] = {}
    as_written: bool = False


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program on a mesh of real or described devices.

    Attributes:
        jitted: takes and returns flat arrays; donates what the program donates. Lower it with `*arguments`.
        arguments: shape, dtype and sharding of every flat argument.
        result_shardings: sharding of every flat result, None where the program leaves the choice to the
            compiler.
    """

    jitted: Any
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    result_shardings: tuple[jax.sharding.Sharding | None, ...]


def abstract_mesh(mesh_axes: Sequence[MeshAxis]) -> jax.sharding.AbstractMesh:
    """Return the device-free mesh over which a candidate's shardings are written."""
    from jax.sharding import AbstractMesh, AxisType

    sizes = tuple(axis.size for axis in mesh_axes)
    names = tuple(axis.name for axis in mesh_axes)
    return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def export_program(
    function: Callable[..., Any],
    abstract_args: Sequence[Any],
    abstract_kwargs: Mapping[str, Any] | None = None,
    *,
    platform: str,
    donate: Collection[int] = (),
    mesh_axes: Sequence[MeshAxis] = (),
    out_shardings: Any = None,
) -> Program:
    """Lower a function for one platform and serialise it.

    Args:
        function: what to run, jitted or not; constraints inside it name the axes of
            `abstract_mesh(mesh_axes)`.
        abstract_args: positional arguments, pytrees of `jax.ShapeDtypeStruct`. A leaf's `sharding`, a
            `NamedSharding` over `abstract_mesh(mesh_axes)`, is the argument's sharding; a leaf without one is
            replicated.
        abstract_kwargs: keyword arguments, likewise.
        platform: `tpu`, `cpu`, `cuda` or `rocm`.
        donate: indices of the donated arguments in the flat order of `jax.tree.leaves((args, kwargs))`.
        mesh_axes: the mesh; empty for an unsharded program.
        out_shardings: pytree of `NamedSharding` with the structure of the result, or one sharding for all;
            None leaves the choice to the compiler.

    Raises:
        CompileError: `flatbuffers` is not installed, or the function holds code that `jax.export` cannot
            serialise.
    """
    import jax

    _require_flatbuffers()
    flat, treedef = jax.tree.flatten_with_path((tuple(abstract_args), dict(abstract_kwargs or {})))
    leaves = [leaf for _, leaf in flat]
    flat_shardings = _flat_shardings(out_shardings)
    result_paths: list[str] = []

    def flat_function(*arrays: Any) -> list[Any]:
        args, kwargs = jax.tree.unflatten(treedef, arrays)
        result = jax.tree.leaves_with_path(function(*args, **kwargs))
        _check_shardings(flat_shardings, len(result))
        result_paths[:] = [jax.tree_util.keystr(path) for path, _ in result]
        return [array for _, array in result]

    options = {
        "in_shardings": [getattr(leaf, "sharding", None) for leaf in leaves],
        "out_shardings": flat_shardings,
        "donate_argnums": tuple(sorted(donate)),
    }
    return Program(
        serialised=_serialise(_without_debugging(flat_function, leaves, options), leaves, platform),
        donated=tuple(sorted(donate)),
        mesh_axes=tuple(mesh_axes),
        platform=platform,
        argument_paths=tuple(argument_path(path) for path, _ in flat),
        result_paths=tuple(result_paths),
        enable_x64=bool(jax.config.read("jax_enable_x64")),
    )


def _without_debugging(
    flat_function: Callable[..., list[Any]], leaves: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Jit a flat function without what only prints or inspects: Python cannot cross the border."""
    import jax
    from jax.extend.core import jaxpr_as_fun

    from autoshard.callbacks import without_debugging

    jitted = jax.jit(flat_function, **options)
    closed = jitted.trace(*leaves).jaxpr
    pruned = without_debugging(closed)
    return jitted if pruned is closed else jax.jit(jaxpr_as_fun(pruned), **options)


def load(program: Program, mesh: jax.sharding.Mesh, *, choose_layouts: bool = False) -> LoadedProgram:
    """Put a serialised program on a mesh.

    Args:
        program: what `export_program` returned.
        mesh: devices with the names and sizes of the program's mesh axes; one device for an unsharded
            program.
        choose_layouts: leave the memory layout of arguments and results to the compiler, unless the program
            wants the order in which their dims are written. A stored tensor that the program reads in another
            order is else copied in every step.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    exported = jax.export.deserialize(bytearray(program.serialised))
    replicated = NamedSharding(mesh, PartitionSpec())
    result_shardings = tuple(exported.out_shardings_jax(mesh))

    def call_flat(*arrays: Any) -> list[Any]:
        return list(exported.call(*arrays))

    arguments = tuple(
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding or replicated)
        for aval, sharding in zip(exported.in_avals, exported.in_shardings_jax(mesh), strict=True)
    )
    placed: dict[str, Any] = {"out_shardings": list(result_shardings)}
    if choose_layouts and not program.as_written:
        placed = {
            "in_shardings": [_any_layout(argument.sharding) for argument in arguments],
            "out_shardings": [_any_layout(sharding or replicated) for sharding in result_shardings],
        }
        arguments = tuple(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arguments)
    jitted = jax.jit(call_flat, donate_argnums=program.donated, **placed)
    return LoadedProgram(jitted, arguments, result_shardings)


def _any_layout(sharding: Any) -> Any:
    from jax.experimental.layout import Format, Layout

    return Format(Layout.AUTO, sharding)


def chosen_orders(formats: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Return for each array of a compiled program its dims in memory order, none where it is unused."""
    return tuple(() if each.layout is None else tuple(each.layout.major_to_minor) for each in formats)


def argument_specs(compiled: Any, arguments: Sequence[jax.ShapeDtypeStruct]) -> tuple[str, ...]:
    """Return the sharding that a compiled flat program expects of each argument, as specs of plan files.

    A sharding that no `PartitionSpec` expresses is given as its own text.
    """
    shardings = compiled.input_shardings[0]
    return tuple(
        _spec_text(sharding, len(argument.shape))
        for sharding, argument in zip(shardings, arguments, strict=True)
    )


def argument_path(path: Sequence[Any]) -> str:
    """Return the path of a leaf of `(args, kwargs)` as text: `0['w']`, or `cache[0]` for a keyword."""
    import jax

    _, name, *rest = path
    return f"{getattr(name, 'idx', getattr(name, 'key', name))}{jax.tree_util.keystr(tuple(rest))}"


def _spec_text(sharding: Any, rank: int) -> str:
    spec = getattr(sharding, "spec", None)
    return str(sharding) if spec is None else format_spec(normalise(spec, rank))


def _flat_shardings(out_shardings: Any) -> Any:
    import jax
    from jax.sharding import Sharding

    if out_shardings is None or isinstance(out_shardings, Sharding):
        return out_shardings
    return jax.tree.leaves(out_shardings, is_leaf=lambda node: node is None or isinstance(node, Sharding))


def _check_shardings(flat_shardings: Any, expected: int) -> None:
    if isinstance(flat_shardings, list) and len(flat_shardings) != expected:
        raise CompileError(
            f"`out_shardings` has {len(flat_shardings)} leaves, but the function returns {expected} arrays: "
            "give one sharding (or None) for every array of the result."
        )


def _serialise(jitted: Any, leaves: Sequence[Any], platform: str) -> bytes:
    import jax

    try:
        return bytes(jax.export.export(jitted, platforms=[platform])(*leaves).serialize())
    except (ValueError, NotImplementedError) as error:
        checks = _named_custom_calls(str(error))
        if not checks:
            raise CompileError(
                f"The function cannot be exported for {platform}: {error}. Take out what only Python can do "
                "(callbacks), or choose `refine='none'`."
            ) from error
        # The compatibility promise concerns modules kept for months; these live for minutes, under one JAX.
        exported = jax.export.export(jitted, platforms=[platform], disabled_checks=checks)
        return bytes(exported(*leaves).serialize())


def _named_custom_calls(message: str) -> list[Any]:
    import jax

    if "no compatibility guarantees" not in message.replace("\n", " "):
        return []
    targets = {first or second for first, second in _CUSTOM_CALL_TARGET.findall(message)}
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in sorted(targets)]


def _require_flatbuffers() -> None:
    if find_spec("flatbuffers") is None:
        raise CompileError(
            "Candidates reach child processes by `jax.export`, which needs the package `flatbuffers`: "
            "run `pip install flatbuffers`, or choose `refine='none'`."
        )
