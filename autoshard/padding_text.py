"""What is padded, in words: ``h 25 -> 28 over y: 12% more work``.

The work of an einsum, and the bytes of a tensor, grow by the product of the paddings of its dims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from autoshard.explain import Operation
from autoshard.plan_records import PaddingRecord, StoredPaddingRecord
from autoshard.units import format_percent, format_seconds


def padding_text(padding: Sequence[PaddingRecord]) -> str:
    """Return the padded dims of one operation and how much more work they are."""
    dims = ", ".join(f"{each.dim} {_growth(each)}" for each in padding)
    return f"{dims}: {_percent(prod(each.padded / each.size for each in padding))} more work"


def padding_lines(operations: Iterable[Operation]) -> list[str]:
    """Return one line for each padding of a plan, with how many operations, copies included, have it."""
    counts: dict[tuple[int, int, str], tuple[PaddingRecord, int]] = {}
    for operation in operations:
        for each in {(each.size, each.padded, each.axes): each for each in operation.padding}.values():
            key = (each.size, each.padded, each.axes)
            _, count = counts.get(key, (each, 0))
            counts[key] = each, count + operation.repeats
    return [
        f"padded: {_growth(each)}, {_percent(each.padded / each.size)} more work, in {count} "
        f"operation{'s' if count > 1 else ''}"
        for each, count in counts.values()
    ]


def offer_lines(offer: StoredPaddingRecord | None, seconds: float) -> list[str]:
    """Return the hint of arrays that should be stored padded, no line where there is none.

    Args:
        offer: What the plan says of them.
        seconds: Predicted step time as they are.
    """
    if offer is None or offer.seconds >= seconds:
        return []
    arrays = ", ".join(
        f"{path} ({', '.join(f'{each.dim} {_growth(each)}' for each in dims)})"
        for path, dims in offer.arrays.items()
    )
    return [
        f"hint: padded in the model, {arrays} could be split: predicted {format_seconds(offer.seconds)} a "
        f"step instead of {format_seconds(seconds)} ({format_percent(1 - offer.seconds / seconds)} less), "
        f"{offer.hbm_bytes_per_chip / 2**30:.3g} GiB per chip"
    ]


def _growth(each: PaddingRecord) -> str:
    return f"{each.size} -> {each.padded} over {each.axes}"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):.3g}%"
