"""The parts of a plan: what a plan file says, field by field.

Every part is a frozen record (`autoshard.record`), known by its field names alone. What the tiers say of a
whole plan is in `autoshard.verdict_records`.

Times and bytes of an einsum or a tensor are for *one* execution; `trips` says how often it runs in a step
(a `scan` body is listed once). Copies of it in an unrolled program are listed once too: the name is then a
pattern (`autoshard.name_patterns`) of `repeats` names, and all of them together run `trips * repeats` times.
Times are seconds, `*_per_chip` counts are for one chip.
"""

from __future__ import annotations

from autoshard.record import Record


class SchemaRecord(Record, frozen=True, kw_only=True):
    """Which form the file has: a newer `version` cannot be read, a newer `revision` only adds fields.

    Version 2 has name patterns: entries that stand for several arrays or einsums. Version 1 is still read.
    Its revision 1 added the memory order of arrays and the parts of costs, revision 2 what the user forbade
    and the memory that the user allowed, revision 3 choices of the model, the einsums that could be one, the
    dims that are padded, and with what a plan was made together, revision 4 the arguments that should be
    stored padded.
    """

    version: int = 2
    revision: int = 4


class FunctionRecord(Record, frozen=True, kw_only=True):
    """The function that was planned.

    Attributes:
        name: its name.
        target: `MODULE_OR_FILE:FUNCTION` that loads it, where it is known.
        inputs: `MODULE_OR_FILE:FUNCTION` that gives its abstract inputs, where it is known.
        fingerprint: hash of the normalised jaxpr.
        tree_in: `str` of the tree structure of the tuple of positional arguments.
        tree_out: `str` of the tree structure of the result.
    """

    name: str
    target: str | None = None
    inputs: str | None = None
    fingerprint: str
    tree_in: str
    tree_out: str


class PhaseRecord(Record, frozen=True, kw_only=True):
    """One of several functions that were planned together, as in a `FunctionRecord`; `name` is unique."""

    name: str
    target: str | None = None
    inputs: str | None = None


class TogetherRecord(Record, frozen=True, kw_only=True):
    """What the user asked of phases that were planned together (`autoshard.tune_phases`).

    Attributes:
        phases: the functions, in the order in which they run.
        share: patterns of the arguments that lie alike in all of them.
        handover: patterns of the arguments that are results of the phase before.
        weights: how often each runs; None where the default holds.
        pins: layouts that the user fixed, in any phase; the plan's own are also those that the phases need.
        forbidden: axes that the user forbade, in any phase.
    """

    phases: tuple[PhaseRecord, ...]
    share: tuple[str, ...] = ()
    handover: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    pins: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


class AxisRecord(Record, frozen=True, kw_only=True):
    """One mesh axis: `size` chips, `stride` chips apart along dim `torus_dim` of the torus (-1: over DCN)."""

    name: str
    size: int
    torus_dim: int
    stride: int


class ArgumentRecord(Record, frozen=True, kw_only=True):
    """One array of the arguments: its type text, its spec text, and whether its buffer is donated.

    `order` lists its dims as they lie in memory on a TPU, where that is not as written
    (`autoshard.memory_orders`).
    """

    type: str
    spec: str
    donated: bool = False
    order: str | None = None


class ResultRecord(Record, frozen=True, kw_only=True):
    """One array of the results: its type text, its spec text, and its `order` as in an `ArgumentRecord`."""

    type: str
    spec: str
    order: str | None = None


class CostRecord(Record, frozen=True, kw_only=True):
    """A time by its parts, see `autoshard.cost.cost.Cost`; the file leaves out what is 0.

    Attributes:
        compute_seconds: matrix units.
        hbm_seconds: HBM and on-chip traffic, the copies of reshards included.
        overlapped_seconds: the part of these two that runs while the other does.
        ici_seconds: bytes over interconnect bandwidth, by the mesh axes used together, joined by ``,``.
        dcn_seconds: bytes over the bandwidth between slices.
        latency_seconds: what takes time without bytes.
        hidden_seconds: the part of the communication that other work hides.
    """

    compute_seconds: float = 0.0
    hbm_seconds: float = 0.0
    overlapped_seconds: float = 0.0
    ici_seconds: dict[str, float] = {}
    dcn_seconds: float = 0.0
    latency_seconds: float = 0.0
    hidden_seconds: float = 0.0


class CollectiveRecord(Record, frozen=True, kw_only=True):
    """One collective of an einsum or a tensor.

    Attributes:
        kind: all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute; or copy, a reshard's
            traffic in HBM.
        axes: the mesh axes that take part, joined by ``,``.
        bytes_per_chip: what one chip holds of the tensor: after an all-gather, before any other kind.
        seconds: predicted time of one execution.
        tensor: which tensor is moved; where the operation has copies, that of the first or of all in words.
    """

    kind: str
    axes: str
    bytes_per_chip: int
    seconds: float
    tensor: str


class PaddingRecord(Record, frozen=True, kw_only=True):
    """A dim that is padded, as the chips that split it do not divide it (`autoshard.cost.padding`).

    Attributes:
        dim: its letter in an einsum, else where it is in the tensor, such as ``dim 2``.
        size: its elements.
        padded: elements of the blocks of all chips, each a whole number of elements.
        axes: the mesh axes that split it, joined by ``,``.
    """

    dim: str
    size: int
    padded: int
    axes: str


class StoredPaddingRecord(Record, frozen=True, kw_only=True):
    """Arrays that the model could store padded, and what that would gain (`autoshard.padding_offers`).

    Attributes:
        arrays: by path of the argument or result, the dims that chips would split and do not divide.
        seconds: predicted time of a step then, padding included.
        hbm_bytes_per_chip: predicted peak then.
    """

    arrays: dict[str, tuple[PaddingRecord, ...]]
    seconds: float
    hbm_bytes_per_chip: int


class EinsumRecord(Record, frozen=True, kw_only=True):
    """One einsum: how it is sharded and what that costs.

    Attributes:
        name: pattern of its name, or of the names of all its copies; names are unique within the plan.
        source: where the user wrote it, such as ``llama.py:123``.
        equation: such as ``be,ef->bf``.
        trips: how often one copy runs in one step.
        repeats: how many copies there are: the number of names of the pattern.
        layout: the layout in the paper's notation, such as ``BE_x,E_xF_yz->BF_yz``.
        operands: spec text of each operand as the einsum reads it, after the specs it passes through on the
            way, joined by `` > ``; None where it is left to the compiler.
        result: spec texts that the result passes through, likewise; None where it is left to the compiler.
        collectives: what moves before and after it.
        compute_seconds: time of the matrix units.
        hbm_seconds: time of the HBM traffic.
        ici_seconds: time of the collectives and copies.
        flops_per_chip: floating-point operations, a multiply-add being two.
        cost: all of this by its parts; None in older plans.
        padding: the dims that it pads; the costs are those of the padded sizes.
    """

    name: str
    source: str
    equation: str
    trips: int
    repeats: int = 1
    layout: str
    operands: tuple[str | None, ...]
    result: str | None
    collectives: tuple[CollectiveRecord, ...] = ()
    compute_seconds: float
    hbm_seconds: float
    ici_seconds: float
    flops_per_chip: float
    cost: CostRecord | None = None
    padding: tuple[PaddingRecord, ...] = ()


class TensorRecord(Record, frozen=True, kw_only=True):
    """One constrained value that is no einsum's result; `spec` is None while it is an open sum.

    `operands` pins what its op reads, where a stored array (a table that is looked up) is resharded for it,
    or where the reshard takes several steps.
    `name` is a pattern, `trips` is of one copy, and `repeats` counts the copies, as in an `EinsumRecord`;
    so are the times and the `padding`.
    """

    name: str
    source: str
    spec: str | None
    operands: tuple[str | None, ...] = ()
    trips: int
    repeats: int = 1
    collectives: tuple[CollectiveRecord, ...] = ()
    hbm_seconds: float
    ici_seconds: float
    cost: CostRecord | None = None
    padding: tuple[PaddingRecord, ...] = ()


class FusionRecord(Record, frozen=True, kw_only=True):
    """Einsums that read one activation with weights of their own, and their time if they were one.

    Times are of all executions in a step, collectives included.

    Attributes:
        einsums: names of their records in the plan.
        reads: the activation.
        seconds: predicted for the einsums as they are.
        fused_seconds: predicted for the one einsum.
        collective_seconds: the exposed collectives in `seconds`.
        fused_collective_seconds: those in `fused_seconds`.
        estimated_seconds: `seconds` with the einsums' own times from the compiler's schedule; None where it
            did not run, or has none of them.
        estimated_fused_seconds: `fused_seconds` likewise.
    """

    einsums: tuple[str, ...]
    reads: str
    seconds: float
    fused_seconds: float
    collective_seconds: float = 0.0
    fused_collective_seconds: float = 0.0
    estimated_seconds: float | None = None
    estimated_fused_seconds: float | None = None
