"""The cases that tier 0 is held against the TPU compiler on: a model, a phase, a slice, four generations.

The models are the examples', and a train step (`bench.train_step`) of the same Llama. Slices and batches are
those of Pope et al. 2022 (arXiv:2211.05102, table 2 and 3) for PaLM; for the rest what one would serve or
train on such a slice, some with HBM to spare and some nearly full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.graph_building import build_graph
from autoshard.mesh_study import mesh_label, meshes_to_try
from autoshard.search.building import build_problem
from autoshard.search.graph import Graph
from autoshard.search.memory import MemoryModel
from autoshard.search.problem import Problem
from autoshard.trace import Traced, trace
from bench.train_step import train_target
from examples import llama, palm

Target = tuple[Callable[..., Any], Callable[[], tuple[Any, ...]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """One program on one slice.

    Attributes:
        model: Name of the model.
        phase: decode, prefill or train.
        slice_name: Such as `v4:4x4x4`.
        batch: Sequences.
        length: Tokens of each: the context of a decode step.
        target: Gives the function, what makes its abstract arguments, and the names of donated ones.
    """

    model: str
    phase: str
    slice_name: str
    batch: int
    length: int
    target: Callable[[], Target]

    @property
    def name(self) -> str:
        """The name that files and tables use."""
        return f"{self.model}.{self.phase}.{self.slice_name}"


@dataclass(frozen=True)
class Study:
    """A case traced, and its decision problem on a mesh of the slice; each made when first asked for.

    Attributes:
        case: The case.
        label: The mesh (`autoshard.mesh_study.mesh_label`); the slice's own where it is left out.
    """

    case: Case
    label: str = ""

    @property
    def name(self) -> str:
        """The case, and the mesh where it is not the slice's own."""
        return f"{self.case.name} on {self.label}" if self.label else self.case.name

    @property
    def traced(self) -> Traced:
        """The program."""
        return _program(self.case)[0]

    @cached_property
    def mesh(self) -> TorusMesh:
        """One axis for each dim of the torus, or the mesh of the label."""
        slice_ = parse_slice(self.case.slice_name)
        if not self.label:
            return meshes_to_try(slice_, "native")[0]
        return next(mesh for mesh in meshes_to_try(slice_, "auto") if mesh_label(mesh) == self.label)

    @cached_property
    def problem(self) -> Problem:
        """What tier 0 decides."""
        return build_problem(_program(self.case)[1], self.mesh, padding=True)

    @cached_property
    def memory(self) -> MemoryModel:
        """What tier 0 says of HBM."""
        return MemoryModel(self.problem)

    @property
    def limit_bytes(self) -> float:
        """HBM per chip that a program may use."""
        return self.mesh.slice.chip.hbm_usable_bytes


@lru_cache(maxsize=1)
def _program(case: Case) -> tuple[Traced, Graph]:
    """A case's program and its graph, kept while the meshes of the case are studied."""
    function, inputs, donated = case.target()
    traced = trace(function, inputs(), donate_argnames=donated)
    return traced, build_graph(traced)


def decode_case(model: Any, name: str, config: Any, slice_name: str, batch: int, context: int) -> Case:
    """A decode step of a model of `examples/`, or of one with the same two functions."""

    def target() -> Target:
        return (*model.decode_target(config, batch, context), ("cache",))

    return Case(name, "decode", slice_name, batch, context, target)


def prefill_case(model: Any, name: str, config: Any, slice_name: str, batch: int, length: int) -> Case:
    """A prefill of such a model."""

    def target() -> Target:
        return (*model.prefill_target(config, batch, length), ())

    return Case(name, "prefill", slice_name, batch, length, target)


def train_case(name: str, config: llama.Config, slice_name: str, batch: int, length: int, adam: bool) -> Case:
    """A train step of `bench.train_step`."""
    return Case(
        name, "train", slice_name, batch, length, lambda: train_target(config, batch, length, adam=adam)
    )


CASES = (
    decode_case(palm, "palm_540b", palm.PALM_540B, "v4:4x4x4", 512, 2048),
    prefill_case(palm, "palm_540b", palm.PALM_540B, "v4:4x4x4", 512, 2048),
    decode_case(palm, "palm_540b_int8", palm.PALM_540B_INT8, "v4:4x4x4", 64, 2048),
    decode_case(palm, "palm_62b", palm.PALM_62B, "v4:2x2x2", 512, 2048),
    prefill_case(palm, "palm_62b", palm.PALM_62B, "v5p:2x2x4", 64, 2048),
    decode_case(palm, "palm_8b", palm.PALM_8B, "v5e:2x4", 512, 2048),
    decode_case(llama, "llama3_8b", llama.LLAMA3_8B, "v5e:2x4", 32, 4096),
    prefill_case(llama, "llama3_8b", llama.LLAMA3_8B, "v5e:4x4", 32, 4096),
    decode_case(llama, "llama3_70b", llama.LLAMA3_70B, "v6e:4x4", 64, 4096),
    prefill_case(llama, "llama3_70b", llama.LLAMA3_70B, "v6e:4x4", 16, 4096),
    train_case("llama3_8b_adam", llama.LLAMA3_8B, "v5p:2x2x2", 32, 4096, adam=True),
    train_case("llama3_8b_sgd", llama.LLAMA3_8B, "v6e:4x4", 32, 4096, adam=False),
)
