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

Which values are best depends on the program. `SEARCHED` are the options that change the schedule of
Transformer steps; what is true by default on every generation is only ever switched off
(`autoshard.compiled.option_search`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from autoshard.cost.slices import Slice

CompileOptions = Literal["default", "none", "search"]
"""Our default options, none of ours, or the best that a search finds, the default ones included."""
COMPILE_OPTIONS: tuple[str, ...] = get_args(CompileOptions)

_NEVER_MIB = "1000000"
_TPU = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": _NEVER_MIB,
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
}


@dataclass(frozen=True, slots=True)
class OptionChoice:
    """Options that are set together, all to one value.

    Attributes:
        options: their names; the first names the choice.
        values: the values, ours first; None leaves the options to the compiler.
    """

    options: tuple[str, ...]
    values: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """What the choice is called."""
        return self.options[0]


_VMEM_LIMIT = "xla_tpu_scoped_vmem_limit_kib"

SEARCHED = (
    OptionChoice((_VMEM_LIMIT,), (None, "65536", "98304", "32768")),
    OptionChoice(("xla_jf_spmd_threshold_for_windowed_einsum_mib",), (_NEVER_MIB, None)),
    OptionChoice(
        ("xla_enable_async_all_gather", "xla_tpu_enable_async_collective_fusion_fuse_all_gather"),
        ("true", "false"),
    ),
    OptionChoice(("xla_tpu_enable_async_collective_fusion_multiple_steps",), (None, "false")),
    OptionChoice(("xla_tpu_enable_latency_hiding_scheduler",), (None, "false")),
    OptionChoice(("xla_tpu_enable_all_reduce_scatter_fusion",), (None, "false")),
    OptionChoice(("xla_tpu_overlap_compute_collective_tc",), (None, "false")),
)
"""What a search may change, the most promising first; the first values are those of `default_options`."""


def default_options(slice_: Slice) -> dict[str, str]:
    """Return the options with which plans for a slice are compiled."""
    return dict(_TPU) if slice_.chip.kind == "tpu" else {}


def searched_choices(slice_: Slice) -> tuple[OptionChoice, ...]:
    """Return what a search may change on a slice: `SEARCHED` without what its chip does not have.

    The compiler keeps 64 KiB of a core's VMEM, and only logs an error where more is asked for.
    """
    vmem_kib = slice_.chip.vmem_bytes / 2**10
    fitting = [
        replace(choice, values=tuple(v for v in choice.values if v is None or int(v) < vmem_kib))
        if choice.name == _VMEM_LIMIT
        else choice
        for choice in SEARCHED
    ]
    return tuple(choice for choice in fitting if len(choice.values) > 1)


def options_of(choices: Sequence[OptionChoice], values: Sequence[str | None]) -> dict[str, str]:
    """Return the compiler options that one value of each choice stands for."""
    return {
        option: value
        for choice, value in zip(choices, values, strict=True)
        if value is not None
        for option in choice.options
    }


def describe_options(options: Mapping[str, str], default: Mapping[str, str]) -> str:
    """Say in what options differ from the default ones."""
    changes = [f"{name}={value}" for name, value in options.items() if default.get(name) != value]
    changes += [f"{name} left to the compiler" for name in default if name not in options]
    return ", ".join(changes) or "the default options"
