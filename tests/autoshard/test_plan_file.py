import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from autoshard.coverage_records import Coverage, UnruledPrimitive
from autoshard.errors import PlanError
from autoshard.name_patterns import count_names, escape_name, fold_names
from autoshard.plan import Plan, load_plan
from autoshard.plan_file import check_writable, format_record, parse_record
from autoshard.plan_records import (
    ArgumentRecord,
    AxisRecord,
    CollectiveRecord,
    CostRecord,
    EinsumRecord,
    FunctionRecord,
    FusionRecord,
    ResultRecord,
    TensorRecord,
)
from autoshard.verdict_records import Estimate, Measurement, Prediction, RunnerUp, Versions

_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_INTS = st.integers(-(2**63), 2**64 - 1)
_COPIES = st.builds("l/{}/w{}".format, st.integers(0, 12), st.integers(1, 3))
_PATTERNS = st.text().map(escape_name) | st.lists(_COPIES, min_size=1).map(lambda names: fold_names(names)[0])


def _counted(record: Any) -> Any:
    """The record with as many repeats as its name says."""
    return msgspec.structs.replace(record, repeats=count_names(record.name))


_COSTS = st.none() | st.builds(
    CostRecord,
    **{name: _FLOATS for name, kind in CostRecord.__annotations__.items() if kind == "float"},
    ici_seconds=st.dictionaries(st.text(), _FLOATS, max_size=2),
)
_COLLECTIVES = st.builds(CollectiveRecord, bytes_per_chip=_INTS, seconds=_FLOATS)
_PLANS = st.builds(
    Plan,
    function=st.builds(FunctionRecord),
    mesh_axes=st.lists(st.builds(AxisRecord, size=_INTS, torus_dim=_INTS, stride=_INTS), max_size=3).map(
        tuple
    ),
    arguments=st.dictionaries(
        st.text() | _COPIES,
        st.builds(ArgumentRecord, type=st.just("f32[8]"), spec=st.sampled_from(["", "x"])),
    ),
    results=st.dictionaries(st.text(), st.builds(ResultRecord), max_size=3),
    einsums=st.lists(
        st.builds(
            EinsumRecord,
            name=_PATTERNS,
            trips=_INTS,
            operands=st.lists(st.none() | st.text(), max_size=2).map(tuple),
            collectives=st.lists(_COLLECTIVES, max_size=2).map(tuple),
            compute_seconds=_FLOATS,
            hbm_seconds=_FLOATS,
            ici_seconds=_FLOATS,
            flops_per_chip=_FLOATS,
            cost=_COSTS,
        ).map(_counted),
        max_size=2,
    ).map(tuple),
    tensors=st.lists(
        st.builds(
            TensorRecord,
            name=_PATTERNS,
            trips=_INTS,
            hbm_seconds=_FLOATS,
            ici_seconds=_FLOATS,
            collectives=st.just(()),
            cost=_COSTS,
        ).map(_counted),
        max_size=2,
    ).map(tuple),
    predicted=st.builds(
        Prediction,
        **{name: _FLOATS for name, kind in Prediction.__annotations__.items() if kind == "float"},
        hbm_bytes_per_chip=_INTS,
        hbm_limit_bytes=_INTS,
        hbm_by_kind=st.dictionaries(st.text(), _INTS, max_size=3),
        tokens=st.none() | _INTS,
        cost=_COSTS,
    ),
    estimated=st.none()
    | st.builds(
        Estimate, seconds=_FLOATS, hbm_bytes_per_chip=_INTS, compute_seconds=_FLOATS, ici_seconds=_FLOATS
    ),
    fusions=st.lists(
        st.builds(
            FusionRecord,
            seconds=_FLOATS,
            fused_seconds=_FLOATS,
            collective_seconds=_FLOATS,
            fused_collective_seconds=_FLOATS,
            estimated_seconds=st.none() | _FLOATS,
            estimated_fused_seconds=st.none() | _FLOATS,
        ),
        max_size=2,
    ).map(tuple),
    measured=st.none() | st.builds(Measurement, seconds=_FLOATS, spread_seconds=_FLOATS, runs=_INTS),
    skipped=st.dictionaries(st.text(), st.text(), max_size=2),
    runners_up=st.lists(
        st.builds(
            RunnerUp,
            predicted_seconds=_FLOATS,
            estimated_seconds=st.none() | _FLOATS,
            hbm_bytes_per_chip=st.none() | _INTS,
        ),
        max_size=2,
    ).map(tuple),
    versions=st.builds(Versions, libtpu=st.none() | st.text()),
    coverage=st.builds(
        Coverage,
        equations=_INTS,
        einsums=_INTS,
        flops_fraction=_FLOATS,
        unruled=st.lists(st.builds(UnruledPrimitive, count=_INTS, bytes=_INTS), max_size=2).map(tuple),
    ),
)


@given(_PLANS)
def test_any_plan_loads_back_equal_and_is_written_the_same_again(plan: Plan) -> None:
    text = format_record(plan)
    loaded = parse_record(text, Plan, source="test")
    assert loaded == plan
    assert list(loaded.arguments) == list(plan.arguments)
    assert format_record(loaded) == text


def test_save_and_load(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    assert load_plan(path) == plan
    assert load_plan(str(path)) == plan


def test_the_plan_of_schema_1_is_written_in_schema_2_and_else_as_it_is(plan: Plan, plan_path: Path) -> None:
    kept = plan_path.read_text(encoding="utf-8")
    assert format_record(plan) == kept.replace(
        '"schema": {"version": 1, "revision": 0}', '"schema": {"version": 2, "revision": 4}'
    )


def test_names_of_schema_1_are_no_patterns(plan_path: Path) -> None:
    plain = json.loads(plan_path.read_text(encoding="utf-8"))
    plain["einsums"][0]["name"] = "f{0..3}"
    plain["arguments"]["w{x}"] = plain["arguments"].pop("x")
    loaded = parse_record(json.dumps(plain), Plan, source="plan.json")
    assert loaded.einsums[0].name == "f{{0..3}}"
    assert list(loaded.arguments)[-1] == "w{x}"
    assert parse_record(format_record(loaded), Plan, source="plan.json") == loaded


@pytest.fixture
def unrolled_path() -> Path:
    """A plan file of schema 2: 12 unrolled layers. It is kept for ever."""
    return Path(__file__).parents[1] / "assets" / "plans" / "unrolled.v5e-2x4.schema-2.json"


def test_the_plan_of_schema_2_is_written_byte_for_byte_as_it_is(unrolled_path: Path) -> None:
    kept = unrolled_path.read_text(encoding="utf-8")
    assert format_record(load_plan(unrolled_path)) == kept.replace('"revision": 0', '"revision": 4')


def test_the_arrays_of_the_plan_of_schema_2_are_those_of_its_tree_in_order(unrolled_path: Path) -> None:
    plan = load_plan(unrolled_path)
    params = [
        f"params/layers/{layer}/{name}"
        for layer in sorted(map(str, range(12)))  # the order of a dict's keys
        for name in ("ln1/scale", "ln2/scale", "wi", "wo")
    ]
    caches = [f"{{}}/{layer}/k" for layer in range(12)]
    assert list(plan.arguments) == [
        *("params/embed", *params, *(name.format("cache") for name in caches), "tokens")
    ]
    assert list(plan.results) == ["result/0", *(name.format("result/1") for name in caches)]
    assert plan.arguments["cache/7/k"].donated
    layout = plan.in_shardings(AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2))
    assert layout[0]["layers"]["10"]["wi"].spec == P(None, ("x", "y"))
    assert [each.repeats for each in plan.einsums] == [12, 12, 12, 1]
    assert [each.repeats for each in plan.tensors] == [12, 12]


def test_the_file_is_json_with_one_array_per_line(plan_path: Path) -> None:
    text = plan_path.read_text(encoding="utf-8")
    assert list(json.loads(text)) == [
        *(
            "schema",
            "created_by",
            "function",
            "slice",
            "mesh",
            "objective",
            "arguments",
            "results",
            "einsums",
        ),
        *("tensors", "predicted", "estimated", "measured", "skipped", "runners_up", "versions", "coverage"),
    ]
    assert (
        '\n    "params/wi": {"type": "bfloat16[18432,147456]", "spec": "x;y,z", "donated": false},\n' in text
    )
    assert text.endswith("}\n") and not text.endswith("\n\n")
    assert max(map(len, text.splitlines())) <= 110


def test_a_text_too_long_for_a_line_is_still_json(plan: Plan) -> None:
    long = msgspec.structs.replace(plan, created_by="x" * 300, skipped={"k" * 200: "v" * 200, "a": "b"})
    assert parse_record(format_record(long), Plan, source="test") == long


def test_floats_hold_six_digits_in_memory_as_in_the_file(plan: Plan) -> None:
    axis = CollectiveRecord(kind="all-gather", axes="x", bytes_per_chip=1, seconds=1.23456789e-5, tensor="h")
    assert axis.seconds == 1.23457e-05
    assert CostRecord(ici_seconds={"x": 1.23456789e-5}).ici_seconds == {"x": 1.23457e-05}


def test_a_cost_is_written_without_its_zeros_and_left_out_where_there_is_none(plan: Plan) -> None:
    (first, *rest), cost = plan.einsums, CostRecord(hbm_seconds=2e-5, ici_seconds={"y,z": 1e-6})
    told = msgspec.structs.replace(plan, einsums=(msgspec.structs.replace(first, cost=cost), *rest))
    written = json.loads(format_record(told))
    assert written["einsums"][0]["cost"] == {"hbm_seconds": 2e-5, "ici_seconds": {"y,z": 1e-6}}
    assert [each for each in (*written["einsums"][1:], written["predicted"]) if "cost" in each] == []
    assert parse_record(format_record(told), Plan, source="test") == told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_lacks_is_refused(value: float) -> None:
    with pytest.raises(PlanError, match=r"`Estimate.seconds` is .*expected a finite number"):
        Estimate(seconds=value, hbm_bytes_per_chip=1, compute_seconds=1.0, ici_seconds=1.0)


def test_a_plan_that_would_not_load_again_is_not_written(plan: Plan, tmp_path: Path) -> None:
    wrong: Any = msgspec.structs.replace(plan, slice=3)
    with pytest.raises(PlanError, match=r"cannot be written: Expected `str`, got `int` - at `\$.slice`"):
        wrong.save(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_a_save_replaces_the_file_and_leaves_nothing_behind(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    plan.save(path)
    assert load_plan(path) == plan
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_save_through_a_link_keeps_the_link(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    plan.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert load_plan(tmp_path / "real.json") == plan


def test_a_failed_write_keeps_the_old_plan(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(PlanError, match="No space left on device"):
        plan.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_place_that_cannot_be_written_is_named(plan: Plan, tmp_path: Path) -> None:
    blocked = tmp_path / "file" / "plan.json"
    (tmp_path / "file").write_text("not a directory")
    for write in (check_writable, plan.save):
        with pytest.raises(PlanError, match="is a file, not a directory; choose a directory"):
            write(blocked)
    with pytest.raises(PlanError, match="it is a directory; name a file in it"):
        plan.save(tmp_path)


def test_the_directory_of_a_plan_is_made(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plans" / "v5e" / "plan.json"
    check_writable(path)
    assert not path.parent.exists()
    plan.save(path)
    assert load_plan(path) == plan


def test_a_directory_without_permission_is_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root, who may run the tests
    with pytest.raises(PlanError, match="you may not write to"):
        plan.save(tmp_path / "plan.json")


def test_a_missing_plan_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none.json: no such plan file: `autoshard tune` makes it"):
        load_plan(tmp_path / "none.json")


def test_a_directory_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        load_plan(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": {"version": 1', "not JSON at line 1, column 25 .*truncated or damaged"),
        ("", "not JSON at line 1, column 1"),
        ("<<<<<<< HEAD\n{}", "not JSON at line 1, column 1"),
        ("[]", "expected a JSON object, found list"),
        ("{}", 'expected `"schema": '),
        ('{"schema": 1}', 'expected `"schema": '),
        ('{"schema": {"version": "1"}}', 'expected `"schema": '),
        ('{"schema": {"version": 1, "revision": 0}, "gap": NaN}', "it holds NaN, which is no JSON number"),
        ('{"schema": {"version": 1}}', "missing required field `created_by`"),
    ],
)
def test_a_damaged_file_says_where(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(PlanError, match=f"plan.json: .*{message}"):
        load_plan(path)


def test_every_truncation_is_found(plan_path: Path) -> None:
    text = plan_path.read_text(encoding="utf-8")
    for length in range(0, len(text.rstrip()), 37):
        with pytest.raises(PlanError, match=r"not JSON at line \d+, column \d+"):
            parse_record(text[:length], Plan, source="plan.json")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"\x80\x00\xff{}")
    with pytest.raises(PlanError, match="not a plan"):
        load_plan(path)


def _changed(plan_path: Path, change: dict[str, Any]) -> str:
    return json.dumps(json.loads(plan_path.read_text(encoding="utf-8")) | change)


def test_a_wrong_type_is_named_with_its_path(plan_path: Path) -> None:
    text = _changed(plan_path, {"mesh": [{"name": "x", "size": "4", "torus_dim": 0, "stride": 1}]})
    with pytest.raises(PlanError, match=r"Expected `int`, got `str` - at `\$.mesh\[0\].size`"):
        parse_record(text, Plan, source="plan.json")


def test_an_unknown_field_is_refused_in_this_revision(plan_path: Path) -> None:
    with pytest.raises(PlanError, match="unknown field `colour`"):
        parse_record(_changed(plan_path, {"colour": "red"}), Plan, source="plan.json")


@pytest.mark.parametrize("version", [1, 2])
def test_a_newer_revision_is_read_with_a_warning(version: int, plan: Plan, plan_path: Path) -> None:
    plain = json.loads(plan_path.read_text(encoding="utf-8"))
    plain["schema"] = {"version": version, "revision": 7, "digest": "abc"}
    plain["created_by"] = "autoshard 0.9.0"
    plain["colour"] = "red"
    plain["arguments"]["x"]["memory"] = "hbm"
    plain["einsums"][0]["collectives"][0]["phase"] = 3
    plain["estimated"]["cycles"] = 1
    with pytest.warns(UserWarning, match=f"autoshard 0.9.0 in a newer revision of schema {version}"):
        loaded = parse_record(json.dumps(plain), Plan, source="plan.json")
    assert loaded == msgspec.structs.replace(plan, created_by="autoshard 0.9.0")


def test_a_newer_version_is_refused(plan_path: Path) -> None:
    change = {"schema": {"version": 3, "revision": 0}, "created_by": "autoshard 2.0.0"}
    message = "made by autoshard 2.0.0, schema 3; this autoshard reads schema 1 and 2: upgrade autoshard"
    with pytest.raises(PlanError, match=message):
        parse_record(_changed(plan_path, change), Plan, source="plan.json")


def test_an_older_version_is_refused(plan_path: Path) -> None:
    change = {"schema": {"version": 0, "revision": 0}}
    with pytest.raises(PlanError, match="make the plan again"):
        parse_record(_changed(plan_path, change), Plan, source="plan.json")
