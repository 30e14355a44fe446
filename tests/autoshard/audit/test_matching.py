"""Which compiled collective answers which predicted one, on a function of two einsums and a sum."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from autoshard.audit.attribution import Attributed
from autoshard.audit.causes import cause_of
from autoshard.audit.flow import Flow
from autoshard.audit.matching import NEAR_STEPS, grouped, match
from autoshard.audit.records import Audit, Compiled, Predicted, Row
from autoshard.equations import Equations
from autoshard.trace import trace

SIZES = {"x": 2, "y": 4}
GATHER = Predicted(
    entry="up",
    source="m.py:2",
    tensor="x",
    kind="all-gather",
    axes=("x",),
    bytes_per_chip=1024.0,
    seconds=1e-6,
)


@pytest.fixture(scope="module")
def equations() -> Equations:
    def f(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        return x + jnp.sin(x @ up) @ down

    x, w = jax.ShapeDtypeStruct((8, 64), "float32"), jax.ShapeDtypeStruct((64, 64), "float32")
    return trace(f, (x, w, w)).equations


def index_of(equations: Equations, primitive: str, nth: int = 0) -> int:
    return [e.index for e in equations.equations if e.primitive == primitive][nth]


def found(
    kind: str = "all-gather",
    axes: tuple[str, ...] = ("x",),
    *,
    name: str = "all-gather.1",
    bytes_per_chip: float = 1024.0,
    entry: str | None = "up",
    op: str = "up",
    equation: int | None = None,
) -> Compiled:
    collective = Attributed(
        name=name,
        kind=kind,
        axes=axes,
        exact=True,
        bytes_per_chip=bytes_per_chip,
        trips=1,
        seconds=1e-6,
        exposed_seconds=0.0,
        asynchronous=False,
        tensor="bf16[8,64]",
        op=op,
        marks=(),
        stack=(),
        neighbour=False,
    )
    return Compiled(collective, entry, op, "m.py:2", equation)


def matched(
    equations: Equations, predicted: list[Predicted], compiled: list[Compiled]
) -> dict[str, list[Row]]:
    places = {"up": [index_of(equations, "dot_general")], "sum": [index_of(equations, "add")]}
    rows: dict[str, list[Row]] = {}
    for row in match(predicted, compiled, places, Flow(equations, NEAR_STEPS), SIZES):
        rows.setdefault(row.verdict, []).append(row)
    return rows


def test_what_is_as_predicted_agrees(equations: Equations) -> None:
    rows = matched(equations, [GATHER], [found()])
    assert list(rows) == ["agrees"]
    assert rows["agrees"][0].predicted_bytes == rows["agrees"][0].compiled_bytes == 1024


def test_a_second_one_at_the_same_place_is_unexpected(equations: Equations) -> None:
    rows = matched(equations, [GATHER], [found(), found(name="all-gather.1.remat")])
    assert sorted(rows) == ["agrees", "unexpected"]
    assert rows["unexpected"][0].unexpected_bytes == 1024
    assert cause_of(rows["unexpected"][0]) == "done again instead of kept: the program is short of HBM"


def test_one_of_many_times_the_bytes_is_unexpected(equations: Equations) -> None:
    assert sorted(matched(equations, [GATHER], [found(bytes_per_chip=8192.0)])) == ["missing", "unexpected"]


def test_bytes_that_differ_notably_are_remarked_on(equations: Equations) -> None:
    (row,) = matched(equations, [GATHER], [found(bytes_per_chip=1500.0)])["agrees"]
    assert cause_of(row) == "as predicted but for its bytes"
    (row,) = matched(equations, [GATHER], [found(bytes_per_chip=1030.0)])["agrees"]
    assert cause_of(row) == ""


def test_what_is_not_compiled_is_missing(equations: Equations) -> None:
    assert [row.predicted for row in matched(equations, [GATHER], [])["missing"]] == [(GATHER,)]


def test_the_compiler_may_reduce_where_the_open_sum_is_made(equations: Equations) -> None:
    scatter = replace(GATHER, entry="sum", kind="reduce-scatter")
    place = index_of(equations, "dot_general", 1)
    rows = matched(
        equations, [scatter], [found("reduce-scatter", entry="down", equation=place, bytes_per_chip=1040.0)]
    )
    assert list(rows) == ["agrees"]


def test_an_all_reduce_for_a_reduce_scatter_is_another_form(equations: Equations) -> None:
    scatter = replace(GATHER, kind="reduce-scatter")
    rows = matched(equations, [scatter], [found("all-reduce", equation=index_of(equations, "dot_general"))])
    assert list(rows) == ["another form"]
    assert cause_of(rows["another form"][0]).startswith("reduced everywhere, then sliced")


def test_so_are_gathers_over_one_axis_after_the_other(equations: Equations) -> None:
    both = replace(GATHER, axes=("x", "y"), bytes_per_chip=4096.0)
    place = index_of(equations, "dot_general")
    steps = [found(axes=("y",), bytes_per_chip=4096.0, equation=place), found(equation=place)]
    (row,) = matched(equations, [both], steps)["another form"]
    assert (row.compiled_bytes, len(row.compiled)) == (5120, 2)


def test_another_form_moves_at_most_twice_the_bytes(equations: Equations) -> None:
    place = index_of(equations, "dot_general")
    rows = matched(equations, [GATHER], [found(axes=("x", "y"), bytes_per_chip=8192.0, equation=place)])
    assert sorted(rows) == ["missing", "unexpected"]


def test_one_over_other_axes_is_no_form_of_it(equations: Equations) -> None:
    place = index_of(equations, "dot_general")
    rows = matched(equations, [GATHER], [found(axes=("y",), equation=place)])
    assert sorted(rows) == ["missing", "unexpected"]


def test_one_outside_of_the_loop_is_no_form_of_one_inside(equations: Equations) -> None:
    inside = replace(GATHER, kind="reduce-scatter", trips=4)
    place = index_of(equations, "dot_general")
    rows = matched(equations, [inside], [found("all-reduce", equation=place)])
    assert sorted(rows) == ["missing", "unexpected"]


def test_copies_of_an_unrolled_layer_answer_one_entry(equations: Equations) -> None:
    rows = matched(equations, [replace(GATHER, copies=3)], [found(name=f"all-gather.{i}") for i in range(3)])
    assert [len(row.compiled) for row in rows["agrees"]] == [3]


def test_copies_that_nothing_predicts_are_one_row() -> None:
    rows = grouped([found(op=f"layers_{i}/mul", entry=None) for i in range(3)])
    assert [len(row.compiled) for row in rows] == [3]


def test_the_totals_of_an_audit_add_up(equations: Equations) -> None:
    rows = [row for each in matched(equations, [GATHER], [found(), found(op="")]).values() for row in each]
    audit = Audit("f", "v5e:2x4", SIZES, True, tuple(rows))
    assert (audit.compiled_bytes, audit.predicted_bytes, audit.attributed_bytes) == (2048, 1024, 1024)
    assert audit.unexpected_fraction == 0.5
    assert Audit("f", "v5e:2x4", SIZES, True, ()).unexpected_fraction == 0.0


def test_steps_are_counted_along_the_data_flow(equations: Equations) -> None:
    flow = Flow(equations, NEAR_STEPS)
    first, second = (index_of(equations, "dot_general", nth) for nth in range(2))
    assert flow.steps(first, [first]) == 0
    assert flow.steps(first, [second]) == 2  # through the sine
    assert flow.steps(first, [index_of(equations, "add")]) == 1  # both read x
    assert flow.steps(None, [first]) is None
    assert Flow(equations, 1).steps(first, [second]) is None
