"""Runs: stretches of a sequence in which element i equals element i + period throughout.

A model whose layers are written out one after the other is such a sequence of ops. A period suggests itself
where a stretch of the sequence returns; of all runs the one that saves most elements is taken, then those
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

LEAST_BLOCKS = 3
"""Blocks of a run at the least: what is repeated less often is decided in full."""
LEAST_SHORT_BLOCKS = 6
"""Blocks of a run at the least where blocks are short and nothing but their likeness is known: a layer may
well have two to four alike ops side by side that want to be decided apart (q, k, v and a gate)."""
SHORT_PERIOD = 32
"""Elements below which a block is short, that is, hardly more than a projection with what belongs to it."""
_WINDOWS = (8, 64, 512)
"""Lengths of the stretches whose return suggests a period: powers of two."""
_MOST_PERIODS = 48
"""Periods that are tried on one stretch of the sequence, the most frequent first."""

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of `period` elements each, from `start` to before `stop`, each like the next.

    Where a block begins is open: the first and the last one may be cut short. The block from `standing` on is
    whole and stands for all.
    """

    start: int
    stop: int
    period: int
    standing: int

    @property
    def saved(self) -> int:
        """How many elements are copies of others."""
        return self.stop - self.start - self.period


def find_runs(codes: npt.ArrayLike, least_short_blocks: int = LEAST_SHORT_BLOCKS) -> tuple[Run, ...]:
    """Return runs that do not overlap, in the order of the sequence.

    Args:
        codes: [N] numbers, equal for like elements.
        least_short_blocks: How often short blocks must come; long ones must come `LEAST_BLOCKS` times.
    """
    found: list[Run] = []
    sequence = np.asarray(codes, dtype=np.int64)
    stretches = [(0, len(sequence))]
    while stretches:
        start, stop = stretches.pop()
        run = _best_run(sequence[start:stop], start, least_short_blocks)
        if run is not None:
            found.append(_aligned(run, sequence, least_short_blocks))
            stretches += [(start, run.start), (run.stop, stop)]
    return tuple(sorted(found, key=lambda run: run.start))


def _best_run(codes: Codes, offset: int, least_short_blocks: int) -> Run | None:
    """The run that saves most in a stretch of the sequence; of equals the one with the shortest blocks."""
    runs: list[Run] = []
    for period in _periods(codes):
        least = least_short_blocks if period < SHORT_PERIOD else LEAST_BLOCKS
        runs += _runs_of_period(codes, period, offset, least)
    return max(runs, key=lambda run: (run.saved, -run.period, -run.start), default=None)


def _aligned(run: Run, codes: Codes, least_short_blocks: int) -> Run:
    """The run with the standing block begun where the longest run inside of it begins.

    So that the local layers of a period of local and global layers, say, stay side by side.
    """
    block = codes[run.start : run.start + run.period]
    inner = _best_run(np.concatenate([block, block]), 0, least_short_blocks)
    if inner is None:
        return run
    standing = run.standing + inner.start % run.period
    return replace(run, standing=standing if standing + run.period <= run.stop else standing - run.period)


def _periods(codes: Codes) -> list[int]:
    """Distances at which stretches of the sequence return, the most frequent first."""
    counts: dict[int, int] = {}
    for window in _WINDOWS:
        if len(codes) < window * 2:
            break
        hashes = _window_hashes(codes, window)
        order = np.argsort(hashes, kind="stable")
        again = hashes[order][1:] == hashes[order][:-1]
        distances, numbers = np.unique(np.diff(order)[again], return_counts=True)
        for distance, number in zip(distances.tolist(), numbers.tolist(), strict=True):
            counts[distance] = counts.get(distance, 0) + number * window
    return sorted(counts, key=lambda distance: (-counts[distance], distance))[:_MOST_PERIODS]


def _window_hashes(codes: Codes, window: int) -> npt.NDArray[np.uint64]:
    """[N - window + 1] a number for each stretch of `window` codes, the same for the same stretch."""
    hashes = np.random.default_rng(0).integers(0, 2**63, int(codes.max()) + 1, dtype=np.uint64)[codes]
    base, width = np.array([0x9E3779B97F4A7C15], dtype=np.uint64), 1
    while width < window:
        hashes = hashes[:-width] * base + hashes[width:]
        base, width = base * base, 2 * width
    return hashes


def _runs_of_period(codes: Codes, period: int, offset: int, least_blocks: int) -> Iterator[Run]:
    """The stretches in which every element is like the one a period later."""
    alike = codes[period:] == codes[:-period]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], alike, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        if (stop - start) // period + 1 >= least_blocks:
            # the second block stands for all: the first and the last have other neighbours
            yield Run(offset + start, offset + stop + period, period, offset + start + period)
