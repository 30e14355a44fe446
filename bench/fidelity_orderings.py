"""Section 3 of the fidelity bench: does tier 0 order the paper's layouts as the measurements do?

Run alone from the repository's root: ``python -m bench.fidelity_orderings``.

Figure 6 of Pope et al. 2022 (arXiv:2211.05102): weight-stationary 1D against 2D in decode, on 64, 128 and 256
chips. Figure 7: weight-stationary 2D against weight-gathered XYZ in prefill at four batch sizes, whose
measured times cross between 131072 and 262144 tokens. Crossovers are read off the logarithm of the ratio of
the two times, linear in the logarithm of the tokens between neighbouring points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.text_table import align
from bench.fidelity_verdicts import Verdict
from bench.published_plans import case_of
from bench.published_points import Point, read_points

Say = Callable[[str], None]
Seconds = Callable[[Point], float]

CROSSOVER_TOKENS = (131_072, 262_144)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layouts of one program on one slice."""

    first: Point
    second: Point

    @property
    def tokens(self) -> int:
        """Tokens of a prefill, sequences of a decode step."""
        return self.first.batch * (self.first.length if self.first.phase == "prefill" else 1)

    def log_ratio(self, seconds: Seconds) -> float:
        """Logarithm of the first layout's time over the second's: below 0 where the first is faster."""
        return math.log(seconds(self.first) / seconds(self.second))

    def is_ordered_right(self, seconds: Seconds) -> bool:
        """Whether times order the two as the measurements do."""
        return (self.log_ratio(seconds) < 0) == (self.log_ratio(measured) < 0)


def measured(point: Point) -> float:
    """The published time."""
    return point.seconds


def predicted(point: Point) -> float:
    """Tier 0's time."""
    return case_of(point).price().whole


def run(say: Say) -> tuple[Verdict, ...]:
    """Print every pair of layouts; returns the verdicts."""
    points = read_points()
    stationary = pairs_of(points, "figure 6", "WS 2D", "WS 1D")
    gathered = pairs_of(points, "figure 7", "WS 2D", "WG XYZ")
    say(pairs_table((*stationary, *gathered), predicted))
    tokens, published = crossover(gathered, predicted), crossover(gathered, measured)
    say(f"\nWS 2D to WG XYZ: predicted {_tokens(tokens)}, measured {_tokens(published)}")
    return (
        orderings_verdict("WS 1D against 2D", stationary, predicted),
        orderings_verdict("WS 2D against WG XYZ", gathered, predicted),
        crossover_verdict(tokens),
    )


def pairs_of(points: Sequence[Point], source: str, first: str, second: str) -> tuple[Pair, ...]:
    """The points of a figure that differ in layout alone, by chips and batch."""
    found = {(point.chips, point.batch, point.layout): point for point in points if point.source == source}
    return tuple(
        Pair(point, found[chips, batch, second])
        for (chips, batch, layout), point in sorted(found.items())
        if layout == first
    )


def pairs_table(pairs: Sequence[Pair], seconds: Seconds) -> str:
    """One line per pair: times of both layouts, published and predicted."""
    head = ("source", "chips", "batch", "layouts", "measured", "predicted", "measured ratio", "predicted", "")
    rows = [
        (
            pair.first.source,
            str(pair.first.chips),
            str(pair.first.batch),
            f"{pair.first.layout} / {pair.second.layout}",
            f"{pair.first.seconds:.4g} / {pair.second.seconds:.4g}",
            f"{seconds(pair.first):.4g} / {seconds(pair.second):.4g}",
            f"{math.exp(pair.log_ratio(measured)):.3f}",
            f"{math.exp(pair.log_ratio(seconds)):.3f}",
            "right" if pair.is_ordered_right(seconds) else "WRONG",
        )
        for pair in pairs
    ]
    return "\n".join(align([head, *rows]))


def crossover(pairs: Sequence[Pair], seconds: Seconds) -> float | None:
    """Tokens from which on the second layout is faster; None where they do not cross just once."""
    ratios = [(math.log(pair.tokens), pair.log_ratio(seconds)) for pair in pairs]
    found = [
        math.exp(x + (other_x - x) * y / (y - other_y))
        for (x, y), (other_x, other_y) in itertools.pairwise(ratios)
        if (y < 0) != (other_y < 0)
    ]
    return found[0] if len(found) == 1 else None


def _tokens(tokens: float | None) -> str:
    return "no single crossover in this range" if tokens is None else f"{tokens:.0f} tokens"


def orderings_verdict(name: str, pairs: Sequence[Pair], seconds: Seconds) -> Verdict:
    """Whether all pairs are ordered right."""
    right = sum(pair.is_ordered_right(seconds) for pair in pairs)
    return Verdict(name, f"{right} of {len(pairs)} right", "all", right == len(pairs))


def crossover_verdict(tokens: float | None) -> Verdict:
    """Whether the layouts cross where the paper's do."""
    low, high = CROSSOVER_TOKENS
    met = tokens is not None and low <= tokens <= high
    return Verdict("WS 2D to WG XYZ", _tokens(tokens), f"{low} to {high} tokens", met)


def main() -> None:
    """Print the section, its verdicts last."""
    for verdict in run(print):
        print(
            f"{verdict.name}: {verdict.figure}; target {verdict.target}: {'met' if verdict.met else 'missed'}"
        )


if __name__ == "__main__":
    main()
