"""What an op costs under each of its strategies: compute against HBM, once, without collectives.

An einsum takes max(compute, memory) of its local part (Pope et al. section 2), and the share of the smaller
of the two that the compiler does not overlap (`serial_fraction` of the chip).  One that multiplies a single
row or column on each chip does not run on the matrix unit (`autoshard.cost.roofline`).  Elementwise chains
are fused by the compiler (`autoshard.search.kernels`): they are charged for the tensors that really exist,
once per kernel, not op by op.  The vector unit passes over the elements of what a kernel hands on, and over
those of what it reduces on the way:

    seconds = max(elements / vector_elements_per_second, bytes / bandwidth) + kernel_seconds

for each such pass, without the bytes where the passes of the whole kernel take longer than its bytes do; an
einsum is a kernel, too.  Work that is repeated by replicated chips is charged in full,
which is what makes replication lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshard.cost.chips import Chip
from autoshard.cost.layouts import Layouts, local_fraction
from autoshard.cost.roofline import einsum_seconds, matmul_seconds, stream_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.cost.traffic import traffic_seconds
from autoshard.search.candidates import Strategies, factor_shards, operand_layouts, result_layouts
from autoshard.search.graph import FactorKind, Graph, Op, OpKind
from autoshard.search.kernels import Kernels, fuses, views_stored

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OpCost:
    """Cost of one execution of an op under each of K strategies.

    Attributes:
        compute_seconds: [K] time of the matrix or vector unit.
        hbm_seconds: [K] time of HBM and on-chip traffic.
        flops_per_chip: [K] useful operations of one chip.
        launch_seconds: Time of starting its kernels.
        serial_fraction: Share of the smaller of compute and memory that does not proceed beside the larger.
    """

    compute_seconds: Floats
    hbm_seconds: Floats
    flops_per_chip: Floats
    launch_seconds: float = 0.0
    serial_fraction: float = 0.0

    @property
    def seconds(self) -> Floats:
        """[K] the larger of compute and memory, what of the other does not run beside it, the launch."""
        larger = np.maximum(self.compute_seconds, self.hbm_seconds)
        smaller = np.minimum(self.compute_seconds, self.hbm_seconds)
        return larger + self.serial_fraction * smaller + self.launch_seconds


def op_cost(op: Op, codes: Strategies, graph: Graph, mesh: TorusMesh, fused: Kernels) -> OpCost:
    """Price one op under each strategy.

    Args:
        op: The op.
        codes: [K, A] its strategies.
        graph: The graph it is of.
        mesh: The mesh.
        fused: `kernels(graph)`.
    """
    if op.kind is OpKind.EINSUM:
        return _einsum_cost(op, codes, graph, mesh)
    zero, launch_seconds = np.zeros(len(codes)), mesh.slice.chip.kernel_seconds
    if op.kind is OpKind.IDENTITY:
        return OpCost(zero, zero, zero)
    if op.kind is OpKind.UPDATE:
        return OpCost(zero, _update_seconds(op, codes, graph, mesh), zero, launch_seconds)
    moved = _moved_seconds(op, codes, graph, mesh, fused)
    if not fuses(op):
        return OpCost(zero, moved, zero, launch_seconds)
    if _is_vector_bound(op, mesh, fused):
        moved = zero
    passed = _passed_elements(op, codes, graph, mesh, fused)
    if passed is None:
        return OpCost(zero, moved, zero)
    return OpCost(passed / mesh.slice.chip.vector_elements_per_second, moved, zero, launch_seconds)


def _einsum_cost(op: Op, codes: Strategies, graph: Graph, mesh: TorusMesh) -> OpCost:
    chip = mesh.slice.chip
    shards = factor_shards(codes, len(op.factors), mesh)
    flops = op.flops / shards.prod(axis=1)
    seconds = np.zeros(len(codes))
    tensors = [
        *((value, operand_layouts(op, codes, i)) for i, value in enumerate(op.operands)),
        *((value, result_layouts(op, codes, i)) for i, value in enumerate(op.results)),
    ]
    for value, layouts in tensors:
        seconds += access_seconds(graph, value, layouts, mesh)
    dtype = max((graph.values[v].dtype for v in op.operands), key=lambda name: -chip.peak(name))
    compute = _compute_seconds(op, shards, dtype, chip)
    return OpCost(compute, seconds, flops, chip.kernel_seconds, chip.serial_fraction)


def _compute_seconds(op: Op, shards: npt.NDArray[np.int64], dtype: str, chip: Chip) -> Floats:
    """[K] time on whole blocks, of an einsum of two operands with what the matrix unit pads."""
    whole = np.array([factor.size for factor in op.factors], dtype=np.int64)
    local = -(-whole // shards)
    if len(op.operands) == 2 and op.primitive == "dot_general":
        return matmul_seconds(**_matmul_sizes(op, local), dtype=dtype, chip=chip)
    blocks: Floats = op.flops * (local / np.maximum(whole, 1)).prod(axis=1)
    return einsum_seconds(blocks, np.zeros(len(shards)), dtype, chip)[0]


def _matmul_sizes(op: Op, local: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """[K] each, an einsum of two operands as a batch of matmuls; `local` are the factors' sizes on a chip."""
    held = [{f for dim in dims for f in dim} for dims in op.operand_dims]
    sizes = {role: np.ones(len(local)) for role in ("batch", "m", "k", "n")}
    for index, factor in enumerate(op.factors):
        role = _role(factor.kind, index in held[0], index in held[1])
        sizes[role] = sizes[role] * local[:, index]
    return sizes


def _role(kind: FactorKind, left: bool, right: bool) -> str:
    """What a factor, held by the left or right operand or both, is to a matmul."""
    if kind is FactorKind.REDUCTION:
        return "k"
    if left and right:
        return "batch"
    return "m" if left else "n"


def access_seconds(graph: Graph, index: int, layouts: Layouts, mesh: TorusMesh) -> Floats:
    """Time to read or write a value once: stored values from HBM, others where they live."""
    value, chip = graph.values[index], mesh.slice.chip
    fraction = local_fraction(layouts, mesh, value.shape)
    if value.stored_bytes:
        return stream_seconds(value.stored_bytes * fraction, chip)
    return traffic_seconds(value.nbytes * fraction, chip)


def _update_seconds(op: Op, codes: Strategies, graph: Graph, mesh: TorusMesh) -> Floats:
    """Reading what is written into a large tensor, and writing it there."""
    position = len(op.operands) - 1 if op.primitive.startswith("scatter") else 1
    fraction = local_fraction(operand_layouts(op, codes, position), mesh)
    return 2 * stream_seconds(graph.values[op.operands[position]].nbytes * fraction, mesh.slice.chip)


def _moved_seconds(op: Op, codes: Strategies, graph: Graph, mesh: TorusMesh, fused: Kernels) -> Floats:
    """Reading and writing the operands and results that exist between fusions."""
    seconds = np.zeros(len(codes))
    for position, value in enumerate(op.results):
        known = graph.values[value]
        if fused.exists[value] and not known.free and not known.stored_bytes:
            seconds += access_seconds(graph, value, result_layouts(op, codes, position), mesh)
    if op.primitive in _SPARSE_READERS:
        return seconds * 2
    for position, value in enumerate(op.operands):
        known = graph.values[value]
        read = (op.index, position) in fused.first_reads or not fuses(op)
        if read and not known.free and not (known.stored_bytes and views_stored(op, graph)):
            seconds += access_seconds(graph, value, operand_layouts(op, codes, position), mesh)
    return seconds


def _is_vector_bound(op: Op, mesh: TorusMesh, fused: Kernels) -> bool:
    """Whether the vector unit takes longer over the kernel of an op than HBM does: it hides the traffic."""
    chip, kernel = mesh.slice.chip, fused.kernel[op.index]
    vector_seconds = fused.elements.get(kernel, 0.0) / chip.vector_elements_per_second
    return vector_seconds > stream_seconds(fused.nbytes.get(kernel, 0.0), chip)


def _passed_elements(
    op: Op, codes: Strategies, graph: Graph, mesh: TorusMesh, fused: Kernels
) -> Floats | None:
    """[K] elements of one chip that the vector unit passes over for an op that fuses; None for none."""
    if op.index in fused.reduced:
        return _local_elements(graph, op.operands[0], operand_layouts(op, codes, 0), mesh)
    if op.index in fused.handed_on:
        return _local_elements(graph, op.results[0], result_layouts(op, codes, 0), mesh)
    return None


def _local_elements(graph: Graph, index: int, layouts: Layouts, mesh: TorusMesh) -> Floats:
    shape = graph.values[index].shape
    return math.prod(shape) * local_fraction(layouts, mesh, shape)


_SPARSE_READERS = frozenset({"gather", "dynamic_slice", "slice"})
"""Ops that read only what they return."""
