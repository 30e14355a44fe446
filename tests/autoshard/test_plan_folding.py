import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.errors import PlanError
from autoshard.plan import Plan
from autoshard.plan_file import format_record, parse_record
from autoshard.plan_folding import fold_plan, unfold_plan
from autoshard.plan_records import ArgumentRecord, EinsumRecord


def with_arrays(names: Sequence[str], kind: Callable[[str], str] = lambda name: "") -> dict[str, Any]:
    arrays = {name: {"type": "f32[8]", "spec": kind(name)} for name in names}
    return {"arguments": arrays, "results": {}, "einsums": [], "tensors": []}


def last(name: str) -> str:
    return name.rpartition("/")[2]


def entries(plain: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The keys of the folded arguments with their places, the order being the file's."""
    folded = fold_plan(plain)
    assert list(unfold_plan(folded, version=2)["arguments"].items()) == list(plain["arguments"].items())
    return [(key, record.get("at")) for key, record in folded["arguments"].items()]


def test_layers_are_one_entry_per_array_of_a_layer() -> None:
    names = ["embed", *(f"layers/{i}/{w}" for i in range(80) for w in ("down", "norm", "up")), "head"]
    assert entries(with_arrays(names, last)) == [
        ("embed", None),
        ("layers/{0..79}/down", "1..238..3"),
        ("layers/{0..79}/norm", "2..239..3"),
        ("layers/{0..79}/up", "3..240..3"),
        ("head", None),
    ]


def test_the_length_of_the_file_does_not_grow_with_depth(plan: Plan) -> None:
    def lines(depth: int) -> int:
        one = ArgumentRecord(type="f32[8]", spec="x")
        arguments = {f"layers/{i}/{w}": one for i in range(depth) for w in ("down", "norm", "up")}
        return len(format_record(msgspec.structs.replace(plan, arguments=arguments)).splitlines())

    assert lines(100) == lines(10)


def test_flat_lists_of_layers_fold_by_blocks() -> None:
    kinds = {0: "a", 2: "a", 1: "b", 3: "b", 4: "c"}
    names = [f"trainable/{i}" for i in range(50)]
    found = entries(with_arrays(names, lambda name: kinds[int(last(name)) % 5]))
    assert found == [
        ("trainable/{(0,2)..45..5}", "(0,2)..45..5"),
        ("trainable/{(1,3)..46..5}", "(1,3)..46..5"),
        ("trainable/{4..49..5}", "4..49..5"),
    ]


def test_arrays_of_other_records_do_not_fold() -> None:
    assert entries(with_arrays(["w/0", "w/1", "w/2"], last)) == [("w/0", None), ("w/1", None), ("w/2", None)]


def test_fewer_than_three_do_not_fold() -> None:
    assert entries(with_arrays(["w/0", "w/1", "v/0"])) == [("w/0", None), ("w/1", None), ("v/0", None)]
    assert entries(with_arrays(["w/0", "w/1", "w/2"])) == [("w/{0..2}", "0..2")]


def test_names_divide_where_that_is_shorter() -> None:
    """Together their places in a layer follow no rule; each alone comes once per layer."""
    gaps = random.Random(0).choices(range(9), k=50)
    layer = [n for i, gap in enumerate(gaps) for n in (f"w{i}", *(f"x{i}_{j}" for j in range(gap)))]
    arrays = with_arrays([f"l/{depth}/{n}" for depth in range(30) for n in layer], lambda n: last(n)[0])
    found = [each for each in entries(arrays) if each[0].startswith("l/{0..29}/w")]
    starts = [layer.index(f"w{i}") for i in range(50)]
    size = len(layer)
    assert found == [(f"l/{{0..29}}/w{i}", f"{at}..{at + 29 * size}..{size}") for i, at in enumerate(starts)]


def test_braces_of_a_name_are_doubled_in_the_file() -> None:
    assert entries(with_arrays(["a{0..1}", "b"])) == [("a{{0..1}}", None), ("b", None)]


def test_a_repeated_operation_says_so_and_another_does_not() -> None:
    plain = with_arrays([]) | {"einsums": [{"name": "w", "repeats": 1}, {"name": "v{1,2}", "repeats": 2}]}
    assert fold_plan(plain)["einsums"] == [{"name": "w"}, {"name": "v{1,2}", "repeats": 2}]


NAMES = st.builds("{}/{}/{}".format, st.sampled_from("ab"), st.integers(0, 11), st.integers(0, 3)) | st.text()


@given(st.lists(NAMES, unique=True), st.lists(st.sampled_from(["", "x"]), min_size=1))
def test_unfolding_undoes_folding(names: list[str], specs: list[str]) -> None:
    kinds = {name: specs[i % len(specs)] for i, name in enumerate(names)}
    assert len(entries(with_arrays(names, kinds.__getitem__))) <= len(names)


# ---- files that somebody has edited


def file_with(plan: Plan, **sections: Any) -> str:
    return json.dumps(json.loads(format_record(plan)) | sections)


RECORD = {"type": "f32[8]", "spec": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w{0..": RECORD}, "`arguments`, entry `w{0..`: .* is no name pattern: unmatched `{`"),
        ({"w{0..2}": RECORD}, "entry `w{0..2}`: it names 3 arrays; expected `at`, their places"),
        ({"w{0..2}": RECORD | {"at": "0,1"}}, "entry `w{0..2}`: `at` lists 2 places; expected 3"),
        ({"w{0..2}": RECORD | {"at": "x"}}, "entry `w{0..2}`: `at`: `x` is no list of integers"),
        ({"w{0..2}": RECORD | {"at": [0, 1]}}, "entry `w{0..2}`: `at`: .* is no list of integers"),
        ({"w{0..2}": RECORD | {"at": "1..3"}}, "its place 3 is taken or beyond the 3 arrays"),
        ({"w{0..2}": RECORD | {"at": "0,0,1"}}, "its place 0 is taken or beyond the 3 arrays"),
        ({"w{0,1,0}": RECORD | {"at": "0..2"}}, "entry `w{0,1,0}`: an array is named twice"),
        ({"w{0..2}": RECORD | {"at": "0..2"}, "w1": RECORD}, "entry `w1`: an array is named twice"),
        ({"w{0..2}": {"type": "f32[8]", "at": "0..2"}}, "missing required field `spec`"),
        ({"w{0..2}": 7}, "entry `w{0..2}`: it names 3 arrays"),
        ({"w": 7}, r"Expected `object`, got `int`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_wrong_entry_is_named(plan: Plan, arguments: Any, message: str) -> None:
    with pytest.raises(PlanError, match=f"plan.json: not a sound plan: .*{message}"):
        parse_record(file_with(plan, arguments=arguments), Plan, source="plan.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "w{0..}"}, "`einsums`, entry `w{0..}`: `w{0..}` is no name pattern"),
        ({"name": "w{0..2}"}, "entry `w{0..2}`: it has `repeats` 1, but its name says 3"),
        ({"name": "w", "repeats": 3}, "entry `w`: it has `repeats` 3, but its name says 1"),
        ({"name": 3}, r"Expected `str`, got `int` - at `\$.einsums\[0\].name`"),
    ],
)
def test_a_wrong_einsum_is_named(plan: Plan, change: dict[str, Any], message: str) -> None:
    einsums = json.loads(format_record(plan))["einsums"]
    text = file_with(plan, einsums=[einsums[0] | change, *einsums[1:]])
    with pytest.raises(PlanError, match=f"plan.json: not a sound plan: .*{message}"):
        parse_record(text, Plan, source="plan.json")


@pytest.mark.parametrize(("name", "repeats"), [("w{", 1), ("w{0..2}", 2)])
def test_a_wrong_einsum_is_not_written(plan: Plan, name: str, repeats: int) -> None:
    wrong: EinsumRecord = msgspec.structs.replace(plan.einsums[0], name=name, repeats=repeats)
    with pytest.raises(PlanError, match=r"The plan cannot be written: `einsums`, entry `w\{"):
        format_record(msgspec.structs.replace(plan, einsums=(wrong,)))
