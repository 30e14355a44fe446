"""When buffers are live, by column: many buffers, asked about one point of the program at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Span(NamedTuple):
    """Bytes that are live from `start` to `stop` inclusive, of a kind that the caller numbers.

    How many they are under a plan is said by entry `form` of a table that copies share.
    """

    form: int
    start: int
    stop: int
    kind: int


@dataclass(frozen=True, slots=True)
class Spans:
    """Many spans, by column."""

    form: npt.NDArray[np.intp]
    start: npt.NDArray[np.intp]
    stop: npt.NDArray[np.intp]
    kind: npt.NDArray[np.intp]

    def live(self, point: int) -> Iterator[tuple[int, int]]:
        """The forms that are live at a point, and how often each is."""
        forms, counts = np.unique(self.form[(self.start <= point) & (point <= self.stop)], return_counts=True)
        return zip(forms.tolist(), counts.tolist(), strict=True)


def columns(spans: Iterable[Span]) -> Spans:
    """Lay spans out by column."""
    table = np.fromiter(chain.from_iterable(spans), dtype=np.intp).reshape(-1, len(Span._fields))
    return Spans(*(table[:, column] for column in range(len(Span._fields))))
