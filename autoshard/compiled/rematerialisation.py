"""What the partitioner could only reshard by replicating: its warnings in the compiler's log.

Where no collective takes a tensor from one sharding to another, the partitioner gathers the whole tensor on
every chip and cuts it anew. It does not fail, it logs (one line)::

    W1121 15:31:05.268902 28128 spmd_partitioner.cc:654] [SPMD] Involuntary full rematerialization. The
    compiler cannot go from sharding {devices=[2,1,4]<=[8]} to {devices=[1,4,2]<=[8]} efficiently for HLO
    operation %copy.9 = f32[188,784]{1,0} copy(%mul.91), sharding={...}, metadata={op_name="jit(f)/mul"
    stack_frame_id=4}. As the last resort, SPMD will replicate the tensor and then partition it ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoshard.compiled.hlo import parse_shapes
from autoshard.compiled.hlo_metadata import op_name_of

WARNING = "Involuntary full rematerialization"
_LAST_RESORT = " As the last resort"
_SHARDINGS = re.compile(
    r"from sharding (?P<held>\{.*?\}) to (?P<wanted>\{.*?\}) efficiently for HLO operation "
)


@dataclass(frozen=True, slots=True)
class Rematerialisation:
    """One reshard that was done by replicating; shardings are in XLA's notation.

    Attributes:
        tensor: Type of the tensor as a whole, such as `f32[188,784]`; empty where the log does not say.
        held: Its sharding.
        wanted: The sharding that it was brought to.
        op_name: Path of the JAX operation, empty where unknown.
        metadata: All that the log has of its metadata.
    """

    tensor: str
    held: str
    wanted: str
    op_name: str
    metadata: str


def rematerialised_in(log: str) -> tuple[str, ...]:
    """Return the warnings of a log, each from its first word on, without the advice at its end."""
    return tuple(
        line[line.index(WARNING) :].partition(_LAST_RESORT)[0] for line in log.splitlines() if WARNING in line
    )


def parse_warning(text: str) -> Rematerialisation:
    """Return what a warning says; fields that it does not have are empty."""
    shardings = _SHARDINGS.search(text)
    operation = text[shardings.end() :] if shardings else ""
    _, _, metadata = operation.partition("metadata=")
    shapes = parse_shapes(operation.partition(" = ")[2].partition("(")[0])
    sizes = ",".join(map(str, shapes[0].dims)) if shapes else ""
    return Rematerialisation(
        tensor=f"{shapes[0].dtype}[{sizes}]" if shapes else "",
        held=shardings["held"] if shardings else "",
        wanted=shardings["wanted"] if shardings else "",
        op_name=op_name_of(metadata),
        metadata=metadata,
    )
