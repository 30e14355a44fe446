"""Our plans against hand rules, on made-up reports."""

import pytest

from bench.fidelity_cache import Answer, PlanLine
from bench.fidelity_report import Report, Row
from bench.quality import Contest, contest, table, verdicts


def _row(origin: str, predicted: float, estimated: float | None, *, fits: bool = True, rule: str = "") -> Row:
    plan = PlanLine(case="m", id=f"{origin}{predicted}", origin=origin, codes="", rule=rule)
    status = "out of memory" if estimated is None else "ok"
    return Row(plan, Answer(status=status), predicted, estimated, hbm_bytes=1.0, fits=fits)


def _contest(ours: list[tuple[float, float]], rules: list[float], case: str = "m") -> Contest:
    found = contest(
        Report(
            case,
            (
                *(_row("search", predicted, estimated) for predicted, estimated in ours),
                *(_row("hand", 1.0, estimated, rule=f"rule {estimated}") for estimated in rules),
            ),
        )
    )
    assert found is not None
    return found


def test_the_first_is_the_models_and_the_best_is_the_compilers_of_five() -> None:
    found = _contest([(2.0, 7.0), (1.0, 9.0), (3.0, 8.0), (4.0, 8.0), (5.0, 8.0), (6.0, 1.0)], [10.0, 20.0])
    assert (found.first, found.best) == (9.0, 7.0)  # the sixth is not compiled in a tuning run
    assert (found.rule.plan.rule, found.ratio, found.first_ratio) == ("rule 10.0", 0.7, 0.9)


def test_what_the_compiler_refuses_or_the_model_calls_too_large_does_not_count() -> None:
    rows = (_row("search", 1.0, None), _row("search", 2.0, 3.0), _row("search", 1.5, 1.0, fits=False))
    found = contest(Report("m", (*rows, _row("hand", 1.0, 6.0, rule="FSDP"), _row("random", 1.0, 0.1))))
    assert found is not None
    assert (found.best, found.ratio) == (3.0, 0.5)
    assert contest(Report("m", rows)) is None


def test_the_table_has_a_line_for_each_case() -> None:
    heading, line = table([_contest([(1.0, 0.004)], [0.005], "palm")])
    assert line == ("palm", "4.00 ms", "4.00 ms", "1", "rule 0.005", "5.00 ms", "0.800", "0.800")
    assert len(heading) == len(line)


def test_the_verdicts_are_on_the_geometric_mean_and_the_worst() -> None:
    contests = [_contest([(1.0, 0.5)], [1.0], "good"), _contest([(1.0, 2.0)], [1.0], "bad")] * 6
    by_name = {verdict.name: verdict for verdict in verdicts(contests)}
    assert (by_name["geometric mean"].figure, by_name["geometric mean"].met) == ("1.000", False)
    assert (by_name["worst ratio"].figure, by_name["worst ratio"].met) == ("2.000 (bad)", False)
    assert by_name["cases"].met
    assert [verdict.met for verdict in verdicts([])] == [False]
    assert verdicts(contests[::2])[-1].figure == pytest.approx("0.500")
