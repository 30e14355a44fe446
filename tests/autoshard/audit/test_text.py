import json

from autoshard.audit.attribution import Attributed
from autoshard.audit.json_report import to_json
from autoshard.audit.records import Audit, Compiled, Predicted, Replicated, Row, in_order
from autoshard.audit.text import to_text
from autoshard.compiled.hlo_metadata import Position

MIB = 2**20


def compiled(op: str, kind: str, nbytes: float, *, trips: int = 2, exact: bool = True) -> Compiled:
    found = Attributed(
        name=f"{kind}.1",
        kind=kind,
        axes=("x",),
        exact=exact,
        bytes_per_chip=nbytes,
        trips=trips,
        seconds=5e-6,
        exposed_seconds=2e-6,
        asynchronous=True,
        tensor="bf16[8,64]",
        op=op,
        marks=(),
        stack=(Position("/home/me/model.py", 27, "layer"),),
        neighbour=False,
    )
    return Compiled(found, op, op, "model.py:27", hints=("model.py:30",) if op == "mul" else ())


SCATTER = Predicted(
    entry="ffn/w_down",
    source="model.py:9",
    tensor="ffn/w_down",
    kind="reduce-scatter",
    axes=("x",),
    bytes_per_chip=MIB,
    seconds=4e-6,
    trips=2,
)
ROWS = [
    Row("another form", (SCATTER,), (compiled("ffn/w_down", "all-reduce", MIB),)),
    Row("unexpected", (), (compiled("mul", "all-gather", MIB / 2, exact=False),)),
    Row("unexpected", (), (compiled("sum", "all-reduce", 4),)),
]
WARNING = Replicated("mul", "model.py:27", "f32[94,784]", "[y;]", "[;y,z]", "...")
AUDIT = Audit("step", "v5e:2x4", {"x": 2, "y": 4}, True, in_order(ROWS), (WARNING,), ("while.3",), 1e-3)

TEXT = """\
step on v5e:2x4, mesh x=2 y=4: collectives, predicted and compiled
Bytes are of one chip (an all-gather's output, the input of others); bytes and times are of a whole step.

"""


def test_the_text_has_the_gravest_rows_first_and_counts_the_tiny_ones() -> None:
    text = to_text(AUDIT, 0.05)
    assert text.startswith(TEXT)
    table = [line.split("  ")[0] for line in text.split("\n\n")[1].splitlines() if not line.startswith(" ")]
    assert table == ["verdict", "unexpected", "another form"]
    assert "1 more of 8 B in all; --all shows them" in text
    everything = to_text(AUDIT, 0.05, everything=True).splitlines()
    assert sum(line.startswith("unexpected  ") for line in everything) == 2


def test_a_row_says_what_was_predicted_what_was_compiled_and_why() -> None:
    lines = to_text(AUDIT, 0.05).splitlines()
    (row,) = (number for number, line in enumerate(lines) if line.startswith("another form"))
    cells = [cell.strip() for cell in lines[row].split("  ") if cell.strip()]
    assert cells == [
        *("another form", "reduce-scatter(x)", "all-reduce(x)", "ffn/w_down", "model.py:9", "2"),
        *("2.00 MiB", "2.00 MiB", "8.00 us", "10.0 us", "4.00 us"),
    ]
    assert "reduced everywhere, then sliced" in lines[row + 1]


def test_an_unexpected_row_names_the_constraint_beside_it() -> None:
    text = to_text(AUDIT, 0.05)
    assert "all-gather(part of x)" in text
    assert "beside the sharding constraint at model.py:30" in text


def test_the_totals_come_last() -> None:
    assert to_text(AUDIT, 0.05).splitlines()[-7:] == [
        "1 reshard replicates its tensor on every chip and cuts it anew: no collective does it in parts",
        "    mul (model.py:27): f32[94,784] from [y;] to [;y,z]",
        "",
        "compiled 3.00 MiB in 30.0 us, 100.0% of the bytes attributed to an operation",
        "predicted 2.00 MiB, 66.7% of what was compiled",
        "unexpected 1.00 MiB, 33.3% of the compiled bytes; the threshold is 5.0%",
        "counted once, for their length is unknown: while.3",
    ]


def test_without_a_plan_nothing_is_compared() -> None:
    rows = (Row("found", (), (compiled("mul", "all-gather", MIB),)),)
    audit = Audit("step", "v5e:2x4", {"x": 2, "y": 4}, False, rows, notes=("Without a sharding: x.",))
    text = to_text(audit, 0.05)
    assert "predicted" not in text
    assert "threshold" not in text
    assert "Without a sharding: x." in text
    assert "all-gather(x)  bf16[8,64]  mul" in text
    assert json.loads(to_json(audit, 0.05))["unexpected_bytes"] is None


def test_json_has_all_rows_with_their_evidence() -> None:
    plain = json.loads(to_json(AUDIT, 0.05))
    assert [row["verdict"] for row in plain["rows"]] == ["unexpected", "unexpected", "another form"]
    assert plain["compiled_bytes"] == 3 * MIB + 8
    assert plain["unexpected_bytes"] == MIB + 8
    assert plain["rows"][0]["compiled"][0]["stack"] == ["/home/me/model.py:27"]
    assert plain["rows"][2]["predicted"][0]["entry"] == "ffn/w_down"
    assert plain["rematerialised"][0]["wanted"] == "[;y,z]"


def test_a_program_without_collectives_says_so() -> None:
    text = to_text(Audit("step", "v5e:2x4", {"x": 2, "y": 4}, True, ()), 0.05)
    assert "compiled 0 B" in text
