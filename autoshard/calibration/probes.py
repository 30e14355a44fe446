"""The micro-benchmarks of a calibration: which operations, of which sizes, over which mesh axes.

Each isolates one term of the cost model: matmuls of growing size the matrix unit, a matmul of few rows the
weights that are streamed into it, a multiplication and an addition on growing arrays the memory, an
activation function on small ones the vector unit, a chain of tiny matmuls what a kernel costs at least, and
collectives of growing size over groups of growing size the interconnect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from autoshard.cost.collectives import Kind
from autoshard.cost.slices import Slice
from autoshard.cost.torus import MeshAxis, TorusMesh, mesh_factorisations, native_mesh

Operation = Literal["matmul", "weights", "stream", "activation", "kernel", "collective"]
COLLECTIVES = (Kind.ALL_GATHER, Kind.ALL_REDUCE, Kind.ALL_TO_ALL, Kind.COLLECTIVE_PERMUTE)
"""Those that every backend has: a reduce-scatter may be compiled as an all-reduce."""
ROUNDS = 7
"""How often each operation is timed."""
ITEM_BYTES = 4
"""Of the float32 that everything but matmuls works on."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, to be timed while every device does the same.

    Attributes:
        operation: What is done; a `collective` has its `kind`.
        dtype: In which dtype a matmul multiplies; everything else is float32.
        rows: Matmul: rows of the left operand. Collective: rows of the matrix that is moved.
        size: Matmul: rows and columns of the right operand.
        nbytes: Stream, activation: bytes of the array on a device. Collective: bytes per chip, as
            `autoshard.cost.collectives` counts them.
        kind: Which collective.
        mesh_axes: The mesh of a collective.
        axes: Indices of the mesh axes over which it runs.
    """

    operation: Operation
    dtype: str = "float32"
    rows: int = 0
    size: int = 0
    nbytes: int = 0
    kind: Kind | None = None
    mesh_axes: tuple[MeshAxis, ...] = ()
    axes: tuple[int, ...] = ()

    @property
    def flops(self) -> float:
        """Floating point operations of one device."""
        return 2.0 * self.rows * self.size**2

    @property
    def touched_bytes(self) -> float:
        """Bytes of memory that one device reads and writes: of a matmul its weights."""
        if self.operation in ("stream", "activation"):
            return 2.0 * self.nbytes
        item = {"bfloat16": 2, "float32": 4}.get(self.dtype, 1)
        return float(item * self.size**2)

    @property
    def group(self) -> int:
        """Chips that one collective joins."""
        return math.prod(self.mesh_axes[axis].size for axis in self.axes)


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How large the operations are.

    Attributes:
        matmul: Rows and columns of the square matmuls.
        weights: Rows and columns of the weights that are streamed into a matmul of few rows.
        weights_dtype: Their dtype.
        weights_rows: Those few rows.
        stream_bytes: Arrays that a multiplication and an addition stream through.
        activation_bytes: Arrays that an activation function is applied to.
        kernel: Rows and columns of the tiny matmuls.
        collective_bytes: Bytes per chip.
    """

    matmul: tuple[int, ...]
    weights: int
    weights_dtype: str
    weights_rows: int = 8
    stream_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    kernel: int = 16
    collective_bytes: tuple[int, ...]


HOST_SIZES = Sizes(
    matmul=(64, 128, 256, 512),
    weights=2048,
    weights_dtype="float32",
    stream_bytes=(2**16, 2**18, 2**20, 2**22, 2**26),
    activation_bytes=(2**14, 2**16, 2**18),
    collective_bytes=(2**12, 2**18, 2**22),
)
ACCELERATOR_SIZES = Sizes(
    matmul=(1024, 2048, 4096, 8192),
    weights=8192,
    weights_dtype="bfloat16",
    stream_bytes=(2**26, 2**28),
    activation_bytes=(2**26,),
    kernel=128,
    collective_bytes=(2**12, 2**18, 2**22, 2**26),
)


def sizes_for(slice_: Slice) -> Sizes:
    """The sizes that suit the chips of a slice."""
    return HOST_SIZES if slice_.chip.kind == "cpu" else ACCELERATOR_SIZES


def probes_for(slice_: Slice, sizes: Sizes | None = None) -> tuple[Probe, ...]:
    """All probes of a slice, in a fixed order.

    Args:
        slice_: What is measured.
        sizes: How large the operations are; those that suit the chip when left out.
    """
    sizes = sizes or sizes_for(slice_)
    matmuls = [
        Probe(operation="matmul", dtype=dtype, rows=size, size=size)
        for dtype in slice_.chip.peak_flops_per_second
        for size in sizes.matmul
    ]
    return (
        *matmuls,
        Probe(operation="weights", dtype=sizes.weights_dtype, rows=sizes.weights_rows, size=sizes.weights),
        *(Probe(operation="stream", nbytes=nbytes) for nbytes in sizes.stream_bytes),
        *(Probe(operation="activation", nbytes=nbytes) for nbytes in sizes.activation_bytes),
        Probe(operation="kernel", rows=sizes.kernel, size=sizes.kernel),
        *_collectives(slice_, sizes),
    )


def _collectives(slice_: Slice, sizes: Sizes) -> Iterator[Probe]:
    for mesh, axes in groups_of(slice_):
        group = math.prod(mesh.shape[axis] for axis in axes)
        for kind in COLLECTIVES:
            for nbytes in sizes.collective_bytes:
                rows, columns = _matrix(nbytes // ITEM_BYTES, group)
                yield Probe(
                    operation="collective",
                    rows=rows,
                    nbytes=ITEM_BYTES * rows * columns,
                    kind=kind,
                    mesh_axes=mesh.axes,
                    axes=axes,
                )


def _matrix(items: int, group: int) -> tuple[int, int]:
    """Rows and columns of a matrix of about so many items, each a multiple of the group."""
    rows = group * max(1, round(items**0.5) // group)
    return rows, group * max(1, items // (rows * group))


def groups_of(slice_: Slice) -> Iterator[tuple[TorusMesh, tuple[int, ...]]]:
    """The groups of chips that collectives are measured over: a mesh, and the axes of it that form a group.

    On a torus these are each dim, and all dims together; behind a switch groups of every size that divides
    the slice, on meshes of two axes.
    """
    native = native_mesh(slice_)
    if slice_.n_chips == 1:
        return
    if slice_.chip.wrap_rule != "switch" or slice_.num_slices > 1:
        yield from ((native, (axis,)) for axis in range(len(native.axes)))
        if len(native.axes) > 1:
            yield native, tuple(range(len(native.axes)))
        return
    for mesh in mesh_factorisations(slice_, max_axes=2):
        yield mesh, (len(mesh.axes) - 1,)
