"""What a step would gain if the model stored some arrays padded.

JAX wants chips to divide the arguments and results of a program: a vocabulary of 50257 tokens or 25 heads in
an argument cannot be split over 8 chips, and lie whole on each. A model may store them padded, as 50264
tokens or 32 heads. So the search is asked once more with all dims of arrays free to be padded, at the price
of the padding (`autoshard.cost.padding`); where the best plan then is notably faster, the arrays that it
pads are offered, and so is its time. Dims that a program merges with others (heads in ``[1600]``) are not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import prod

from autoshard.cost.layouts import PADDING_LIMIT
from autoshard.cost.torus import TorusMesh
from autoshard.mesh_solving import Solved, pinned_problem
from autoshard.padding_records import padding_records
from autoshard.plan_records import PaddingRecord, StoredPaddingRecord
from autoshard.search.errors import SearchError, TimeLimitError
from autoshard.search.padded import padded_dims
from autoshard.search.planner import search_plans
from autoshard.search.problem import Problem
from autoshard.tune_session import Session

WORTH_SHARE = 0.01
"""Share of the step time that padded arrays must save for an offer; what is found is optimal to as much."""


def stored_padding(session: Session, solved: Solved) -> StoredPaddingRecord | None:
    """Return what arrays should be stored padded on the mesh of a solved problem; None where none should.

    Args:
        session: What is planned.
        solved: Its best mesh, and what the search found there.
    """
    if session.options.padding != "allow" or not _has_uneven_arrays(solved.problem):
        return None
    problem = pinned_problem(session, solved.problem.mesh, stored_padded=True)
    try:
        outcome = search_plans(
            problem,
            session.hbm_limit_bytes,
            gap=session.options.gap,
            time_limit_seconds=session.options.time_limit_seconds,
        )
    except (SearchError, TimeLimitError):  # a plan is known that fits: this only ran out of time
        return None
    best = outcome.candidates[0]
    arrays = dict(_padded_arrays(session, problem, best.labels))
    if not arrays or best.seconds > (1 - WORTH_SHARE) * solved.seconds:
        return None
    return StoredPaddingRecord(
        arrays=arrays, seconds=best.seconds, hbm_bytes_per_chip=round(best.peak.nbytes)
    )


def _has_uneven_arrays(problem: Problem) -> bool:
    """Whether chips could split a dim of an argument or a result that they do not divide."""
    graph, mesh = problem.graph, problem.mesh
    anchored = [v for v in (*graph.arguments, *graph.results) if v in problem.value_variable]
    return any(
        _could_be_padded(graph.values[value].shape[dim], mesh)
        for value in anchored
        for dim in _free_dims(problem, value)
    )


def _free_dims(problem: Problem, value: int) -> tuple[int, ...]:
    """The dims of an array that may be split: not those along which a loop takes it apart."""
    tied = problem.classes.get(value)
    rank = len(problem.graph.values[value].shape)
    return tuple(range(rank)) if tied is None else tuple(tied.dims[value])


def _could_be_padded(size: int, mesh: TorusMesh) -> bool:
    """Whether some axes of the mesh leave a rest of a dim, and padding it is little work."""
    groups = itertools.chain.from_iterable(
        itertools.combinations(mesh.shape, count) for count in range(1, len(mesh.shape) + 1)
    )
    counts = {prod(group) for group in groups}
    return any(size % chips and -(-size // chips) * chips < PADDING_LIMIT * size for chips in counts)


def _padded_arrays(
    session: Session, problem: Problem, labels: tuple[int, ...]
) -> Iterator[tuple[str, tuple[PaddingRecord, ...]]]:
    """The arguments and results that a plan pads, by path."""
    graph, mesh = problem.graph, problem.mesh
    named = [
        *zip(session.traced.argument_names, graph.arguments, strict=True),
        *zip(session.traced.result_names, graph.results, strict=True),
    ]
    for name, value in named:
        if value not in problem.value_variable:
            continue
        shape = graph.values[value].shape
        names = [f"dim {number}" for number in range(len(shape))]
        layout = problem.layouts(value)[labels[problem.value_variable[value]]]
        found = padding_records(padded_dims(names, shape, layout, mesh), mesh)
        if found:
            yield name, found
