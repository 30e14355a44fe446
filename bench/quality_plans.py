"""Both sides of a case: what a tuning run would compile, and each rule of people at its best mesh.

*Ours* are the first five plans of the search over the meshes that ``autoshard tune`` tries.

A *rule* of `bench.fidelity_hand` is tried on each of these meshes, with the mesh axes split in its two parts
in every way. Tier 0 ranks these, and fills in what a rule leaves open; its best one is the rule's. As the
compiler may see it otherwise, so is the next one within `NEAR` of that. Whether a rule fits HBM is the
compiler's verdict, not the model's: where a rule's best plan needs up to `OVER` times what the model lets
plans use, it stands beside the best one within the limit. Rules that tier 0 finds more than `WORTH` times as
slow as the best of them are kept, but not compiled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from autoshard.candidate_plans import distinct_candidates
from autoshard.cost.slices import parse_slice
from autoshard.mesh_search import search_meshes
from autoshard.mesh_study import mesh_label, meshes_to_try
from autoshard.progress import Progress
from autoshard.search.errors import BudgetError, NoSolutionError, NotWorthError, PinError
from autoshard.search.planner import Candidate, search_plans
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import Session
from bench.fidelity_cases import Case, Study
from bench.fidelity_hand import Rule, has_experts, ruled, rules, splits
from bench.fidelity_plans import WRITTEN, Proposal
from bench.fidelity_report import PROPOSED

SEARCH, HAND, SLOW = "search", "hand", "slow hand"
NEAR = 1.1
OVER = 1.1
WORTH = 1.5
_BETTER = 0.999
"""A mesh is taken before an earlier one where it is notably faster."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A plan, and the mesh that it is on."""

    study: Study
    proposal: Proposal


def studies(case: Case) -> tuple[Study, ...]:
    """The case on each mesh that is tried, the slice's own first."""
    meshes = meshes_to_try(parse_slice(case.slice_name), "auto")
    return tuple(Study(case, mesh_label(mesh) if place else "") for place, mesh in enumerate(meshes))


def contenders(case: Case) -> list[Placed]:
    """What is compiled of both sides, and the rules that are not worth it."""
    places = studies(case)
    found = rule_plans(places)
    return [*our_plans(places), *found, *written_plans(found)]


def written_plans(placed: Iterable[Placed]) -> list[Placed]:
    """The rules that are worth it, as people write them."""
    return [
        Placed(each.study, Proposal(WRITTEN, each.proposal.candidate, each.proposal.rule))
        for each in placed
        if each.proposal.origin == HAND
    ]


def our_plans(places: tuple[Study, ...], most: int = PROPOSED) -> list[Placed]:
    """The plans that a tuning run would compile."""
    native = places[0]
    function, _, _ = native.case.target()
    session = Session(
        Target("", None, function, native.case.name, (), {}),
        Options(native.case.slice_name, top_k=most),
        Progress(quiet=True),
        native.mesh.slice,
        native.traced,
        native.problem.graph,
    )
    by_mesh = {study.mesh: study for study in places}
    return [
        Placed(by_mesh[solved.problem.mesh], Proposal(SEARCH, candidate))
        for solved, candidate in distinct_candidates(search_meshes(session), most)
    ]


def rule_plans(places: tuple[Study, ...]) -> list[Placed]:
    """Every possible rule at its best mesh, within the limit and over it; the slow ones so marked."""
    within: dict[str, list[Placed]] = {}
    loosely: dict[str, list[Placed]] = {}
    for study in places:
        for name, rule in placed_rules(study):
            _improve(loosely, study, name, rule, OVER * study.limit_bytes)
            best = loosely.get(rule.name, [])
            if best and all(each.proposal.candidate.peak.nbytes <= study.limit_bytes for each in best):
                within[rule.name] = best
            else:
                _improve(within, study, name, rule, study.limit_bytes)
    every = list(itertools.chain(*within.values(), *loosely.values()))
    least = min(map(_seconds, every), default=0.0)
    distinct: dict[tuple[str, tuple[int, ...]], Placed] = {}
    for each in every:
        distinct.setdefault((each.study.label, each.proposal.candidate.labels), each)
    return [_marked(each, WORTH * least) for each in distinct.values()]


def _improve(best: dict[str, list[Placed]], study: Study, name: str, rule: Rule, limit_bytes: float) -> None:
    """Put a rule's best plan on a mesh among the best of the rule, where it is."""
    known = best.get(rule.name, [])
    worth = NEAR * _seconds(known[0]) if known else float("inf")
    found = _plan(study, rule, limit_bytes, worth)
    if found is not None:
        best[rule.name] = nearest([*known, Placed(study, Proposal(HAND, found, name))])


def nearest(placed: Sequence[Placed]) -> list[Placed]:
    """The fastest of some plans, the earlier one of equals, and the next one where it is near it."""
    least = min(map(_seconds, placed))
    first = next(each for each in placed if _BETTER * _seconds(each) <= least)
    others = [each for each in placed if least < _BETTER * _seconds(each) and _seconds(each) <= NEAR * least]
    return [first, *sorted(others, key=_seconds)[:1]]


def _seconds(placed: Placed) -> float:
    return placed.proposal.candidate.seconds


def placed_rules(study: Study) -> Iterator[tuple[str, Rule]]:
    """The rules with the mesh axes split in every way, and their names with the parts where these matter."""
    phase, experts = study.case.phase, has_experts(study)
    ways = splits(study.mesh.names)
    turned = [rules(split, phase, has_experts=experts) for split in ways]
    for same in zip(*turned, strict=True):
        if len(set(same)) == 1:
            yield same[0].name, same[0]
            continue
        for split, rule in zip(ways, same, strict=True):
            yield f"{rule.name} {split.text}", rule


def _plan(study: Study, rule: Rule, limit_bytes: float, worth_seconds: float) -> Candidate | None:
    """A rule's best plan, unless it is impossible, does not fit, or is slower than what is known."""
    with suppress(PinError, BudgetError, NoSolutionError, NotWorthError):
        found = search_plans(ruled(study, rule), limit_bytes, worth_seconds=worth_seconds).candidates[0]
        return found if found.seconds < worth_seconds else None
    return None


def _marked(placed: Placed, most_seconds: float) -> Placed:
    if _seconds(placed) <= most_seconds:
        return placed
    proposal = placed.proposal
    return Placed(placed.study, Proposal(SLOW, proposal.candidate, proposal.rule))
