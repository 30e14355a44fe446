"""Both sides of a case of the quality bench: rules at their best mesh, and what a tuning run compiles."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from autoshard.mesh_study import mesh_label
from autoshard.planning import make_plan
from autoshard.search import planner
from autoshard.search.planner import Outcome, search_plans
from bench import fidelity_cache, mixtral, quality_plans, quality_rebuild
from bench.fidelity_cache import PlanLine
from bench.fidelity_cases import Case, Study, decode_case, prefill_case
from bench.fidelity_hand import splits
from bench.fidelity_plans import FREED, WRITTEN, Proposal, export
from bench.fidelity_rebuild import Compiling
from bench.hand_annotations import as_written
from bench.quality_cases import CASES
from bench.quality_plans import (
    HAND,
    SEARCH,
    SLOW,
    Placed,
    nearest,
    our_plans,
    placed_rules,
    rule_plans,
    studies,
    written_plans,
)
from examples import palm

DENSE = decode_case(palm, "palm_tiny", palm.TINY, "v5e:2x4", 8, 32)
MIXTURE = prefill_case(mixtral, "mixtral_tiny", mixtral.TINY, "v5e:2x4", 16, 32)


@pytest.fixture(scope="module")
def rules() -> list[Placed]:
    """The rules of the dense case."""
    return rule_plans(studies(DENSE))


def test_the_cases_are_those_that_the_claim_is_about() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 12
    assert {case.phase for case in CASES} == {"decode", "prefill", "train"}
    assert {case.slice_name.partition(":")[0] for case in CASES} == {"v4", "v5e", "v5p", "v6e"}
    chips = {studies(case)[0].mesh.slice.n_chips for case in CASES}
    assert min(chips) == 8
    assert max(chips) == 256


def test_a_case_is_studied_on_every_mesh_of_a_tuning_run() -> None:
    native, finer = studies(DENSE)
    assert (native.name, mesh_label(native.mesh)) == ("palm_tiny.decode.v5e:2x4", "x=2 y=4")
    assert (finer.name, mesh_label(finer.mesh)) == (f"{native.name} on x=2 y0=2 y1=2", "x=2 y0=2 y1=2")


def test_splits_of_the_axes_are_all_there_are() -> None:
    assert [split.text for split in splits(("x", "y", "z"))] == [
        "x|y,z", "y|x,z", "z|x,y", "x,y|z", "x,z|y", "y,z|x",
    ]  # fmt: skip
    assert [(split.first, split.rest, split.every) for split in splits(("x",))] == [("x", "", "x")]


def test_rules_that_split_the_axes_come_once_for_each_split() -> None:
    names = [name for name, _ in placed_rules(studies(DENSE)[0])]
    assert names.count("FSDP") == 1
    assert [name for name in names if name.startswith("2D weight")] == [
        "2D weight-stationary x|y",
        "2D weight-stationary y|x",
    ]
    assert not any("expert" in name for name in names)


def test_of_a_rule_the_fastest_stands_and_the_next_one_near_it(rules: list[Placed]) -> None:
    def lasting(seconds: float) -> Placed:
        candidate = replace(rules[0].proposal.candidate, seconds=seconds)
        return Placed(rules[0].study, Proposal(HAND, candidate, "rule"))

    some = [lasting(seconds) for seconds in (1.3, 1.0, 0.9999, 1.08, 1.05)]
    assert nearest(some) == [some[1], some[4]]  # the earlier one of equals; 1.3 is far
    assert nearest(some[:1]) == some[:1]


def test_ours_is_no_slower_than_any_rule_by_the_model(rules: list[Placed]) -> None:
    ours = our_plans(studies(DENSE))
    seconds = [placed.proposal.candidate.seconds for placed in ours]
    assert seconds == sorted(seconds)
    assert {placed.proposal.origin for placed in ours} == {SEARCH}
    least = min(placed.proposal.candidate.seconds for placed in rules)
    assert seconds[0] <= 1.01 * least
    for placed in rules:
        slow = placed.proposal.candidate.seconds > quality_plans.WORTH * least
        assert placed.proposal.origin == (SLOW if slow else HAND)


def test_runners_up_have_the_rest_that_suits_their_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    case = decode_case(palm, "palm", replace(palm.PALM_540B, layers=1), "v4:4x8x8", 512, 2048)
    study = Study(case)
    found = search_plans(study.problem, study.limit_bytes, top_k=3).candidates
    monkeypatch.setattr(planner, "decided_alike", lambda search, plain, *_: plain)
    plain = search_plans(study.problem, study.limit_bytes, top_k=3).candidates
    assert len(found) == len(plain) == 3
    assert found[0].seconds == plain[0].seconds
    for mine, other in zip(found[1:], plain[1:], strict=True):
        assert mine.seconds < 0.98 * other.seconds


def test_a_rule_is_taken_at_its_best_mesh(rules: list[Placed]) -> None:
    (best,) = [
        placed.proposal.candidate.seconds
        for placed in rules
        if placed.proposal.rule.startswith("2D weight-stationary")
    ]
    for study in studies(DENSE):
        for name, rule in placed_rules(study):
            if rule.name == "2D weight-stationary":
                plan = quality_plans._plan(study, rule, study.limit_bytes, float("inf"))
                assert plan is None or plan.seconds >= 0.999 * best, name


def test_what_is_worth_it_is_also_there_as_people_write_it(rules: list[Placed]) -> None:
    worth = [placed for placed in rules if placed.proposal.origin == HAND]
    found = written_plans(rules)
    assert {placed.proposal.origin for placed in found} == {WRITTEN}
    assert [(placed.study, placed.proposal.candidate) for placed in found] == [
        (placed.study, placed.proposal.candidate) for placed in worth
    ]


def test_people_write_what_the_big_matrices_meet_and_nothing_else(rules: list[Placed]) -> None:
    study, proposal = next(
        (placed.study, placed.proposal) for placed in rules if placed.proposal.rule == "FSDP"
    )
    outcome = Outcome((proposal.candidate,), 0.0, "")
    plan = make_plan(study.traced, study.problem, proposal.candidate, outcome, function_name="f")
    found = as_written(plan)
    names = {einsum.name for einsum in found.einsums}
    assert names == {f"layers/{name}" for name in ("wq", "wo", "w_gate", "w_up", "w_down")}
    assert not found.tensors
    assert (found.arguments, found.results) == (plan.arguments, plan.results)
    for einsum in found.einsums:
        activation, matrix = einsum.operands
        assert activation is not None and matrix is not None
        assert matrix.replace(";", "") == ""  # FSDP reads them whole
        assert activation.partition(";")[0] and ">" not in activation
        assert einsum.result is None


def test_the_program_as_people_write_it_has_fewer_constraints(rules: list[Placed]) -> None:
    placed = next(placed for placed in rules if placed.proposal.origin == HAND)
    whole, written = (
        str(jax.export.deserialize(bytearray(program.serialised)).mlir_module())
        for program in (export(placed.study, placed.proposal.candidate, origin) for origin in (HAND, WRITTEN))
    )
    assert 0 < written.count("sharding_constraint") < whole.count("sharding_constraint")


def test_experts_are_cut_as_a_rule_says() -> None:
    study = studies(MIXTURE)[0]
    rule = dict(placed_rules(study))["expert parallel and FSDP x|y"]
    assert rule.experts is not None
    assert (rule.experts.axis, rule.experts.stored, rule.experts.tokens) == ("x", ("y", ""), "y")
    plan = quality_plans._plan(study, rule, study.limit_bytes, float("inf"))
    assert plan is not None
    problem = study.problem
    (op,) = [op for op in problem.graph.einsums if op.name == "layers/w_up"]
    number = problem.op_variable[op.index]
    code = problem.variables[number].codes[plan.labels[number]]
    assert [op.factors[factor].size for factor in code] == [mixtral.TINY.experts, 16]  # x, then sequences


def test_answers_that_either_cache_has_are_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_rebuild, "libtpu_version", lambda: "1.0")
    asked: list[str] = []

    def answer(study: object, cache: fidelity_cache.Cache, how: Compiling) -> None:
        for key, plan in cache.plans.items():
            if how.wanted(plan) and plan.answer is None:
                asked.append(plan.id)
                cache.plans[key] = PlanLine(
                    case=plan.case, id=plan.id, origin=plan.origin, codes=plan.codes, rule=plan.rule,
                    libtpu="1.0", answer=fidelity_cache.Answer(status="ok", compute=1.0),
                )  # fmt: skip

    monkeypatch.setattr(quality_rebuild, "compile_missing", answer)
    monkeypatch.setattr(quality_rebuild, "contenders", _two)
    path = tmp_path / "quality.jsonl.xz"

    def rebuild(*, fresh: bool = False, most: int | None = None) -> fidelity_cache.Cache:
        quality_rebuild.rebuild((DENSE,), fresh=fresh, workers=1, limit_seconds=1.0, most=most, path=path)
        return fidelity_cache.load(path)

    assert len(rebuild(most=0).plans) == 2
    assert not asked
    cache = rebuild()
    assert [(plan.origin, plan.answer is None) for plan in cache.plans.values()] == [
        (SEARCH, False),
        (SLOW, True),
        (FREED[0], False),
    ]
    assert rebuild() == cache == rebuild(fresh=True)
    assert len(asked) == 2


def _two(case: Case) -> list[Placed]:
    first, second, *_ = our_plans(studies(case))
    return [first, Placed(second.study, Proposal(SLOW, second.proposal.candidate, "FSDP"))]
