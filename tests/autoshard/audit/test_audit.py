"""Planted faults are found with their lines: under a plan, and in a function with its author's shardings."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from autoshard.audit.authored import audit_authored
from autoshard.audit.planned import audit_plan
from autoshard.audit.records import Audit
from autoshard.cli import main
from autoshard.errors import CompileError, PlanError
from autoshard.plan import Plan
from autoshard.topology import libtpu_available
from autoshard.tuning import tune_target

MODEL = Path(__file__).parents[2] / "assets" / "audit" / "planted.py"
INPUTS = f"{MODEL}:mlp_inputs"

pytestmark = pytest.mark.skipif(
    not libtpu_available(), reason="the TPU compiler is not installed: pip install libtpu"
)


def line_of(text: str) -> str:
    (number,) = (n for n, line in enumerate(MODEL.read_text().splitlines(), start=1) if text in line)
    return f"planted.py:{number}"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled here is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSHARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = tune_target(
        f"{MODEL}:sound", slice="v5e:2x4", inputs=INPUTS, refine="none", top_k=1, mesh="native"
    )
    return found.plan


@pytest.fixture
def faulty(plan: Plan, tmp_path: Path) -> str:
    """The plan of the sound function, for the faulty one: a constraint is no part of what a plan checks."""
    function = msgspec.structs.replace(plan.function, target=f"{MODEL}:faulty")
    path = tmp_path / "faulty.json"
    msgspec.structs.replace(plan, function=function).save(path)
    return str(path)


def verdicts(audit: Audit) -> set[str]:
    return {row.verdict for row in audit.rows}


def test_a_sound_plan_has_no_unexpected_collectives(plan: Plan) -> None:
    audit = audit_plan(plan)
    assert audit.has_plan
    assert audit.rows
    assert verdicts(audit) <= {"agrees", "another form"}
    assert audit.attributed_bytes == audit.compiled_bytes > 0
    names = {einsum.name for einsum in plan.einsums}
    assert names & {each.entry for each in audit.compiled}


def test_a_plan_that_pads_moves_what_it_says() -> None:
    model = MODEL.parents[1] / "odd_sizes.py"
    found = tune_target(
        f"{model}:forward",
        slice="v5e:2x4",
        inputs=f"{model}:inputs",
        refine="none",
        top_k=1,
        mesh="native",
    )
    padded = found.plan
    assert {(each.size, each.padded) for record in padded.einsums for each in record.padding} == {(501, 504)}
    audit = audit_plan(padded)
    assert audit.unexpected_bytes == 0
    assert audit.predicted_bytes == pytest.approx(audit.compiled_bytes, rel=0.01)


def test_a_constraint_that_gathers_in_the_layer_is_found(
    faulty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", faulty, "--quiet", "--format", "json"]) == 1
    audit = json.loads(capsys.readouterr().out)
    (row,) = (row for row in audit["rows"] if row["verdict"] == "unexpected")
    assert row["source"] == line_of("# fault: gathers")
    assert row["op"] == "ffn/sharding_constraint"
    assert {each["kind"] for each in row["compiled"]} == {"all-gather"}
    assert row["compiled_bytes"] == 6 * 512 * 8192 * 2  # six layers, the whole hidden activation in bfloat16
    assert audit["unexpected_fraction"] > audit["threshold"] == 0.05
    assert main(["audit", faulty, "--quiet", "--threshold", "1"]) == 0
    text = capsys.readouterr().out
    assert line_of("# fault: gathers") in text
    assert "the threshold is 100.0%" in text


def test_it_is_found_without_a_plan_too(capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{MODEL}:faulty"
    assert main(["audit", target, "--inputs", INPUTS, "--slice", "v5e:2x4", "--format", "json"]) == 0
    audit = json.loads(capsys.readouterr().out)
    gathers = [row for row in audit["rows"] if row["compiled"][0]["kind"] == "all-gather"]
    assert gathers
    assert audit["predicted_bytes"] is None
    lines = {line for row in gathers for each in row["compiled"] for line in each["constraints"]}
    assert line_of("# fault: gathers") in {row["source"] for row in gathers} | lines


def test_a_reshape_that_breaks_a_sharding_is_found() -> None:
    audit = audit_authored(f"{MODEL}:split_heads", "v5e:2x4", inputs=f"{MODEL}:split_heads_inputs")
    assert verdicts(audit) == {"found"}
    assert audit.mesh == {"x": 2, "y": 4}
    at_fault = [each for each in audit.compiled if each.source == line_of("# fault: 4 shards")]
    assert {each.op for each in at_fault} == {"heads/reshape"}
    around = {line_of('sharded("x", "y")'), line_of("# fault: 4 shards"), line_of('sharded("x", None, "y")')}
    assert {each.source for each in audit.compiled} <= around
    assert {each.collective.axes for each in audit.compiled} == {("y",)}


def test_a_plan_that_does_not_say_where_its_function_is_cannot_be_audited(plan: Plan) -> None:
    lost = msgspec.structs.replace(plan, function=msgspec.structs.replace(plan.function, target=None))
    with pytest.raises(PlanError, match="autoshard tune"):
        audit_plan(lost)


def test_only_tpus_can_be_compiled_for(plan: Plan) -> None:
    with pytest.raises(CompileError, match="not a TPU"):
        audit_authored(f"{MODEL}:sound", "h100:8", inputs=INPUTS)
    with pytest.raises(CompileError, match="not a TPU"):
        audit_plan(msgspec.structs.replace(plan, slice="h100:8"))
