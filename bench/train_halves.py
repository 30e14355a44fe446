"""Train steps: constants fitted on half of the families, tried on the other half, both ways.

Halves are every other family of a chip by name. The fit (`bench.fit`) changes only constants that the chip
table calls fitted: where the error stays, it is not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from autoshard.cost.chips import Chip, chip
from autoshard.text_table import align
from bench.fit import Data, fit, fitted_names
from bench.train_rows import Planned, prices


def halves_table(steps: Sequence[Planned]) -> str:
    """One line per chip and direction: errors with the table's constants and with those refitted."""
    own, other = ("fitted on", "rows", "error", "refitted"), ("tried on", "rows", "error", "refitted")
    head = ("chip", *own, *other, "constants found")
    chips = dict.fromkeys(step.row.chip_name for step in steps)
    rows = [line for name in chips for line in _halves(name, steps)]
    return "\n".join(align([head, *rows]))


def _halves(name: str, steps: Sequence[Planned]) -> Iterator[tuple[str, ...]]:
    own = [step for step in steps if step.row.chip_name == name]
    halves = halves_of([step.row.family for step in own])
    if not all(halves):
        return
    table = chip(name)
    names = tuple(constant for constant in fitted_names(table) if not constant.startswith("dcn_"))
    data = [_data([step for step in own if step.row.family in half]) for half in halves]
    for fitted, tried in ((0, 1), (1, 0)):
        print(f"train steps: fit on half of the families of {name}", file=sys.stderr)
        found = fit(data[fitted], table, names)
        columns = (
            (", ".join(halves[half]), str(len(data[half].measured)), *_errors(data[half], table, found.after))
            for half in (fitted, tried)
        )
        values = ", ".join(f"{constant} {value:.3g}" for constant, value in found.values().items())
        yield (name, *(cell for column in columns for cell in column), values)


def halves_of(families: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every other family by name, and the rest."""
    names = tuple(sorted(set(families)))
    return names[::2], names[1::2]


def _errors(data: Data, *chips: Chip) -> tuple[str, ...]:
    return tuple(f"{data.mean_error(chip):.3f}" for chip in chips)


def _data(steps: Sequence[Planned]) -> Data:
    return Data("train steps", [step.row.seconds for step in steps], prices(steps))
