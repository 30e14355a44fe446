"""Our plans against hand rules, on made-up answers of the compiler."""

import pytest

from autoshard.cost.slices import parse_slice
from autoshard.mesh_study import meshes_to_try
from bench.fidelity_cache import Answer, PlanLine, Traffic
from bench.fidelity_plans import WRITTEN
from bench.fidelity_report import Row
from bench.quality import losses, table, verdicts
from bench.quality_contest import Contest, Entrant, cause, differences, parts, sides

MESH = meshes_to_try(parse_slice("v5e:2x4"), "native")[0]


def _entrant(
    origin: str,
    predicted: float,
    estimated: float,
    *,
    fits: bool = True,
    rule: str = "",
    answer: Answer | None = None,
) -> Entrant:
    plan = PlanLine(case="m", id=f"{origin}{predicted}", origin=origin, codes="", rule=rule)
    row = Row(plan, answer or Answer(status="ok"), predicted, estimated, hbm_bytes=1.0, fits=fits)
    return Entrant(row, MESH)


def _contest(ours: list[tuple[float, float]], rules: list[float], case: str = "m") -> Contest:
    entrants = [
        *(_entrant("search", predicted, estimated) for predicted, estimated in ours),
        *(_entrant("hand", 1.0, estimated, rule=f"rule {estimated}") for estimated in rules),
    ]
    found = sides(case, entrants, slow=3, waiting=2)
    assert found is not None
    return found


def test_the_first_is_the_models_and_the_best_is_the_compilers_of_five() -> None:
    found = _contest([(2.0, 7.0), (1.0, 9.0), (3.0, 8.0), (4.0, 8.0), (5.0, 8.0), (6.0, 1.0)], [10.0, 20.0])
    assert (found.first.seconds, found.best.seconds) == (9.0, 7.0)  # a tuning run does not compile the sixth
    assert (found.rule.row.plan.rule, found.ratio, found.first_ratio) == ("rule 10.0", 0.7, 0.9)


def test_a_rule_that_the_model_calls_too_large_counts_when_the_compiler_takes_it() -> None:
    ours = (_entrant("search", 2.0, 3.0), _entrant("search", 1.5, 1.0, fits=False))
    found = sides("m", (*ours, _entrant("hand", 1.0, 6.0, fits=False, rule="FSDP")))
    assert found is not None
    assert (found.best.seconds, found.ratio) == (3.0, 0.5)
    assert sides("m", ours) is None


def test_a_plan_of_ours_that_is_a_rule_stands_on_both_sides() -> None:
    both = _entrant("search", 1.0, 2.0, rule="tensor parallel")
    found = sides("m", (both, _entrant("hand", 1.5, 3.0, rule="FSDP")))
    assert found is not None
    assert (found.best, found.rule, found.ratio) == (both, both, 1.0)


def test_the_table_has_a_line_for_each_case() -> None:
    heading, line = table([_contest([(1.0, 0.004)], [0.005], "palm")])
    rule = "rule 0.005 on x=2 y=4"
    nothing_written = ("none", "", "")
    filled_in = (rule, "5.00 ms", "0.800")
    assert line == ("palm", "4.00 ms", "4.00 ms", *nothing_written, *filled_in, "0.800", "1", "3", "2")
    assert len(heading) == len(line)


def test_the_verdicts_are_on_the_geometric_mean_and_the_worst() -> None:
    contests = [_contest([(1.0, 0.5)], [1.0], "good"), _contest([(1.0, 2.0)], [1.0], "bad")] * 6
    by_name = {verdict.name: verdict for verdict in verdicts(contests, renewed=1)}
    mean, worst = by_name["rules filled in: geometric mean"], by_name["rules filled in: worst ratio"]
    assert (mean.figure, mean.met) == ("1.000 over 2", False)
    assert (worst.figure, worst.met) == ("2.000 (bad)", False)
    assert not by_name["rules as written: geometric mean"].met  # there are none
    assert by_name["cases"].met
    waiting = by_name["plans that wait for the compiler"]
    assert (waiting.figure, waiting.met) == ("24", False)
    assert not by_name["cases whose plans are not those of today's search"].met
    assert [verdict.met for verdict in verdicts([])] == [False]
    won = {verdict.name: verdict for verdict in verdicts(contests[::2])}
    assert won["rules filled in: geometric mean"].figure == "0.500 over 1"


def test_a_rule_as_people_write_it_is_a_side_of_its_own() -> None:
    ours, filled_in = _entrant("search", 1.0, 4.0), _entrant("hand", 1.0, 5.0, rule="FSDP")
    slower, best = (_entrant(WRITTEN, 1.0, seconds, rule="FSDP") for seconds in (9.0, 8.0))
    found = sides("m", (ours, filled_in, slower, best))
    assert found is not None
    assert (found.rule, found.annotated) == (filled_in, best)
    by_name = {verdict.name: verdict for verdict in verdicts([found])}
    assert by_name["rules as written: geometric mean"].figure == "0.500 over 1"
    assert by_name["rules filled in: geometric mean"].figure == "0.800 over 1"
    assert table([found])[1][3:9] == (
        "FSDP on x=2 y=4",
        "8.00 s",
        "0.500",
        "FSDP on x=2 y=4",
        "5.00 s",
        "0.800",
    )


def test_only_losses_have_a_line() -> None:
    won, lost = _contest([(1.0, 0.5)], [1.0], "won"), _contest([(1.0, 2.0)], [1.0], "lost")
    (line,) = losses([won, lost])
    assert line.startswith("lost: lost: rule 1.0 on x=2 y=4 filled in is 50.0% faster: ours predicted 1.00 s")


def test_parts_of_an_estimate_are_compute_what_was_filled_and_collectives_by_kind() -> None:
    gather = Traffic("all-gather", "x", 1e6, 10, 1e-3, 0.0)
    permute = Traffic("collective-permute", "y", 1e6, 10, 1e-3, 2e-4)
    answer = Answer(status="ok", compute=2.0, filled=0.5, exposed=2e-3, collectives=(gather, permute))
    assert parts(answer, MESH) == pytest.approx(
        {
            "compute": 2.0,
            "time filled in": 0.5,
            "exposed all-gather": 0.0,
            "exposed collective-permute": 2e-3,
        }
    )


def test_the_cause_is_the_parts_that_differ_the_largest_first() -> None:
    ours, rule = {"compute": 3.0, "exposed all-gather": 1.0}, {"compute": 2.0, "exposed all-reduce": 4.0}
    assert differences(ours, rule, 0.5) == (
        "4.00 s less exposed all-reduce, 1.00 s more compute, 1.00 s more exposed all-gather"
    )
    assert differences(ours, rule, 2.0) == "4.00 s less exposed all-reduce"
    assert differences(ours, ours, 0.0) == "no notable difference"
    slow, quick = Answer(status="ok", compute=2.0), Answer(status="ok", compute=1.0)
    found = sides(
        "m",
        (
            _entrant("search", 1.0, 2.0, answer=slow),
            _entrant("hand", 1.5, 1.0, rule="FSDP", answer=quick),
        ),
    )
    assert found is not None
    assert cause(found.best, found.rule) == (
        "ours predicted 1.00 s, estimated 2.00 s; FSDP predicted 1.50 s, estimated 1.00 s; "
        "ours has 1.00 s more compute"
    )
