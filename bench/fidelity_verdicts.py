"""What a section of `python -m bench.fidelity` reports of each of its targets."""

from dataclasses import dataclass


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
