"""Section 1 of the fidelity bench: worked examples and identities, figure 3 and table 1 of the paper.

Every example is computed through the model's own functions (`bench.worked_paper`, `bench.worked_books`,
`bench.worked_gpus`) and compared with `data/worked_examples.csv`, which gives each its source and tolerance:
0 where integers must be equal, 1e-4 or 1e-3 for arithmetic, more only where a book's own bandwidth is rounded
differently from the chip table's. Errata of the sources are kept in its notes; the corrected value counts.
"""

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoshard.text_table import align
from bench import fig3, max_context, worked_books, worked_gpus, worked_paper
from bench.fidelity_verdicts import Verdict

DATA = Path(__file__).parent / "data" / "worked_examples.csv"
EXAMPLES = {**worked_paper.EXAMPLES, **worked_books.EXAMPLES, **worked_gpus.EXAMPLES}
FIGURE_3_LIMIT = 0.01
TABLE_1_LIMIT = 0.015

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """One number of a worked example, expected and found."""

    id: str
    quantity: str
    unit: str
    expected: float
    tolerance: float
    found: float

    @property
    def error(self) -> float:
        """Relative difference of what is found to what is expected."""
        return self.found / self.expected - 1

    @property
    def reproduced(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.error) <= self.tolerance


def run(say: Say) -> tuple[Verdict, ...]:
    """Print the examples, figure 3 and table 1; returns their verdicts."""
    checked = check_examples(EXAMPLES, read_rows())
    say(examples_table(checked))
    largest, points = figure_3()
    say(f"\nfigure 3: {points} points, largest difference of a volume to the figure or formula {largest:.3%}")
    contexts = max_context.table_1()
    say("\n" + contexts_table(contexts))
    return examples_verdict(checked), figure_3_verdict(largest, points), table_1_verdict(contexts)


def read_rows() -> list[dict[str, str]]:
    """The rows of the data file."""
    with DATA.open() as lines:
        return list(csv.DictReader(lines))


def check_examples(
    examples: Mapping[str, Callable[[], Sequence[float]]], rows: Sequence[Mapping[str, str]]
) -> tuple[Checked, ...]:
    """Compute the examples of all rows.

    Args:
        examples: By id, what computes the numbers of its rows, in their order.
        rows: Rows of the data file, those of an id together.

    Raises:
        KeyError: If a row's id has no example.
        ValueError: If an example computes more or fewer numbers than it has rows.
    """
    return tuple(
        Checked(id_, row["quantity"], row["unit"], float(row["expected"]), float(row["tolerance"]), found)
        for id_, group in itertools.groupby(rows, key=lambda row: row["id"])
        for row, found in zip(list(group), examples[id_](), strict=True)
    )


def examples_table(checked: Sequence[Checked]) -> str:
    """One line per number."""
    head = ("example", "quantity", "expected", "model", "unit", "error", "within", "")
    rows = [
        (
            one.id,
            one.quantity,
            f"{one.expected:.8g}",
            f"{one.found:.8g}",
            one.unit,
            f"{one.error:+.3%}",
            f"{one.tolerance:.2%}",
            "" if one.reproduced else "MISSED",
        )
        for one in checked
    ]
    return "\n".join(align([head, *rows], right=(2, 3, 5, 6)))


def figure_3() -> tuple[float, int]:
    """Largest relative difference of a volume to the figure or the formula, and the number of points."""
    rows = fig3.read_points()
    differences = [
        fig3.difference(
            {name: fig3.volume_gb(layout, row["tokens"]) for name, layout in fig3.COLUMNS.items()}, row, which
        )
        for row in rows
        for which in ("formula", "plot")
    ]
    return max(differences), len(rows) * len(fig3.COLUMNS)


def contexts_table(rows: Sequence[max_context.Row]) -> str:
    """Table 1, one line per cell."""
    head = ("table 1: largest context", "batch", "published", "recomputed", "model", "error")
    cells = [
        (
            row.variant,
            str(row.batch),
            f"{row.published:.0f}",
            f"{row.recomputed:.1f}",
            f"{row.found:.1f}",
            f"{row.error:+.2%}",
        )
        for row in rows
    ]
    return "\n".join(align([head, *cells], right=range(1, 6)))


def examples_verdict(checked: Sequence[Checked]) -> Verdict:
    """Whether all worked examples are reproduced."""
    missed = sorted({one.id for one in checked if not one.reproduced})
    count, numbers = len({one.id for one in checked}), len(checked)
    figure = f"{count - len(missed)} of {count} ({numbers} numbers)"
    figure += f", missed: {', '.join(missed)}" if missed else ""
    return Verdict("worked examples", figure, "all", not missed)


def figure_3_verdict(largest: float, points: int) -> Verdict:
    """Whether figure 3 is reproduced."""
    figure = f"{largest:.2%} over {points} points"
    return Verdict("figure 3, volumes", figure, f"{FIGURE_3_LIMIT:.0%}", largest <= FIGURE_3_LIMIT)


def table_1_verdict(rows: Sequence[max_context.Row]) -> Verdict:
    """Whether table 1 is reproduced."""
    worst = max((row.error for row in rows), key=abs)
    name = "table 1, largest contexts"
    return Verdict(name, f"{worst:+.2%} at worst", f"{TABLE_1_LIMIT:.1%}", abs(worst) <= TABLE_1_LIMIT)
