"""A plan: how every array of a function is sharded on a slice, and the evidence for it.

The public face of the plan file: what the file says field by field is in `plan_records` and
`verdict_records`, how it is read and written in `plan_file`. Nothing here imports JAX until a mesh or a
sharding is asked for, so that explaining a plan is quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from autoshard.coverage_records import Coverage
from autoshard.plan_file import load_record, save_record
from autoshard.plan_mesh import Device, build_mesh
from autoshard.plan_records import (
    ArgumentRecord,
    AxisRecord,
    EinsumRecord,
    FunctionRecord,
    FusionRecord,
    ResultRecord,
    SchemaRecord,
    StoredPaddingRecord,
    TensorRecord,
    TogetherRecord,
)
from autoshard.plan_shardings import shardings_tree
from autoshard.record import Record
from autoshard.verdict_records import CombinationRecord, Estimate, Measurement, Prediction, RunnerUp, Versions

if TYPE_CHECKING:
    import jax


class Plan(Record, frozen=True, kw_only=True, rename={"mesh_axes": "mesh"}):
    """How every array of a function is sharded on a slice, and the evidence for it.

    A plan is a value: it equals the plan that is loaded back from its file.

    Attributes:
        schema: form of the file that `save` writes.
        created_by: the program that wrote it.
        function: what was planned.
        slice: the slice, such as ``v4:4x4x4``.
        mesh_axes: the mesh axes, outermost first (`mesh` in the file).
        objective: what was minimised.
        compiler_options: options of the TPU compiler that belong to the plan (`autoshard.compiled.options`).
        pins: layouts that the user fixed (`autoshard.pin_text`).
        kept: shardings of the model that the plan keeps (`autoshard.kept_shardings`).
        forbidden: axes that the user forbade for dims (`autoshard.pin_text`).
        hbm_limit_bytes: HBM per chip that the user allowed; None where it is what a chip has.
        padding: ``never`` where the user forbade padding, else None.
        choices: the values of the function's choices (`autoshard.choices`) that the plan was made with.
        combinations: what the model says of every combination of choices that was tried, fastest first.
        together: the phases that were planned together with it; None for a plan by itself.
        arguments: the arrays of the positional arguments by path, in flat argument order.
        results: the arrays of the result by path, in flat order.
        einsums: the einsums in program order, copies of one in an unrolled program as one record.
        tensors: the constrained values that are no einsum, likewise.
        fusions: groups of einsums that would be faster as one by the model.
        stored_padding: arrays that the model should store padded; None where that gains nothing.
        predicted: what the analytical model says.
        estimated: what the real compiler says; None where it did not run.
        measured: what the devices say; None where they were not there.
        skipped: why a tier did not run, by tier (``estimated``, ``measured``).
        runners_up: the candidates that did not win, best first.
        versions: what the plan was made with.
        coverage: how much of the function was understood.
    """

    schema: SchemaRecord = SchemaRecord()
    created_by: str
    function: FunctionRecord
    slice: str
    mesh_axes: tuple[AxisRecord, ...]
    objective: str
    compiler_options: dict[str, str] = {}
    pins: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    hbm_limit_bytes: int | None = None
    padding: str | None = None
    choices: dict[str, str | int | bool | None] = {}
    combinations: tuple[CombinationRecord, ...] = ()
    together: TogetherRecord | None = None
    arguments: dict[str, ArgumentRecord]
    results: dict[str, ResultRecord]
    einsums: tuple[EinsumRecord, ...]
    tensors: tuple[TensorRecord, ...]
    fusions: tuple[FusionRecord, ...] = ()
    stored_padding: StoredPaddingRecord | None = None
    predicted: Prediction
    estimated: Estimate | None = None
    measured: Measurement | None = None
    skipped: dict[str, str] = {}
    runners_up: tuple[RunnerUp, ...] = ()
    versions: Versions
    coverage: Coverage

    @property
    def n_chips(self) -> int:
        """Number of chips of the mesh."""
        return prod(axis.size for axis in self.mesh_axes)

    @property
    def predicted_seconds(self) -> float:
        """Step time by the analytical model (tier 0), seconds."""
        return self.predicted.seconds

    @property
    def estimated_seconds(self) -> float | None:
        """Step time by the real compiler (tier 2), seconds; None where it did not run."""
        return None if self.estimated is None else self.estimated.seconds

    @property
    def measured_seconds(self) -> float | None:
        """Step time on the attached devices (tier 3), seconds; None where they were not there."""
        return None if self.measured is None else self.measured.seconds

    @property
    def hbm_bytes_per_chip(self) -> int:
        """Peak memory of a chip, bytes: the compiler's count where it ran, the model's elsewhere."""
        return (self.estimated or self.predicted).hbm_bytes_per_chip

    @property
    def gap(self) -> float:
        """Relative distance of the predicted step time to its proven lower bound; 0 is optimal."""
        return self.predicted.gap

    def mesh(self, devices: Sequence[Device] | None = None) -> jax.sharding.Mesh:
        """Return the mesh of the plan, with every device where the plan put it.

        Args:
            devices: the devices of the slice, in any order; all of `jax.devices()` when left out.

        Raises:
            PlanMismatchError: there are more or fewer devices than the plan has chips.
        """
        return build_mesh(self.mesh_axes, devices, slice_name=self.slice)

    def in_shardings(self, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, *, like: Any = None) -> Any:
        """Return the shardings of the arguments, a tuple over the positional ones as `jax.jit` takes it.

        Args:
            mesh: a mesh with the plan's axes, such as `plan.mesh()`.
            like: the tuple of positional arguments (arrays or `ShapeDtypeStruct`). Needed only where they
                hold containers that are not built in, which the plan file cannot rebuild.

        Returns:
            A pytree of `NamedSharding` with the structure of the arguments.

        Raises:
            PlanMismatchError: the mesh has other axes, or `like` has other arrays.
            PlanError: a container is not built in, and `like` is missing.
        """
        return shardings_tree(self.function.tree_in, self.arguments, self.mesh_axes, mesh, like=like)

    def out_shardings(self, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, *, like: Any = None) -> Any:
        """Return the shardings of the result, a pytree of `NamedSharding`; as `in_shardings` otherwise.

        Args:
            mesh: a mesh with the plan's axes, such as `plan.mesh()`.
            like: a result (arrays or `ShapeDtypeStruct`, as from `jax.eval_shape`).

        Raises:
            PlanMismatchError: the mesh has other axes, or `like` has other arrays.
            PlanError: a container is not built in, and `like` is missing.
        """
        return shardings_tree(self.function.tree_out, self.results, self.mesh_axes, mesh, like=like)

    def in_formats(self, mesh: jax.sharding.Mesh, *, like: Any = None) -> Any:
        """Return where the arguments lie, memory orders included: what to give to `jax.device_put`.

        A leaf is a `jax.experimental.layout.Format` where the plan has a memory order for the array and the
        mesh is of TPUs, else a `NamedSharding`. Arguments, result and errors are as of `in_shardings`.
        """
        tree = self.function.tree_in
        return shardings_tree(tree, self.arguments, self.mesh_axes, mesh, like=like, formats=True)

    def out_formats(self, mesh: jax.sharding.Mesh, *, like: Any = None) -> Any:
        """Return where the results lie, memory orders included; as `in_formats` otherwise."""
        tree = self.function.tree_out
        return shardings_tree(tree, self.results, self.mesh_axes, mesh, like=like, formats=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to `path`, replacing what was there in one step.

        Raises:
            PlanError: `path` cannot be written.
        """
        save_record(self, path)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Return the plan that the file at `path` holds.

    Raises:
        PlanError: there is no such file, it is damaged, or it was written by a newer, incompatible autoshard.
    """
    return load_record(path, Plan)
