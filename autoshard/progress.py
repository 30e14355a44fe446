"""Progress on stderr, so that stdout holds results and nothing else.

On a terminal one line is written over and over; elsewhere (a log, CI) every stage and step is a line of its
own.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

_ERASE_LINE = "\r\x1b[2K"


class Progress:
    """Says which stage runs, how far it is and how long it has taken.

    Args:
        stream: where to write; stderr when left out.
        quiet: write nothing.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._in_place = self._stream.isatty()
        self._started_seconds = time.monotonic()
        self._stage, self._total, self._done = "", 0, 0

    def stage(self, name: str, total: int = 0) -> None:
        """Begin a stage; `total` is the number of its steps, 0 where it is not known."""
        self._stage, self._total, self._done = name, total, 0
        self._write(name)

    def step(self, detail: str = "") -> None:
        """Say that one more step of the stage begins, such as one candidate."""
        self._done += 1
        of_total = f"/{self._total}" if self._total else ""
        self._write(f"{self._stage} {self._done}{of_total}" + (f": {detail}" if detail else ""))

    def note(self, text: str) -> None:
        """Write a line that stays, such as the reason why a tier is skipped."""
        if not self._quiet:
            self._stream.write(f"{_ERASE_LINE if self._in_place else ''}{text}\n")
            self._stream.flush()

    def close(self) -> None:
        """Clear the line of a terminal, so that what follows starts on an empty one."""
        if self._in_place and not self._quiet:
            self._stream.write(_ERASE_LINE)
            self._stream.flush()

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        line = f"[{time.monotonic() - self._started_seconds:6.1f} s] {text}"
        self._stream.write(f"{_ERASE_LINE}{line}" if self._in_place else f"{line}\n")
        self._stream.flush()
