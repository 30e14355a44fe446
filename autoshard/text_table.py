"""Columns of text under a heading, each as wide as its widest cell."""

from collections.abc import Collection, Sequence

_GAP = "  "


def align(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return one line per row, its cells padded to the columns' widths.

    Args:
        rows: cells of every row, the heading being one of them; all rows have the same number of cells.
        right: indices of the columns that are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_GAP.join(_pad(row, widths, right)).rstrip() for row in rows]


def _pad(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    cells = enumerate(zip(row, widths, strict=True))
    return [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in cells]
