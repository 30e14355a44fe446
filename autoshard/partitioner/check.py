"""Tier 1's verdict on a plan: the collectives that it predicts against those that Shardy puts in.

Predicted and propagated collectives are matched within a kind, in two rounds:

1. the same mesh axes and the same bytes, run for run;
2. a predicted one stands for propagated ones over parts of its axes that run as often on no more bytes: what
   the plan gathers over x and y may be gathered over y first and over x then.

What is left of the propagated ones is *unexpected*: the partitioner puts it in and the plan did not ask for
it. What is left of the predicted ones is *missing*. The time that the model did not see is ``max(0, seconds
of all propagated collectives - seconds of all predicted ones)``, both by the same laws
(`autoshard.cost.collectives`): where less is moved than predicted, the model's count stands, since a compiler
may yet add what Shardy does not show (the neighbours' data of a window, for one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from autoshard.cost.collectives import Kind
from autoshard.cost.slices import Slice
from autoshard.marks import without_marks
from autoshard.partitioner.prices import PropagatedCollective
from autoshard.partitioner.worker import TIME_LIMIT_SECONDS, PropagationResult, propagate_all
from autoshard.plan import Plan
from autoshard.plan_records import CollectiveRecord, EinsumRecord, TensorRecord
from autoshard.programs import Program

_COPY = "copy"
"""Kind of a copy in plan files: traffic of the HBM, no collective."""


@dataclass(frozen=True, slots=True)
class PropagationCheck:
    """What Shardy says of a plan, beside what the plan says itself.

    Attributes:
        result: of Shardy's passes; where it is not `ok` nothing is compared.
        predicted: the plan's collectives.
        unexpected: collectives that the plan does not have, with the runs that it does not have.
        missing: collectives of the plan that are not needed.
    """

    result: PropagationResult
    predicted: tuple[PropagatedCollective, ...] = ()
    unexpected: tuple[PropagatedCollective, ...] = ()
    missing: tuple[PropagatedCollective, ...] = ()

    @property
    def unexpected_bytes(self) -> float:
        """Bytes per chip of the unexpected collectives, all runs."""
        return sum(each.total_bytes for each in self.unexpected)

    @property
    def missing_bytes(self) -> float:
        """Bytes per chip of the missing collectives, all runs."""
        return sum(each.total_bytes for each in self.missing)

    @property
    def unseen_seconds(self) -> float:
        """Time of a step's collectives that the model did not see; 0 where Shardy has no answer."""
        if self.result.seconds is None:
            return 0.0
        return max(0.0, self.result.seconds - _seconds(self.predicted))

    def agrees(self, seconds: float) -> bool:
        """Whether Shardy has an answer that leaves the model no more than some seconds of a step unseen."""
        return self.result.status == "ok" and self.unseen_seconds <= seconds

    def bytes_by_kind(self) -> dict[str, tuple[float, float]]:
        """Bytes per chip, predicted and propagated, by kind of collective."""
        kinds = dict.fromkeys(each.kind for each in (*self.predicted, *self.result.collectives))
        return {
            kind: (_bytes(self.predicted, kind), _bytes(self.result.collectives, kind))
            for kind in sorted(kinds)
        }

    @property
    def summary(self) -> str:
        """One line: why Shardy has no answer, or how far plan and partitioner agree."""
        if self.result.status != "ok":
            return f"{self.result.status}: {_first_line(self.result.detail)}"
        text = (
            f"{_bytes(self.predicted) / 2**20:.1f} MiB predicted, "
            f"{self.result.total_bytes / 2**20:.1f} MiB propagated, "
            f"{self.unexpected_bytes / 2**20:.1f} MiB unexpected"
        )
        if not self.unexpected:
            return text
        worst = max(self.unexpected, key=lambda each: each.seconds * each.trips)
        where = " ".join(filter(None, (without_marks(worst.op_name), worst.line)))
        return f"{text}, most of it the {worst.kind} over {','.join(worst.axes)} of {where or 'no named op'}"


def check_candidates(
    plans: Sequence[Plan],
    programs: Sequence[Program],
    slice_: Slice | str,
    *,
    workers: int = 1,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    on_check: Callable[[int, PropagationCheck], None] | None = None,
) -> list[PropagationCheck]:
    """Tier 1: partition each candidate and compare what it moves with its plan.

    Args:
        plans: the candidates.
        programs: the function under each of them (`autoshard.refining.export_candidate`).
        slice_: the slice, or its name, that prices the collectives.
        workers: how many child processes.
        time_limit_seconds: per candidate.
        on_check: called with the index and the check of a candidate as soon as it is known.

    Returns:
        One check per plan, in their order; a candidate that Shardy cannot partition has its status.
    """
    checks: dict[int, PropagationCheck] = {}

    def settle(index: int, result: PropagationResult) -> None:
        checks[index] = check(plans[index], result)
        if on_check is not None:
            on_check(index, checks[index])

    propagate_all(programs, slice_, workers=workers, time_limit_seconds=time_limit_seconds, on_result=settle)
    return [checks[index] for index in range(len(plans))]


def check(plan: Plan, result: PropagationResult) -> PropagationCheck:
    """Compare a plan's collectives with those of its partitioned program."""
    predicted = tuple(predicted_collectives(plan))
    if result.status != "ok":
        return PropagationCheck(result, predicted)
    missing, unexpected = _same(predicted, [each for each in result.collectives if each.bytes_per_chip])
    missing, unexpected = _parts(missing, unexpected)
    return PropagationCheck(result, predicted, tuple(unexpected), tuple(missing))


def predicted_collectives(plan: Plan) -> Iterator[PropagatedCollective]:
    """List the collectives of a plan, in its order; copies in HBM are left out."""
    records: tuple[EinsumRecord | TensorRecord, ...] = (*plan.einsums, *plan.tensors)
    for record in records:
        for each in record.collectives:
            if each.kind != _COPY and each.axes:
                yield _predicted(each, record.trips * record.repeats, record.name, record.source)


def _predicted(record: CollectiveRecord, runs: int, name: str, source: str) -> PropagatedCollective:
    kind = Kind.ALL_TO_ALL.value if record.kind == Kind.RAGGED_ALL_TO_ALL else record.kind
    axes = tuple(record.axes.split(","))
    return PropagatedCollective(kind, axes, record.bytes_per_chip, runs, record.seconds, name, source)


_Collectives = list[PropagatedCollective]


def _same(
    predicted: Iterable[PropagatedCollective], propagated: Iterable[PropagatedCollective]
) -> tuple[_Collectives, _Collectives]:
    """Cancel what is the same on both sides, run for run; return what is left of each."""
    waiting: dict[tuple[object, ...], _Collectives] = {}
    for each in predicted:
        waiting.setdefault(_key(each), []).append(each)
    left: _Collectives = []
    for found in propagated:
        runs, known = found.trips, waiting.get(_key(found), [])
        while runs and known:
            cancelled = min(runs, known[0].trips)
            runs -= cancelled
            known[0] = replace(known[0], trips=known[0].trips - cancelled)
            if not known[0].trips:
                known.pop(0)
        if runs:
            left.append(replace(found, trips=runs))
    return [each for known in waiting.values() for each in known], left


def _key(collective: PropagatedCollective) -> tuple[object, ...]:
    return collective.kind, frozenset(collective.axes), round(collective.bytes_per_chip)


def _parts(predicted: _Collectives, propagated: _Collectives) -> tuple[_Collectives, _Collectives]:
    """Cancel the parts that a collective over several axes is done in."""
    missing: _Collectives = []
    for whole in predicted:
        axes, done = set(whole.axes), list[PropagatedCollective]()
        for part in sorted(propagated, key=lambda each: -each.bytes_per_chip):
            if _is_part(part, whole) and axes.issuperset(part.axes):
                axes -= set(part.axes)
                done.append(part)
        propagated = [each for each in propagated if not any(each is part for part in done)]
        missing += [] if done else [whole]
    return missing, propagated


def _is_part(part: PropagatedCollective, whole: PropagatedCollective) -> bool:
    return (
        part.kind == whole.kind
        and part.trips == whole.trips
        and part.bytes_per_chip <= whole.bytes_per_chip * (1 + 1e-6)
    )


def _bytes(collectives: Iterable[PropagatedCollective], kind: str | None = None) -> float:
    return sum(each.total_bytes for each in collectives if kind in (None, each.kind))


def _seconds(collectives: Iterable[PropagatedCollective]) -> float:
    return sum(each.seconds * each.trips for each in collectives)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
