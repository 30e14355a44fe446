"""Options of the TPU compiler under which a plan is compiled and later run.

A plan says which collectives there are and where. Left to itself the compiler replaces some einsums that
gather or scatter their batch by loops of partial einsums between permutes ("windowed einsums"), so that
transfers overlap. The loop needs its weight in on-chip memory, converted or sliced out beforehand, for every
one of its steps: where activations are small that takes longer than the collective did. PaLM 540B decode with
int8 weights, 64 sequences on v4:4x4x4: estimated 56 ms with such loops, 27 ms without. So plans are compiled
without them, and the collectives of the program are those of the plan.

Gathers of weights depend on nothing that the step computes, and can run beside the einsums before their
reader. On v5e they do; on other generations the compiler makes them so only where it is told to, by two
options that work together. Llama 3 70B prefill with fully sharded weights on v6e:4x4: estimated 2.62 s
without, 2.06 s with them.
"""

from __future__ import annotations

from autoshard.cost.slices import Slice

_NEVER_MIB = "1000000"
_TPU = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": _NEVER_MIB,
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
}


def default_options(slice_: Slice) -> dict[str, str]:
    """Return the options with which plans for a slice are compiled."""
    return dict(_TPU) if slice_.chip.kind == "tpu" else {}
