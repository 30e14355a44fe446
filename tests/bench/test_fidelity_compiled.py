"""Statistics by hand; plans written by name and read back; the cache; the report's verdicts."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from autoshard.compiled.timeline import CompiledCollective
from autoshard.compiled.worker import CompileResult
from autoshard.search.building import build_problem
from autoshard.search.decisions import spell_out
from autoshard.search.memory import MemoryModel
from autoshard.search.planner import search_plans
from autoshard.search.problem import Problem
from autoshard.search.sampling import random_candidates
from bench import fidelity_compiled
from bench.fidelity_cache import (
    Answer,
    Cache,
    CacheError,
    CaseLine,
    PlanLine,
    Traffic,
    answer_of,
    load,
    save,
)
from bench.fidelity_cases import CASES
from bench.fidelity_hand import Rule, pin_texts, rules, splits
from bench.fidelity_labels import StalePlanError, code_text, price_plan, read_labels, write_labels
from bench.fidelity_plans import lean_problem
from bench.fidelity_report import Report, Row, memory_table, origin_table, ranking_table
from bench.fidelity_statistics import kendall_tau, quantiles, relative_errors, top_regret
from tests.search.graphs import feed_forward, mesh_of, scanned_feed_forward

ANYTHING = math.inf


# Statistics.


def test_tau_counts_pairs() -> None:
    # Of six pairs five agree and one, (2, 3), does not: (5 - 1) / 6.
    assert kendall_tau([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1


def test_tau_with_a_tie_is_b() -> None:
    # Pairs (1,3) and (2,3) agree, (1,2) is tied in the first ranking: 2 / sqrt((3 - 1) * 3).
    assert kendall_tau([1, 1, 2], [5, 6, 7]) == pytest.approx(2 / math.sqrt(6))


def test_tau_of_nothing_to_rank() -> None:
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert kendall_tau([], []) is None


def test_regret_is_what_the_pick_loses() -> None:
    assert top_regret([2, 1, 3], [10, 12, 15]) == pytest.approx(0.2)
    assert top_regret([2, 1, 3], [10, 12, 15], count=2) == 0
    assert top_regret([1, 1], [12, 10]) == pytest.approx(0.2)  # equal: the first counts
    assert top_regret([math.inf, 5], [10, 11]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no plans"):
        top_regret([], [])


def test_quantiles_and_errors() -> None:
    assert quantiles([0, 10], (0.5, 0.95)) == pytest.approx((5.0, 9.5))
    assert quantiles([], (0.5,)) == ()
    assert relative_errors([11, 9], [10, 10]) == pytest.approx([0.1, -0.1])


# Labels.


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(scanned_feed_forward(), mesh_of("v5e:2x2"))


def test_a_plan_is_read_back_as_it_was_written(problem: Problem) -> None:
    memory = MemoryModel(problem)
    for candidate in random_candidates(problem, ANYTHING, 5):
        written = write_labels(problem, candidate.labels)
        assert len(written) == len(problem.variables)
        assert read_labels(problem, written) == candidate.labels
        priced = price_plan(problem, memory, written)
        assert priced.labels == candidate.labels
        assert priced.peak == candidate.peak
        assert priced.filled == 0
        permutes = spell_out(problem, candidate.labels).orders.permute_seconds
        assert priced.seconds == pytest.approx(candidate.seconds + permutes)


def test_what_a_plan_does_not_know_is_filled_in_as_cheaply_as_can_be(problem: Problem) -> None:
    best = search_plans(problem, ANYTHING, gap=0.0).candidates[0]
    written = write_labels(problem, best.labels)
    name = next(iter(written))
    del written[name]
    priced = price_plan(problem, MemoryModel(problem), written)
    assert priced.filled == 1
    assert problem.network.value(priced.labels) == pytest.approx(problem.network.value(best.labels))


def test_a_code_of_another_mesh_is_not_a_label(problem: Problem) -> None:
    best = search_plans(problem, ANYTHING).candidates[0]
    written = {name: code + "." for name, code in write_labels(problem, best.labels).items()}
    assert set(read_labels(problem, written)) == {None}


def test_a_plan_that_is_impossible_is_said_to_be(problem: Problem) -> None:
    best = search_plans(problem, ANYTHING).candidates[0]
    network = problem.network.restricted({0: np.zeros(problem.network.size(0), dtype=bool)})
    with pytest.raises(StalePlanError, match="--rebuild"):
        price_plan(
            dataclasses.replace(problem, network=network),
            MemoryModel(problem),
            write_labels(problem, best.labels),
        )


def test_codes_are_one_character_an_axis() -> None:
    assert code_text(np.array([-1, -2, 0, 10, 35], dtype=np.int8)) == ".+0az"


# Plans.


def test_large_tensors_are_drawn_among_lean_layouts() -> None:
    problem = build_problem(feed_forward(4, 8, 16), mesh_of("v5e:1x2"))
    lean = lean_problem(problem, 1.0, large_bytes=0.0)
    for value, variable in problem.value_variable.items():
        shape = problem.graph.values[value].shape
        left = [
            code
            for code, cost in zip(
                problem.variables[variable].codes, lean.network.unary[variable], strict=True
            )
            if math.isfinite(cost)
        ]
        assert left
        assert all(code[-1] >= 0 for code in left), shape  # every one of them can be halved, and is
    assert lean_problem(problem, 1.0, large_bytes=1e9).network.unary[0].tolist() == (
        problem.network.unary[0].tolist()
    )


def test_pins_of_a_rule() -> None:
    rule = Rule("FSDP and tensor parallel", ("x", "y"), ("", "y"), ("x", ""), cache="x")
    texts = list(pin_texts(rule, {"params/layers/wq": 3, "cache/keys": 4, "cache/values": 4}, {}))
    assert "*layers/w_up=;x;y" in texts
    assert "einsum:layers/w_up=x;;|;y" in texts
    assert "*layers/w_down=;y;x" in texts
    assert "einsum:layers/w_down=x;;y|y;" in texts
    assert "cache/keys=;x;;" in texts
    assert any(
        "w_up/int8=" in text for text in pin_texts(rule, {"params/layers/w_up/int8": 3, "cache/keys": 4}, {})
    )


def test_rules_for_a_mesh() -> None:
    decode = {rule.name: rule for rule in rules(splits(("x", "y", "z"))[0], "decode")}
    assert decode["2D weight-stationary"].stored == ("x", "y,z")
    assert decode["FSDP"].tokens == ("x,y,z", "")
    assert "sequence parallel" not in decode
    assert {rule.tokens for rule in rules(splits(("x", "y"))[0], "train")} >= {("", "x,y"), ("x", "y")}


def test_cases_span_models_phases_and_generations() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.phase for case in CASES} == {"decode", "prefill", "train"}
    assert {case.slice_name.partition(":")[0] for case in CASES} == {"v4", "v5e", "v5p", "v6e"}


# The cache.


def _collective(seconds: float, exposed: float, trips: int = 10) -> CompiledCollective:
    return CompiledCollective(
        "all-gather.1", "all-gather", ("x",), True, 1e6, trips, seconds, exposed, False, "op"
    )


def test_collectives_that_are_alike_are_one_entry() -> None:
    result = CompileResult(
        status="ok",
        seconds_estimated=3.0,
        compute_seconds=2.0,
        filled_seconds=0.5,
        exposed_collective_seconds=0.5,
        hbm_bytes_per_chip=7,
        collectives=(_collective(1e-3, 1e-3), _collective(1e-3, 1e-3, trips=2), _collective(1e-3, 0.0)),
    )
    answer = answer_of(result)
    assert [(each.trips, each.exposed_seconds) for each in answer.collectives] == [(12, 1e-3), (10, 0.0)]
    assert (answer.compute, answer.filled, answer.exposed, answer.hbm_bytes) == (2.0, 0.5, 0.5, 7)


def test_collectives_are_priced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = mesh_of("v5e:2x2")
    monkeypatch.setattr("bench.fidelity_cache.collective_seconds", lambda *_: 3.0)
    exposed = Traffic("all-gather", "x", 1e6, 10, 2.0, 1.5)  # 0.5 of 2 hidden: of 3, 2.5 are exposed
    hidden = Traffic("all-gather", "y", 1e6, 10, 2.0, 0.0)
    permute = Traffic("collective-permute", "x", 1e6, 10, 2.0, 2.0)
    dearer = Traffic("all-reduce", "x", 1e6, 1, 9.0, 5.0)  # 6 less, of which 5 were waited for
    for traffic, change in ((exposed, 10.0), (hidden, 0.0), (permute, 0.0), (dearer, -5.0)):
        answer = Answer(status="ok", compute=1.0, filled=2.0, exposed=40.0, collectives=(traffic,))
        assert answer.seconds_today(mesh) == pytest.approx(43.0 + change)


def test_a_cache_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plans.jsonl.xz"
    assert load(path) == Cache({}, {})
    traffic = (Traffic("all-to-all", "x,y", 1.0, 2, 3.0, 4.0),)
    plans = (
        PlanLine(case="a", id="1", origin="hand", rule="FSDP", codes=".0 1+", answer=None),
        PlanLine(
            case="a",
            id="2",
            origin="search",
            codes=".. ..",
            libtpu="1.2",
            answer=Answer(status="ok", hbm_bytes=5, collectives=traffic),
        ),
    )
    cache = Cache(
        {"a": CaseLine(case="a", fingerprint="f", variables=("op h|4", "value w|8"))},
        {(plan.case, plan.id): plan for plan in plans},
    )
    save(cache, path)
    assert load(path) == cache
    assert load(path).labels(plans[0]) == {"op h|4": ".0", "value w|8": "1+"}
    assert [plan.id for plan in load(path).of_case("a")] == ["1", "2"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.jsonl.xz"
    path.write_bytes(b"no cache")
    with pytest.raises(CacheError, match="--rebuild"):
        load(path)


# The report.


def _row(
    predicted: float,
    estimated: float | None,
    hbm: float = 10.0,
    compiled: int | None = 10,
    *,
    fits: bool = True,
    status: str = "ok",
) -> Row:
    plan = PlanLine(case="m.decode.v4:2x2x2", id=str(predicted), origin="search", codes="")
    answer = Answer(status=status, hbm_bytes=compiled)
    return Row(plan, answer, predicted, estimated, hbm, fits)


def test_figures_of_a_case() -> None:
    report = Report(
        "m.decode.v4:2x2x2",
        (
            _row(1.0, 1.2, hbm=9.0),
            _row(2.0, 1.0, fits=False),
            _row(3.0, 3.0, hbm=12.0),
            _row(0.5, None, hbm=15.0, compiled=20, status="out of memory"),
            _row(0.4, None, compiled=None, status="timed out"),
        ),
    )
    assert report.tau == pytest.approx((2 - 1) / 3)
    assert report.regret() == pytest.approx(0.2)
    assert report.time_ratios == pytest.approx([1 / 1.2, 2.0, 1.0])
    assert report.memory_errors == pytest.approx([-0.1, 0.0, 0.2, -0.25])
    assert [row.predicted for row in report.rejected] == [0.5]
    assert [row.predicted for row in report.spurned] == [2.0]
    assert [row.predicted for row in report.lost] == [0.4]


def test_tables_have_a_line_for_each_case_and_origin() -> None:
    report = Report("m.decode.v4:2x2x2", (_row(1.0, 2.0, hbm=11.0), _row(3.0, 6.0), _row(9.0, None)))
    ((*_, name, ratio), row) = [line[-3:] for line in ranking_table([report])]
    assert (name, ratio) == ("p/e 50%", "p/e 95%")
    assert row == ("0.50", "0.50", "0.50")
    heads, cells = memory_table([report])
    assert dict(zip(heads[:5], cells[:5], strict=True))["50%"] == "0.0%"
    assert cells[-2:] == ("0", "0")
    assert [line[:3] for line in origin_table([report])][1] == ("search", "3", "1.000")


def test_verdicts_say_what_is_missed() -> None:
    good = Report("a.decode.v4:2x2x2", (_row(1.0, 1.0), _row(2.0, 2.0)))
    bad = Report(
        "a.decode.v5e:2x2",
        (_row(1.0, 2.0, hbm=20.0), _row(2.0, 1.0), _row(3.0, None, status="out of memory")),
    )
    found = {verdict.name: verdict for verdict in fidelity_compiled.verdicts([good, bad])}
    assert found["Kendall tau per case"].figure == "median 0.000, worst -1.000 (a.decode.v5e:2x2)"
    assert found["regret of tier 0's pick, worst"].figure == "100.0% (a.decode.v5e:2x2)"
    assert found["plans compiled"].figure == "5 plans, 2 cases, 2 generations"
    rejected = found["plans called fitting that the compiler rejects"]
    assert (rejected.figure, rejected.met) == ("1", False)
    assert found["error of peak HBM, median"].met
    assert not found["error of peak HBM, 95th percentile"].met


def test_without_a_cache_the_bench_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fidelity_compiled, "load", lambda: load(tmp_path / "none.xz"))
    said: list[str] = []
    (verdict,) = fidelity_compiled.run(said.append)
    assert not verdict.met
    assert sum("--rebuild" in line for line in said) == len(CASES)
