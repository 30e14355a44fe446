"""The part of a plan that says how much of the function is under its decisions, and what is not.

The counting is `autoshard.search.coverage`; records are as in `autoshard.record`.
"""

from __future__ import annotations

from autoshard.record import Record


class UnruledPrimitive(Record, frozen=True, kw_only=True):
    """A primitive whose operands and results were replicated, for want of a rule or of anything to split.

    Attributes:
        primitive: its name.
        count: how many equations of it were replicated, each once.
        bytes: what they touch in a step, all trips.
    """

    primitive: str
    count: int
    bytes: int


class OpaqueRecord(Record, frozen=True, kw_only=True):
    """Calls on one line of the source that cannot be looked into: `shard_map`, kernels, host callbacks.

    Attributes:
        primitive: what is called.
        source: the line, such as ``moe.py:57``; empty where it is not known.
        count: how many such calls there are, each once.
        bytes: what goes in and out of them in a step, all trips.
    """

    primitive: str
    source: str
    count: int
    bytes: int


class UnknownLoopRecord(Record, frozen=True, kw_only=True):
    """Loops on one line of the source whose trip count is unknown; `flops` are of one trip of each."""

    source: str
    count: int
    flops: float


class Coverage(Record, frozen=True, kw_only=True, omit_defaults=True):
    """How much of the function is under decisions of the plan, and what is not; see `search.coverage`.

    A number is None, and a list empty, where the plan was made before it was counted (no `bytes_fraction`);
    the file leaves such fields out, so that a plan of that time is written again as it was.

    Attributes:
        equations: how many equations were traced, nested ones included.
        einsums: how many of them are contractions.
        flops_fraction: part of `flops` under decisions.
        unruled: primitives without a sharding rule, replicated.
        flops: floating-point operations of a step, unsharded.
        bytes: what equations touch in a step, unsharded.
        bytes_fraction: part of `bytes` under decisions.
        unsplit: primitives with a rule by which nothing can be split, replicated.
        opaque: calls that cannot be looked into.
        replicated_bytes: the distinct tensors that `unruled` and `unsplit` keep whole on every chip.
        constants: how many arrays the function closes over.
        constant_bytes: their size, on every chip.
        small_arguments: how many arguments are kept whole because they are small.
        small_argument_bytes: their size, on every chip.
        tables: how many large arrays are computed from such arguments and constants alone.
        table_bytes: their size; the plan leaves them to the compiler.
        unknown_loops: loops whose trip count is unknown, counted as one trip.
        freed_annotations: sharding annotations of the function that the plan replaces.
    """

    equations: int
    einsums: int
    flops_fraction: float
    unruled: tuple[UnruledPrimitive, ...]
    flops: float | None = None
    bytes: int | None = None
    bytes_fraction: float | None = None
    unsplit: tuple[UnruledPrimitive, ...] = ()
    opaque: tuple[OpaqueRecord, ...] = ()
    replicated_bytes: int | None = None
    constants: int | None = None
    constant_bytes: int | None = None
    small_arguments: int | None = None
    small_argument_bytes: int | None = None
    tables: int | None = None
    table_bytes: int | None = None
    unknown_loops: tuple[UnknownLoopRecord, ...] = ()
    freed_annotations: int | None = None
