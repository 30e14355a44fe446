"""What the stages of a tuning run share: the traced function, the slice, the options, where to report."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoshard.attached import attached_slice
from autoshard.calibration.calibrated import calibrated_slice
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.errors import TraceError
from autoshard.graph_building import build_graph
from autoshard.kept_finding import keep_shardings
from autoshard.kept_shardings import Kept
from autoshard.mesh_study import meshes_to_try
from autoshard.progress import Progress
from autoshard.search.coverage import ANNOTATION_PRIMITIVES
from autoshard.search.graph import Graph
from autoshard.targets import Target
from autoshard.trace import Traced, trace
from autoshard.tune_options import LOCAL, Options
from autoshard.user_shardings import shard_maps


@dataclass(frozen=True, slots=True)
class Session:
    """One function, one slice, one set of options.

    Attributes:
        target: The function.
        options: What the run was told.
        progress: Where to report.
        slice_: The chips.
        traced: The traced function.
        graph: Its graph.
        kept: Shardings of the model that the plan keeps.
        mesh: The mesh that is settled already; None leaves it to the options.
        ordered_pins: Those of the options' pins that fix the order of axes within a dim, too.
    """

    target: Target
    options: Options
    progress: Progress
    slice_: Slice
    traced: Traced
    graph: Graph
    kept: Kept | None = None
    mesh: TorusMesh | None = None
    ordered_pins: tuple[str, ...] = ()

    @property
    def meshes(self) -> tuple[TorusMesh, ...]:
        """The meshes that may be tried: a settled one, that of kept shardings, or those of the options."""
        settled = self.mesh or (None if self.kept is None else self.kept.mesh)
        return meshes_to_try(self.slice_, self.options.mesh) if settled is None else (settled,)

    @property
    def on_attached_devices(self) -> bool:
        """Whether the slice is what is attached to this process."""
        return self.options.slice_text == LOCAL

    @property
    def hbm_limit_bytes(self) -> float:
        """HBM per chip that a plan may use: what a chip has, or less where the user says so."""
        usable = self.slice_.chip.hbm_usable_bytes
        asked = self.options.hbm_limit_bytes
        return usable if asked is None else min(usable, asked)


def open_session(target: Target, options: Options, progress: Progress) -> Session:
    """Find the slice and trace the function.

    Raises:
        SliceError: the slice does not exist.
        ProfileError: the chip profile is not sound, or of another chip.
        TraceError: the function cannot be traced, or has a shard_map for another number of devices.
        OptionError: its shardings are to be kept, and there is no one mesh for them on the slice.
    """
    slice_ = _slice_of(options, progress)
    progress.stage(f"trace {target.name}")
    traced = trace(target.function, target.arguments, target.keywords, **target.jit_options)
    _require_runnable_shard_maps(traced, slice_)
    graph = build_graph(traced)
    kept = keep_shardings(target, traced, slice_) if options.shardings == "keep" else None
    if kept is not None:
        mesh = " ".join(f"{axis.name}={axis.size}" for axis in kept.mesh.axes)
        progress.note(f"{len(kept.shardings)} shardings of `{target.name}` are kept, on the mesh {mesh}")
    elif options.shardings == "keep":
        progress.note(f"`{target.name}` has no shardings to keep: the plan decides all")
    if target.choices:
        progress.note(
            f"choices of `{target.name}` are not searched here: {', '.join(target.choices)} have the values "
            "that the function gives them"
        )
    freed = sum(op.primitive in ANNOTATION_PRIMITIVES for op in graph.ops)
    if freed and kept is None:
        progress.note(f"{freed} sharding annotations of `{target.name}` are freed: the plan decides instead")
    return Session(target, options, progress, slice_, traced, graph, kept)


def on_slice(session: Session, slice_text: str) -> Session:
    """The session for another slice; the function is not traced again.

    Raises:
        SliceError: the slice does not exist.
        ProfileError: the chip profile is not sound, or of another chip.
        TraceError: the function has a shard_map for another number of devices.
    """
    options = replace(session.options, slice_text=slice_text)
    slice_ = _slice_of(options, session.progress)
    _require_runnable_shard_maps(session.traced, slice_)
    return replace(session, options=options, slice_=slice_)


def _slice_of(options: Options, progress: Progress) -> Slice:
    slice_ = attached_slice() if options.slice_text == LOCAL else parse_slice(options.slice_text)
    return calibrated_slice(slice_, options.profile, progress.note)


def _require_runnable_shard_maps(traced: Traced, slice_: Slice) -> None:
    for found in shard_maps(traced.closed):
        if found.devices != slice_.n_chips:
            raise TraceError(
                f"the shard_map at {found.source} is written for {found.devices} devices, and "
                f"{slice_.name} has {slice_.n_chips}: give it a mesh of as many devices, or plan for a slice "
                f"of {found.devices} chips"
            )
