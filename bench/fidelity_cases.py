"""The cases that tier 0 is held against the TPU compiler on: a model, a phase, a slice, four generations.

The models are the examples', and a train step (`bench.train_step`) of the same Llama. Slices and batches are
those of Pope et al. 2022 (arXiv:2211.05102, table 2 and 3) for PaLM; for the rest what one would serve or
train on such a slice, some with HBM to spare and some nearly full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh
from autoshard.graph_building import build_graph
from autoshard.mesh_study import meshes_to_try
from autoshard.search.building import build_problem
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
    """A case traced, and its decision problem on the slice's own mesh; each made when first asked for."""

    case: Case

    @cached_property
    def traced(self) -> Traced:
        """The program."""
        function, inputs, donated = self.case.target()
        return trace(function, inputs(), donate_argnames=donated)

    @cached_property
    def mesh(self) -> TorusMesh:
        """One axis for each dim of the torus."""
        return meshes_to_try(parse_slice(self.case.slice_name), "native")[0]

    @cached_property
    def problem(self) -> Problem:
        """What tier 0 decides."""
        return build_problem(build_graph(self.traced), self.mesh)

    @cached_property
    def memory(self) -> MemoryModel:
        """What tier 0 says of HBM."""
        return MemoryModel(self.problem)

    @property
    def limit_bytes(self) -> float:
        """HBM per chip that a program may use."""
        return self.mesh.slice.chip.hbm_usable_bytes


def _decode(model: Any, name: str, config: Any, slice_name: str, batch: int, context: int) -> Case:
    def target() -> Target:
        return (*model.decode_target(config, batch, context), ("cache",))

    return Case(name, "decode", slice_name, batch, context, target)


def _prefill(model: Any, name: str, config: Any, slice_name: str, batch: int, length: int) -> Case:
    def target() -> Target:
        return (*model.prefill_target(config, batch, length), ())

    return Case(name, "prefill", slice_name, batch, length, target)


def _train(name: str, config: llama.Config, slice_name: str, batch: int, length: int, adam: bool) -> Case:
    return Case(
        name, "train", slice_name, batch, length, lambda: train_target(config, batch, length, adam=adam)
    )


CASES = (
    _decode(palm, "palm_540b", palm.PALM_540B, "v4:4x4x4", 512, 2048),
    _prefill(palm, "palm_540b", palm.PALM_540B, "v4:4x4x4", 512, 2048),
    _decode(palm, "palm_540b_int8", palm.PALM_540B_INT8, "v4:4x4x4", 64, 2048),
    _decode(palm, "palm_62b", palm.PALM_62B, "v4:2x2x2", 512, 2048),
    _prefill(palm, "palm_62b", palm.PALM_62B, "v5p:2x2x4", 64, 2048),
    _decode(palm, "palm_8b", palm.PALM_8B, "v5e:2x4", 512, 2048),
    _decode(llama, "llama3_8b", llama.LLAMA3_8B, "v5e:2x4", 32, 4096),
    _prefill(llama, "llama3_8b", llama.LLAMA3_8B, "v5e:4x4", 32, 4096),
    _decode(llama, "llama3_70b", llama.LLAMA3_70B, "v6e:4x4", 64, 4096),
    _prefill(llama, "llama3_70b", llama.LLAMA3_70B, "v6e:4x4", 16, 4096),
    _train("llama3_8b_adam", llama.LLAMA3_8B, "v5p:2x2x2", 32, 4096, adam=True),
    _train("llama3_8b_sgd", llama.LLAMA3_8B, "v6e:4x4", 32, 4096, adam=False),
)
