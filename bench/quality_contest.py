"""A case of the quality bench as a contest: our plans and the rules, and what makes the difference.

An estimate of the TPU compiler is the sum of compute, of times that were filled in, and of collectives that
nothing hides. So the difference of two plans is the sum of the differences of these parts, and the part that
explains most of it is the cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoshard.cost.torus import TorusMesh
from autoshard.mesh_study import mesh_label
from autoshard.units import format_seconds
from bench.fidelity_cache import Answer, Cache
from bench.fidelity_cases import Case, Study
from bench.fidelity_compiled import compare
from bench.fidelity_plans import FREED, WRITTEN
from bench.fidelity_report import PROPOSED, Row
from bench.quality_plans import SEARCH, SLOW, studies

COMPUTE, FILLED = "compute", "time filled in"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A plan that the compiler accepted, and its mesh."""

    row: Row
    mesh: TorusMesh

    @property
    def seconds(self) -> float:
        """Estimated step time."""
        assert self.row.estimated is not None
        return self.row.estimated

    @property
    def parts(self) -> dict[str, float]:
        """The estimate in parts."""
        return parts(self.row.answer, self.mesh)

    @property
    def name(self) -> str:
        """The rule and its mesh."""
        return f"{self.row.plan.rule} on {mesh_label(self.mesh)}"


@dataclass(frozen=True, slots=True)
class Contest:
    """A case; neither side is empty.

    Attributes:
        case: Its name.
        ours: Plans of the search in the order of tier 0.
        freed: The best of them with projections left to the compiler, where that was compiled.
        rules: Rules that the compiler accepted, filled in by the search.
        written: Rules that it accepted as people write them.
        slow: Rules that were not compiled: tier 0 finds them far slower than the best.
        waiting: Plans of either side that a rebuild has not compiled yet.
    """

    case: str
    ours: tuple[Entrant, ...]
    rules: tuple[Entrant, ...]
    written: tuple[Entrant, ...] = ()
    freed: tuple[Entrant, ...] = ()
    slow: int = 0
    waiting: int = 0

    @property
    def first(self) -> Entrant:
        """The plan that tier 0 takes."""
        return self.ours[0]

    @property
    def best(self) -> Entrant:
        """The best plan that is compiled in a tuning run."""
        return min((*self.ours[:PROPOSED], *self.freed), key=_seconds)

    @property
    def rule(self) -> Entrant:
        """The best rule, filled in by the search."""
        return min(self.rules, key=_seconds)

    @property
    def annotated(self) -> Entrant | None:
        """The best rule as people write it; None where the compiler accepted none."""
        return min(self.written, key=_seconds, default=None)

    @property
    def ratio(self) -> float:
        """Our best over the best rule."""
        return self.best.seconds / self.rule.seconds

    @property
    def first_ratio(self) -> float:
        """The plan that tier 0 takes over the best rule."""
        return self.first.seconds / self.rule.seconds


def contest(case: Case, cache: Cache) -> Contest | None:
    """The two sides of a case; None where the compiler has accepted nothing of one of them."""
    places = [study for study in studies(case) if study.name in cache.cases]
    entrants = [entrant for study in places for entrant in entrants_of(study, cache)]
    plans = [plan for study in places for plan in cache.of_case(study.name)]
    slow = sum(plan.origin == SLOW for plan in plans)
    waiting = sum(plan.origin != SLOW and plan.answer is None for plan in plans)
    return sides(case.name, entrants, slow, waiting)


def sides(case: str, entrants: Sequence[Entrant], slow: int = 0, waiting: int = 0) -> Contest | None:
    """Entrants by side; of ours only those that the model says fit, for a tuning run takes no others.

    A plan of ours that is also a rule's stands on both sides.
    """
    ours = [each for each in entrants if each.row.plan.origin == SEARCH and each.row.fits]
    freed = tuple(each for each in entrants if each.row.plan.origin in FREED)
    written = [each for each in entrants if each.row.plan.origin == WRITTEN]
    rules = [each for each in entrants if each.row.plan.rule and each not in written]
    ours.sort(key=lambda each: each.row.predicted)
    if not ours or not rules:
        return None
    return Contest(case, tuple(ours), tuple(rules), tuple(written), freed, slow, waiting)


def entrants_of(study: Study, cache: Cache) -> list[Entrant]:
    """The plans of a case on one mesh that the compiler accepted."""
    report = compare(study, cache)
    return [Entrant(row, study.mesh) for row in report.rows if row.estimated is not None]


def parts(answer: Answer, mesh: TorusMesh) -> dict[str, float]:
    """An estimate in parts, in seconds: compute, time filled in, and exposed collectives by kind."""
    found = {COMPUTE: answer.compute, FILLED: answer.filled}
    for kind, seconds in answer.exposed_by_kind(mesh).items():
        found[f"exposed {kind}"] = seconds
    return found


def cause(ours: Entrant, rule: Entrant) -> str:
    """Why ours is as fast as it is beside a rule: both by both tiers, and the parts that differ."""
    both = "; ".join(
        f"{side} predicted {format_seconds(each.row.predicted)}, estimated {format_seconds(each.seconds)}"
        for side, each in (("ours", ours), (rule.row.plan.rule, rule))
    )
    return f"{both}; ours has {differences(ours.parts, rule.parts, 0.05 * abs(ours.seconds - rule.seconds))}"


def differences(ours: Mapping[str, float], rule: Mapping[str, float], least_seconds: float) -> str:
    """What ours has more and less of, the largest difference first; small ones are left out."""
    apart = {name: ours.get(name, 0.0) - rule.get(name, 0.0) for name in {**ours, **rule}}
    notable = [name for name in apart if abs(apart[name]) > least_seconds]
    said = [
        f"{format_seconds(abs(apart[name]))} {'more' if apart[name] > 0 else 'less'} {name}"
        for name in sorted(notable, key=lambda name: -abs(apart[name]))
    ]
    return ", ".join(said) or "no notable difference"


def _seconds(entrant: Entrant) -> float:
    return entrant.seconds
