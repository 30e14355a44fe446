import json
import re
from pathlib import Path

import msgspec
import pytest

from autoshard.coverage_records import UnruledPrimitive
from autoshard.explain import explain
from autoshard.explain_text import to_json, to_text
from autoshard.plan import Plan, load_plan
from autoshard.plan_records import ArgumentRecord, CostRecord, ResultRecord
from autoshard.verdict_records import Measurement


def test_the_text_of_the_kept_plan(plan: Plan, plan_path: Path) -> None:
    golden = plan_path.with_suffix(".explain.txt").read_text(encoding="utf-8")
    assert to_text(explain(plan)) + "\n" == golden
    assert max(map(len, golden.splitlines())) <= 120


def test_json_holds_the_same_facts(plan: Plan) -> None:
    explanation = explain(plan)
    facts = json.loads(to_json(explanation))
    assert [each["layout"] for each in facts["einsums"]] == [each.layout for each in explanation.einsums]
    assert facts["einsums"][0]["collectives"][0] == {
        "kind": "all-gather",
        "axes": "y,z",
        "bytes_per_chip": 589824,
        "seconds": 7.9e-06,
        "tensor": "x",
    }
    assert [step["seconds"] for step in facts["step_times"]] == [0.0185, 0.0191, None]
    assert facts["memory"]["bytes_per_chip"] == 16213498880
    assert facts["coverage"]["unruled"] == [{"primitive": "top_k", "count": 1, "bytes": 32768}]


def test_time_and_share_of_an_einsum(plan: Plan) -> None:
    first = explain(plan).einsums[0]
    # HBM 88.4736 us is above compute; 90% of the 14 us of ICI are exposed: 88.4736 + 12.6 = 101.0736 us.
    assert first.seconds == pytest.approx(101.0736e-6)
    assert first.bound == "HBM"
    assert first.share == pytest.approx(118 * 101.0736e-6 / 0.0185)


def test_copies_count_as_trips(plan: Plan) -> None:
    """118 unrolled copies take the share of 118 trips of a scan, and read so."""
    copies = msgspec.structs.replace(plan.einsums[0], name="layers/{0..117}/wi", trips=1, repeats=118)
    nested = msgspec.structs.replace(plan.tensors[0], name="residual{#1..59}", trips=2, repeats=59)
    unrolled = explain(msgspec.structs.replace(plan, einsums=(copies,), tensors=(nested,)))
    scanned = explain(plan)
    assert unrolled.einsums[0].share == scanned.einsums[0].share
    assert unrolled.tensors[0].share == scanned.tensors[0].share
    text = to_text(unrolled)
    assert re.search(r"^layers/\{0..117\}/wi +\S+ +palm.py:41 +118 ", text, re.MULTILINE)
    assert re.search(r"^residual\{#1..59\} +\S+ +palm.py:70 +118 ", text, re.MULTILINE)
    facts = json.loads(to_json(unrolled))
    assert [(each["trips"], each["repeats"]) for each in facts["einsums"] + facts["tensors"]] == [
        (1, 118),
        (2, 59),
    ]


def test_the_text_of_the_kept_unrolled_plan(plan_path: Path) -> None:
    path = plan_path.with_name("unrolled.v5e-2x4.schema-2.json")
    golden = path.with_suffix(".explain.txt").read_text(encoding="utf-8")
    assert to_text(explain(load_plan(path))) + "\n" == golden
    assert "\n12 more tensors are pinned and move nothing" in golden


def test_the_text_of_the_kept_plan_of_two_slices(plan_path: Path) -> None:
    path = plan_path.with_name("two_slices.2-v5e-2x2.schema-2.1.json")
    golden = path.with_suffix(".explain.txt").read_text(encoding="utf-8")
    assert to_text(explain(load_plan(path))) + "\n" == golden
    up, down = explain(load_plan(path)).einsums
    # 8 MiB put out by each of 2 slices of 4 chips: a quarter of it over DCN, half of that from the other.
    assert up.cost.dcn_seconds == pytest.approx(2**23 / 8 / 3.125e9)
    # Two lines of two chips, three quarters of 8 MiB over two links; the scatter has 4 MiB.
    assert up.cost.ici_seconds == {"x,y": pytest.approx(0.75 * 2**23 / 90e9)}
    assert down.cost.ici_seconds == {"x,y": pytest.approx(0.75 * 2**22 / 90e9)}
    assert (up.bound, down.bound) == ("DCN", "compute")
    assert up.cost.latency_seconds == pytest.approx(1e-6 + 1e-5)


def test_the_parts_of_the_step_are_listed_and_add_up(plan: Plan) -> None:
    cost = CostRecord(
        compute_seconds=4e-3,
        hbm_seconds=10e-3,
        overlapped_seconds=3e-3,
        ici_seconds={"x": 5e-3, "y,z": 2e-3},
        latency_seconds=1.5e-3,
        hidden_seconds=1e-3,
    )
    predicted = msgspec.structs.replace(plan.predicted, cost=cost)
    text = to_text(explain(msgspec.structs.replace(plan, predicted=predicted)))
    block = text.partition("part of the step")[2].partition("\n\n")[0].splitlines()[1:]
    assert [re.split(r"  +", line.strip()) for line in block] == [
        ["compute", "4.00 ms", "21.6%"],
        ["HBM", "10.0 ms", "54.1%"],
        ["compute and HBM of an op at once", "-3.00 ms", "-16.2%"],
        ["ICI over x", "5.00 ms", "27.0%"],
        ["ICI over y,z", "2.00 ms", "10.8%"],
        ["latency", "1.50 ms", "8.1%"],
        ["hidden behind other work", "-1.00 ms", "-5.4%"],
        ["sum: the predicted step", "18.5 ms", "100.0%"],
    ]


def test_plans_with_totals_alone_have_no_parts(plan: Plan) -> None:
    text = to_text(explain(plan))
    assert "part of the step" not in text
    assert "latency  exposed" not in text
    assert explain(plan).step_cost is None
    first = explain(plan).einsums[0]
    assert first.cost.ici_seconds == {"x": 6.1e-6, "y,z": 7.9e-6}
    assert first.cost.hidden_seconds == pytest.approx(0.1 * 14e-6)


def test_what_takes_longest_bounds(plan: Plan) -> None:
    def bound(compute: float, hbm: float, ici: float) -> str:
        changed = msgspec.structs.replace(
            plan.einsums[0], compute_seconds=compute, hbm_seconds=hbm, ici_seconds=ici
        )
        return explain(msgspec.structs.replace(plan, einsums=(changed,))).einsums[0].bound

    assert bound(2.0, 1.0, 1.0) == "compute"
    assert bound(1.0, 2.0, 1.0) == "HBM"
    assert bound(1.0, 1.0, 2.0) == "ICI"
    assert bound(2.0, 1.0, 2.1) == "compute"  # 90% of 2.1 is hidden behind less than 2.0


def test_shares_and_the_rest_make_a_whole(plan: Plan) -> None:
    explanation = explain(plan)
    shares = [each.share for each in explanation.einsums + explanation.tensors]
    assert sum(shares) + explanation.other_share == pytest.approx(1.0)


def test_mfu_and_cost_per_token(plan: Plan) -> None:
    predicted, estimated, measured = explain(plan).step_times
    # 9.68e11 flops in 18.5 ms on a v4 chip of 275 Tflop/s; 64 chips for 18.5 ms give 64 tokens.
    assert predicted.mfu == pytest.approx(9.68e11 / (0.0185 * 275e12))
    assert predicted.chip_milliseconds_per_token == pytest.approx(18.5)
    assert estimated.mfu == pytest.approx(9.68e11 / (0.0191 * 275e12))
    assert (measured.seconds, measured.mfu, measured.skipped) == (None, None, "no v4 devices are attached")


def test_a_measured_plan_names_its_devices(plan: Plan) -> None:
    measured = Measurement(seconds=0.02, spread_seconds=0.0003, runs=5, device_kind="TPU v4")
    text = to_text(explain(msgspec.structs.replace(plan, measured=measured, skipped={})))
    assert "5 runs on TPU v4, spread 300 us" in text
    assert "not run" not in text


def test_pins_are_named(plan: Plan) -> None:
    pinned = msgspec.structs.replace(plan, pins=("params/*/wo=y,z;x",))
    assert "\npinned: params/*/wo=y,z;x\n" in to_text(explain(pinned))


def test_a_tier_that_nobody_asked_for_says_so(plan: Plan) -> None:
    text = to_text(explain(msgspec.structs.replace(plan, estimated=None, skipped={})))
    assert text.count("not run: it was not asked for") == 2
    assert "counted by the model" in text


def test_a_chip_that_this_version_does_not_know_has_no_mfu(plan: Plan) -> None:
    explanation = explain(msgspec.structs.replace(plan, slice="v99:4x4x4"))
    assert [step.mfu for step in explanation.step_times] == [None, None, None]
    assert "MFU -" in to_text(explanation)


def test_unknown_tokens_and_a_plan_without_einsums(plan: Plan) -> None:
    bare = msgspec.structs.replace(
        plan,
        einsums=(),
        tensors=(),
        runners_up=(),
        predicted=msgspec.structs.replace(plan.predicted, tokens=None, seconds=0.0, hbm_by_kind={}),
    )
    text = to_text(explain(bare))
    assert "chip-ms per token" not in text
    assert "runner-up" not in text
    assert "einsum  " not in text


def test_the_coverage_line_has_the_bytes_of_plans_that_counted_them(plan: Plan) -> None:
    assert to_text(explain(plan)).splitlines()[-2:] == [
        "coverage: 3 einsums among 412 equations, 99.9% of the flops",
        "    replicated for want of a rule: top_k, 1 times, 32.0 KiB",
    ]
    row = UnruledPrimitive(primitive="sort", count=2, bytes=2048)
    newer = msgspec.structs.replace(plan.coverage, bytes_fraction=0.985, unsplit=(row,))
    assert to_text(explain(msgspec.structs.replace(plan, coverage=newer))).splitlines()[-3:] == [
        "coverage: 3 einsums among 412 equations, 99.9% of the flops, 98.5% of the bytes",
        "    replicated for want of a rule: top_k, 1 times, 32.0 KiB",
        "    replicated as nothing can be split: sort, 2 times, 2.00 KiB",
    ]


def test_compiler_options_stand_with_what_they_decide(plan: Plan) -> None:
    options = {"xla_enable_async_all_gather": "true", "xla_some_later_option": "7"}
    explanation = explain(msgspec.structs.replace(plan, compiler_options=options))
    block = to_text(explanation).partition("compiler option ")[2].partition("\n\n")[0].splitlines()[1:]
    assert [re.split(r"  +", line) for line in block] == [
        ["xla_enable_async_all_gather=true", "whether gathers run beside other work"],
        ["xla_some_later_option=7", "an option that this version of autoshard does not know"],
    ]
    assert [each["value"] for each in json.loads(to_json(explanation))["compiler_options"]] == ["true", "7"]


def test_a_plan_without_compiler_options_and_memory_orders_has_no_lines_for_them(plan: Plan) -> None:
    text = to_text(explain(msgspec.structs.replace(plan, compiler_options={})))
    assert "compiler option" not in text
    assert "memory order" not in text


def test_memory_orders_of_like_arrays_are_one_line(plan: Plan) -> None:
    array = next(iter(plan.arguments.values()))

    def lying(order: str | None) -> ArgumentRecord:
        return msgspec.structs.replace(array, type="f32[2,3]", spec=";", order=order)

    arguments = {"keys/0": lying("1,0"), "keys/1": lying("1,0"), "values/0": lying("0,1"), "x": lying(None)}
    results = {"cache": ResultRecord(type="f32[2,3]", spec=";", order="1,0")}
    explanation = explain(msgspec.structs.replace(plan, arguments=arguments, results=results))
    block = to_text(explanation).partition("memory order ")[2].partition("\n\n")[0].splitlines()[1:]
    assert [re.split(r"  +", line) for line in block] == [
        ["argument keys/{0,1}", "1,0", "chosen by the compiler"],
        ["argument values/0", "0,1", "as written"],
        ["result cache", "1,0", "chosen by the compiler"],
    ]
    facts = json.loads(to_json(explanation))["memory_orders"]
    assert [each["written"] for each in facts] == [False, True, False]
