"""What a section of `python -m bench.fidelity` reports of each of its targets."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INTERRUPTED = 130  # 128 + SIGINT


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and whether it is met.

    Attributes:
        name: What was compared with what.
        figure: What was found, as text.
        target: What was wanted, as text.
        met: Whether it was found.
    """

    name: str
    figure: str
    target: str
    met: bool

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.name}: {self.figure}; target {self.target}: {'met' if self.met else 'MISSED'}"


def conclude(run: Callable[[], Sequence[Verdict]]) -> int:
    """Run a section by itself, print its verdicts last; returns the exit status."""
    try:
        found = run()
    except KeyboardInterrupt:
        print("interrupted; what is known is kept", file=sys.stderr)
        return INTERRUPTED
    print()
    for verdict in found:
        print(verdict.line)
    return 0
