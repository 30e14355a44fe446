"""The paper's table 1 through the tool's memory model: how much context fits in 30% of the HBM.

PaLM 540B decodes on 64 TPU v4 under three layouts of its cache (Pope et al. 2022, arXiv:2211.05102, section
4.2). The decode step is traced, its decision problem built, and the bytes per chip of the cache arguments are
what `autoshard.search.memory` has for them under the label of that layout. They are set against the limit,
``0.3 * 32 GiB``; the published contexts are rounded, so the values recomputed from the shapes stand beside.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.cost.layouts import REPLICATED
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.graph_building import build_graph
from autoshard.search.building import build_problem
from autoshard.search.memory import MemoryModel
from autoshard.search.problem import Problem
from autoshard.trace import trace
from bench import palm_multihead
from examples import palm

DATA = Path(__file__).parent / "data" / "max_context.csv"
SLICE = parse_slice("v4:4x4x4")
SHARE = 0.3
_TOLERANCE = 1e-4
"""Relative distance to the limit at which a context counts as found."""
_MAX_STEPS = 20


@dataclass(frozen=True, slots=True)
class Variant:
    """A model and a layout of its cache: the dim that all mesh axes shard, `REPLICATED` for none."""

    target: Callable[[int, int], tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]]
    cache_dim: int


VARIANTS = {
    "multihead": Variant(
        lambda batch, context: palm_multihead.decode_target(
            palm_multihead.PALM_540B_MULTIHEAD, batch, context
        ),
        cache_dim=2,  # heads
    ),
    "multiquery over heads": Variant(
        lambda batch, context: palm.decode_target(palm.PALM_540B, batch, context), cache_dim=REPLICATED
    ),
    "multiquery over batch": Variant(
        lambda batch, context: palm.decode_target(palm.PALM_540B, batch, context), cache_dim=1
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of table 1: the largest context, as published, recomputed from the shapes, and found."""

    variant: str
    batch: int
    published: float
    recomputed: float
    found: float

    @property
    def error(self) -> float:
        """Relative difference of what is found to the recomputed value."""
        return self.found / self.recomputed - 1


def table_1() -> tuple[Row, ...]:
    """All cells of the table."""
    with DATA.open() as lines:
        return tuple(
            Row(
                row["variant"],
                int(row["batch"]),
                float(row["published"]),
                float(row["recomputed"]),
                max_context(VARIANTS[row["variant"]], int(row["batch"]), round(float(row["published"]))),
            )
            for row in csv.DictReader(lines)
        )


def max_context(variant: Variant, batch: int, guess: int) -> float:
    """The context at which the cache fills its share of the HBM of a chip.

    Args:
        variant: Model and layout.
        batch: Sequences.
        guess: A context near it, where the search begins.

    Raises:
        ArithmeticError: If the bytes are so far from proportional to the context that none is found.
    """
    limit = SHARE * SLICE.chip.hbm_bytes
    context = guess
    for _ in range(_MAX_STEPS):
        nbytes = cache_bytes(variant, batch, context)
        found = context * limit / nbytes
        if abs(found - context) < 1 or abs(found / context - 1) < _TOLERANCE:
            return found
        context = round(found)
    raise ArithmeticError(f"no context found for batch {batch} after {_MAX_STEPS} steps, last {context}")


def cache_bytes(variant: Variant, batch: int, context: int) -> float:
    """Bytes per chip of the cache arguments by the memory model."""
    function, inputs = variant.target(batch, context)
    traced = trace(function, inputs(), donate_argnames=("cache",))
    problem = build_problem(build_graph(traced), native_mesh(SLICE))
    row, _ = MemoryModel(problem).row(0)
    caches = [
        value
        for name, value in zip(traced.argument_names, problem.graph.arguments, strict=True)
        if name.startswith("cache/")
    ]
    labels = {problem.value_variable[value]: _label(problem, value, variant.cache_dim) for value in caches}
    return sum(float(np.asarray(row.unary[variable])[label]) for variable, label in labels.items())


def _label(problem: Problem, value: int, dim: int) -> int:
    """The label under which every mesh axis shards that dim of a value, or none does."""
    wanted = np.full(len(problem.mesh.axes), dim)
    (labels,) = np.nonzero((problem.layouts(value) == wanted).all(axis=1))
    return int(labels[0])
