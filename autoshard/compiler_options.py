"""Options of the TPU compiler under which a plan is compiled and later run.

A plan says which collectives there are and where. Left to itself the compiler replaces some einsums that
gather or scatter their batch by loops of partial einsums between permutes ("windowed einsums"), so that
transfers overlap. The loop needs its weight in on-chip memory, converted or sliced out beforehand, for every
one of its steps: where activations are small that takes longer than the collective did. PaLM 540B decode with
int8 weights, 64 sequences on v4:4x4x4: estimated 56 ms with such loops, 27 ms without. So plans are compiled
without them, and the collectives of the program are those of the plan.
"""

from __future__ import annotations

from autoshard.cost.slices import Slice

_NEVER_MIB = "1000000"
_TPU = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": _NEVER_MIB}


def default_options(slice_: Slice) -> dict[str, str]:
    """Return the options with which plans for a slice are compiled."""
    return dict(_TPU) if slice_.chip.kind == "tpu" else {}
