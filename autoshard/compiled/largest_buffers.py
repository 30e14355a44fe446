"""What fills the memory of a program that does not fit.

The compiler's message names a total and no buffer. Compiled once more with `xla_dump_to` it writes a report
of its HBM, allocation by allocation, even where the program does not fit::

    Memory Space: default (color=0)
    Total bytes: 58143582720 (54.15GiB)
      cumulative_size;       size;       offset; used_by_n_values; shapes_list
       36.00GiB( 80%);   36.00GiB;            0;                9; bf16[1,1152,18432], 2×bf16[512,2048,18432]

Values that are not needed at once share an allocation; the largest of them gave it its size. The second
compile asks for the least effort, which takes a few seconds and finds nearly the same buffers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoshard.compiled.hlo import parse_shapes
from autoshard.units import format_bytes

LARGEST = "largest buffers: "
"""How the text of `describe_buffers` begins."""
_SECTION = "Memory Space: "
_HBM = "default"
_ROW = re.compile(r"^\s*[\d.]+\w*\(\s*\d+%\);\s*([\d.]+)([KMGT]?)i?B;\s*-?\d+;\s*\d+; (.*)$")
_ARRAY = re.compile(r"[a-z][a-z0-9]*\[[0-9,]*\]")
_UNIT_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REPORT = "*memory-usage-report.txt"
_EFFORT, _LEAST_EFFORT = "jax_exec_time_optimization_effort", -1.0
_SHOWN = 5


def describe_buffers(lowered: Any, options: Mapping[str, Any]) -> str:
    """Compile a program that does not fit once more, and name what it would have in HBM.

    Args:
        lowered: a `jax.stages.Lowered`.
        options: compiler options.

    Returns:
        Such as "largest buffers: 36.0 GiB bf16[512,2048,18432], 3 x 4.67 GiB bf16[118,1152,18432]"; empty
        where the compiler writes no report.
    """
    import jax

    effort = getattr(jax.config, _EFFORT)
    with TemporaryDirectory(prefix="autoshard-") as folder:
        try:
            jax.config.update(_EFFORT, _LEAST_EFFORT)
            lowered.compile(compiler_options={**options, "xla_dump_to": folder})
        except jax.errors.JaxRuntimeError:
            pass  # it does not fit, as before; the report has been written
        finally:
            jax.config.update(_EFFORT, effort)
        reports = sorted(Path(folder).glob(_REPORT))
        return buffers_text(reports[-1].read_text()) if reports else ""


def buffers_text(report: str) -> str:
    """The largest allocations of a report in words, equal ones together; empty where it lists none."""
    counts = Counter(allocations(report))
    largest = sorted(counts, key=lambda each: (-each[0], each[1]))[:_SHOWN]
    words = [f"{_times(counts[each])}{format_bytes(each[0])} {each[1]}" for each in largest]
    return f"{LARGEST}{', '.join(words)}" if words else ""


def allocations(report: str) -> list[tuple[int, str]]:
    """Bytes of each allocation in HBM, and the largest array in it."""
    found = []
    for section in report.split(_SECTION)[1:]:
        if section.startswith(_HBM):
            rows = (match for line in section.splitlines() if (match := _ROW.match(line)))
            found += [(round(float(row[1]) * _UNIT_BYTES[row[2]]), _largest(row[3])) for row in rows]
    return found


def _times(count: int) -> str:
    return f"{count} x " if count > 1 else ""


def _largest(shapes: str) -> str:
    arrays = _ARRAY.findall(shapes)
    return max(arrays, key=lambda text: parse_shapes(text)[0].nbytes, default="")
