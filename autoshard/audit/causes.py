"""Why a compiled collective is not as predicted, where the compiler's text tells."""

from __future__ import annotations

import re

from autoshard.audit.records import Row

_AGAIN = re.compile(r"\.remat\d*\b")
_NOTABLE = 0.1
_PERMUTE, _REDUCE, _SCATTER = "collective-permute", "all-reduce", "reduce-scatter"


def cause_of(row: Row) -> str:
    """Return the cause of a row's verdict in words, empty where it is as predicted or nothing tells."""
    names = [each.collective.name for each in row.compiled]
    kinds = {each.collective.kind for each in row.compiled}
    if names and all(map(_AGAIN.search, names)) and row.verdict != "agrees":
        return "done again instead of kept: the program is short of HBM"
    if (
        row.verdict == "agrees"
        and abs(row.compiled_bytes - row.predicted_bytes) > _NOTABLE * row.predicted_bytes
    ):
        return "as predicted but for its bytes"
    if row.verdict == "another form":
        return _other_form(row, kinds)
    if row.verdict == "unexpected" and kinds == {_PERMUTE}:
        return "shards change chips: mesh axes lie in another order where it is read"
    if row.verdict == "missing":
        return "nothing to do in the compiled program, or done by a collective that is listed elsewhere"
    return ""


def _other_form(row: Row, kinds: set[str]) -> str:
    predicted = {each.kind for each in row.predicted}
    if predicted == {_SCATTER} and _REDUCE in kinds:
        return "reduced everywhere, then sliced: twice the time of a reduce-scatter"
    if _PERMUTE in kinds and kinds != {_PERMUTE}:
        return "done over other axes, then the shards change chips"
    if len({each.collective.axes for each in row.compiled}) > 1:
        return "done over one axis after the other"
    return ""
