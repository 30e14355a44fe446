"""Options of the TPU compiler under which a plan is compiled and later run.

A plan says which collectives there are and where. Left to itself the compiler replaces some einsums that
gather or scatter their batch by loops of partial einsums between permutes ("windowed einsums"), so that
transfers overlap. The loop needs its weight in on-chip memory, converted or sliced out beforehand, for every
one of its steps: where activations are small that takes longer than the collective did. PaLM 540B decode with
int8 weights, 64 sequences on v4:4x4x4: estimated 56 ms with such loops, 27 ms without. So plans are compiled
without them, and the collectives of the program are those of the plan.

Gathers of weights depend on nothing that the step computes, and can run beside the einsums before their
reader. On v5e they do; elsewhere the compiler makes them so only where it is told to, and how to say it
depends on the chip (`_GATHERS`). 8 layers of Llama 3 8B, prefill with fully sharded weights on 16 chips,
estimated: v4 89.9 ms without, 65.5 ms with its option; v6e, where a SparseCore then gathers, 46.4 and
30.3 ms. Of the options that would do it on v5p, newer compilers refuse one (`..._fuse_all_gather`: "might
lead to incorrect results", on all chips but v5e), and the other makes the step slower. tpu7x offloads by
itself.
All that is set here is accepted by libtpu 0.0.42 to 0.0.52, so that a plan outlives the compiler.

Which values are best depends on the program. `searched_choices` are the options that change the schedule of
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


@dataclass(frozen=True, slots=True)
class OptionChoice:
    """Options that are set together, all to one value.

    Attributes:
        options: their names; the first names the choice.
        values: the values, ours first; None leaves the options to the compiler.
        purpose: what the options decide, in one line.
    """

    options: tuple[str, ...]
    values: tuple[str | None, ...]
    purpose: str = ""

    @property
    def name(self) -> str:
        """What the choice is called."""
        return self.options[0]


_VMEM_LIMIT = OptionChoice(
    ("xla_tpu_scoped_vmem_limit_kib",), (None,), "on-chip memory that one fused op may use, KiB"
)
_WINDOWS = OptionChoice(
    ("xla_jf_spmd_threshold_for_windowed_einsum_mib",),
    (_NEVER_MIB, None),
    "MiB from which an einsum becomes a loop of partial einsums between permutes",
)
_FUSED_GATHERS = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"
_OFFLOADED_GATHERS = (
    "xla_tpu_enable_sparse_core_collective_offload_all_gather",
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather",
)

_BESIDE = "whether gathers run beside other work"
_ON_SPARSE_CORE = "whether gathers run on the SparseCores, beside other work"

_GATHERS = {
    "v4": OptionChoice(("xla_enable_async_all_gather",), ("true", None), _BESIDE),
    "v5e": OptionChoice((_FUSED_GATHERS,), (None, "false"), _BESIDE),
    "v5p": OptionChoice(_OFFLOADED_GATHERS, (None, "true"), _ON_SPARSE_CORE),
    "v6e": OptionChoice(_OFFLOADED_GATHERS, ("true", "false"), _ON_SPARSE_CORE),
    "tpu7x": OptionChoice(_OFFLOADED_GATHERS, (None, "false"), _ON_SPARSE_CORE),
}
"""Per chip, what decides whether gathers run beside other work; ours first."""

_SCHEDULE = (
    OptionChoice(
        ("xla_tpu_enable_async_collective_fusion_multiple_steps",),
        (None, "false"),
        "whether a collective may run beside several fused ops",
    ),
    OptionChoice(
        ("xla_tpu_enable_latency_hiding_scheduler",),
        (None, "false"),
        "whether the schedule is made so that collectives hide behind compute",
    ),
    OptionChoice(
        ("xla_tpu_enable_all_reduce_scatter_fusion",),
        (None, "false"),
        "whether an all-reduce whose result is sliced becomes a reduce-scatter",
    ),
    OptionChoice(
        ("xla_tpu_overlap_compute_collective_tc",),
        (None, "false"),
        "whether compute and collectives of the TensorCore overlap",
    ),
)


def default_options(slice_: Slice) -> dict[str, str]:
    """Return the options with which plans for a slice are compiled."""
    if slice_.chip.kind != "tpu":
        return {}
    choices = (_WINDOWS, *_gathers(slice_))
    return options_of(choices, [choice.values[0] for choice in choices])


def searched_choices(slice_: Slice) -> tuple[OptionChoice, ...]:
    """Return what a search may change on a slice, the most promising first; the first values are ours.

    The compiler keeps 64 KiB of a core's VMEM, and only logs an error where more is asked for.
    """
    limits = [kib for kib in (65536, 98304, 32768) if kib < slice_.chip.vmem_bytes / 2**10]
    memory = replace(_VMEM_LIMIT, values=(*_VMEM_LIMIT.values, *map(str, limits)))
    return (*([memory] if limits else []), _WINDOWS, *_gathers(slice_), *_SCHEDULE)


def _gathers(slice_: Slice) -> tuple[OptionChoice, ...]:
    choice = _GATHERS.get(slice_.chip.name)
    return () if choice is None else (choice,)


def options_of(choices: Sequence[OptionChoice], values: Sequence[str | None]) -> dict[str, str]:
    """Return the compiler options that one value of each choice stands for."""
    return {
        option: value
        for choice, value in zip(choices, values, strict=True)
        if value is not None
        for option in choice.options
    }


def purpose_of(option: str) -> str | None:
    """Return what an option decides, in one line; None where this version does not know it."""
    known = (_VMEM_LIMIT, _WINDOWS, *_GATHERS.values(), *_SCHEDULE)
    return next((choice.purpose for choice in known if option in choice.options), None)


def describe_options(options: Mapping[str, str], default: Mapping[str, str]) -> str:
    """Say in what options differ from the default ones."""
    changes = [f"{name}={value}" for name, value in options.items() if default.get(name) != value]
    changes += [f"{name} left to the compiler" for name in default if name not in options]
    return ", ".join(changes) or "the default options"
