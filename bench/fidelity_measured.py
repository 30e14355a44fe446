"""Section 6 of the fidelity bench: published collectives, matmuls and copies, and published train steps.

Run alone from the repository's root: ``python -m bench.fidelity_measured``.

The issue sets no figure for this section. Verdicts stand beside the noise of the sources: the same setting,
measured in another session, differs by up to a fifth.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import fidelity_microbench, fidelity_train
from bench.fidelity_verdicts import Verdict


def run(say: Callable[[str], None]) -> tuple[Verdict, ...]:
    """Print both parts; returns their verdicts."""
    say("micro-benchmarks\n")
    single = fidelity_microbench.run(say)
    say("\ntrain steps\n")
    return (*single, *fidelity_train.run(say))


def main() -> None:
    """Print the section, its verdicts last."""
    for verdict in run(print):
        print(f"{verdict.name}: {verdict.figure}; target: {verdict.target}")


if __name__ == "__main__":
    main()
