"""The generated parts of `docs/cost-model.md`: the numbers of all chips, and the errors of the model.

Run from the repository's root: ``python -m bench.cost_page`` writes the chip numbers anew after the chip
table changed (a test says when); ``python -m bench.fidelity --page`` writes the errors after a full run.
Each part stands between two comment lines of the page and nothing else of it is touched.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from autoshard.cost.chip_table import TABLE
from autoshard.cost.quantities import Quantity
from bench.fidelity_verdicts import Verdict

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cost-model.md"
CHIPS = "chip numbers, by python -m bench.cost_page"
ERRORS = "errors, by python -m bench.fidelity --page"


def main() -> None:
    """Write the chip numbers."""
    write_part(CHIPS, chips_table())
    print(f"chip numbers written into {PAGE.name}")


def chips_table() -> str:
    """All numbers of all chips in Markdown, each with the first letter of its provenance."""
    names = dict.fromkeys(name for row in TABLE.values() for name in row.quantities)
    lines = [_line(["number", "unit", *TABLE]), _line(["---"] * (2 + len(TABLE)))]
    for name in names:
        known = [row.quantities.get(name) for row in TABLE.values()]
        unit = next(quantity.unit for quantity in known if quantity is not None)
        lines.append(_line([f"`{name}`", unit, *map(_cell, known)]))
    return "\n".join(lines)


def write_errors(found: Sequence[tuple[str, Verdict]]) -> None:
    """Write the verdicts of a full run of the fidelity bench, each with the label of its section."""
    write_part(ERRORS, errors_table(found))


def errors_table(found: Sequence[tuple[str, Verdict]]) -> str:
    """The verdicts in Markdown."""
    rows = [
        _line([label, verdict.name, verdict.figure, verdict.target, "met" if verdict.met else "**missed**"])
        for label, verdict in found
    ]
    return "\n".join([_line(["section", "what", "found", "target", ""]), _line(["---"] * 5), *rows])


def write_part(name: str, text: str) -> None:
    """Replace one generated part of the page.

    Raises:
        ValueError: If the page has no such part.
    """
    PAGE.write_text(with_part(PAGE.read_text(), name, text))


def with_part(page: str, name: str, text: str) -> str:
    """A page with one generated part replaced.

    Raises:
        ValueError: If the page has no such part.
    """
    before, _, after = _split(page, name)
    return f"{before}\n{text}\n{after}"


def part(page: str, name: str) -> str:
    """One generated part of a page.

    Raises:
        ValueError: If the page has no such part.
    """
    return _split(page, name)[1].strip("\n")


def _split(page: str, name: str) -> tuple[str, str, str]:
    """The page up to the part's first comment line, the part, and from its last comment line on."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(
            f"{PAGE.name} has no part {name!r}: expected the lines {begin!r} and {end!r} once each"
        )
    start, stop = page.index(begin) + len(begin), page.index(end)
    return page[:start], page[start:stop], page[stop:]


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _cell(quantity: Quantity | None) -> str:
    return "" if quantity is None else f"{engineering(quantity.value)} {quantity.provenance[0]}"


def engineering(value: float) -> str:
    """A number with an exponent that is a multiple of 3, such as "275e12"; none from 0.01 up to 10000."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.4g}"
    exponent = 3 * math.floor(math.log10(abs(value)) / 3)
    return f"{value / 10**exponent:.4g}e{exponent}"


if __name__ == "__main__":
    main()
