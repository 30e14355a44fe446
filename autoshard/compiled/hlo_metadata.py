"""Where in the user's source a compiled instruction comes from: the metadata of HLO text.

An instruction carries the path of its JAX operation and, one of two ways, its position in Python::

    metadata={op_name="jit(f)/ffn/dot_general" stack_frame_id=14}
    metadata={op_name="jit(f)/ffn/dot_general" source_file="/home/me/model.py" source_line=27}

The number points into four tables at the head of the module (`FileNames`, `FunctionNames`, `FileLocations`,
`StackFrames`), which share what frames have in common; a frame names its caller. Some versions print the
caller's number one too high: a frame that is called by no other shows which, as the first of a table is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_ROW = re.compile(r"\s*(\d+)\s+(.*)")
_NUMBER = re.compile(r"(\w+)=(\d+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_FILE = re.compile(r'source_file="((?:[^"\\]|\\.)*)"')
_LINE = re.compile(r"source_line=(\d+)")
_MOST_FRAMES = 100


@dataclass(frozen=True, slots=True)
class Position:
    """A line of Python: path of its file, number of the line, and the function, empty where unknown."""

    file: str
    line: int
    function: str = ""


@dataclass(frozen=True, slots=True)
class Frames:
    """The stack frames of a module.

    Attributes:
        positions: Line of every frame, by its number.
        callers: Number of the calling frame, by the number of a frame; none for outermost ones.
    """

    positions: Mapping[int, Position] = field(default_factory=dict)
    callers: Mapping[int, int] = field(default_factory=dict)

    def stack(self, frame: int) -> tuple[Position, ...]:
        """Return the lines of a frame and its callers, innermost first; none for an unknown number."""
        lines: list[Position] = []
        while frame in self.positions and len(lines) < _MOST_FRAMES:
            lines.append(self.positions[frame])
            frame = self.callers.get(frame, 0)
        return tuple(lines)


def parse_frames(lines: Sequence[str]) -> Frames:
    """Return the stack frames of a module's text; none where it has no tables."""
    tables = _tables(lines)
    files, functions = _names(tables["FileNames"]), _names(tables["FunctionNames"])
    locations = {
        number: Position(
            files.get(row.get("file_name_id", 0), ""),
            row.get("line", 0),
            functions.get(row.get("function_name_id", 0), ""),
        )
        for number, row in _numbers(tables["FileLocations"]).items()
    }
    rows = _numbers(tables["StackFrames"])
    shift = rows[min(rows)].get("parent_frame_id", 0) if rows else 0
    return Frames(
        positions={
            number: locations[row["file_location_id"]]
            for number, row in rows.items()
            if row.get("file_location_id") in locations
        },
        callers={
            number: row["parent_frame_id"] - shift
            for number, row in rows.items()
            if row.get("parent_frame_id", 0) > shift
        },
    )


def op_name_of(metadata: str) -> str:
    """Return the path of the JAX operation, empty where the metadata has none."""
    match = _OP_NAME.search(metadata)
    return match[1] if match else ""


def stack_of(metadata: str, frames: Frames) -> tuple[Position, ...]:
    """Return the Python lines of an instruction, innermost first, as far as its metadata knows them."""
    if (frame := _FRAME.search(metadata)) and (stack := frames.stack(int(frame[1]))):
        return stack
    file, line = _FILE.search(metadata), _LINE.search(metadata)
    return (Position(file[1], int(line[1])),) if file and line else ()


def _tables(lines: Sequence[str]) -> dict[str, dict[int, str]]:
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    rows: dict[int, str] | None = None
    for line in lines:
        if line.strip() in tables:
            rows = tables[line.strip()]
        elif rows is not None and (match := _ROW.fullmatch(line)):
            rows[int(match[1])] = match[2]
        else:
            rows = None
    return tables


def _names(rows: Mapping[int, str]) -> dict[int, str]:
    return {number: text.strip().strip('"') for number, text in rows.items()}


def _numbers(rows: Mapping[int, str]) -> dict[int, dict[str, int]]:
    return {
        number: {name: int(value) for name, value in _NUMBER.findall(text)} for number, text in rows.items()
    }
