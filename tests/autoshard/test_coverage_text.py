"""The coverage report as a person and as a program read it."""

import json

import msgspec
import pytest

from autoshard.coverage_records import Coverage, OpaqueRecord, UnknownLoopRecord, UnruledPrimitive
from autoshard.coverage_text import to_json, to_text
from autoshard.plan import Plan

FULL = Coverage(
    equations=412,
    einsums=3,
    flops_fraction=1.0,
    unruled=(
        UnruledPrimitive(primitive="shard_map", count=2, bytes=2**30),
        UnruledPrimitive(primitive="random_bits", count=1, bytes=0),
    ),
    flops=1.5e12,
    bytes=100 * 2**30,
    bytes_fraction=0.98999,
    unsplit=(UnruledPrimitive(primitive="sort", count=12, bytes=32 * 2**10),),
    opaque=(
        OpaqueRecord(primitive="shard_map", source="moe.py:57", count=2, bytes=2**30),
        OpaqueRecord(primitive="debug_callback", source="", count=1, bytes=0),
    ),
    replicated_bytes=5 * 2**20,
    constants=2,
    constant_bytes=64 * 2**20,
    small_arguments=3,
    small_argument_bytes=2**19,
    tables=1,
    table_bytes=2**20,
    unknown_loops=(UnknownLoopRecord(source="flash.py:120", count=32, flops=3e11),),
    freed_annotations=13,
)
TEXT = """\
step: 3 einsums among 412 equations
flops  100.00% under decisions  of 1.500e+12
bytes  98.99% under decisions   of 100 GiB

Bytes are those of a step, all trips, unsharded. Shares are rounded down.

replicated primitive  why                      count     bytes
shard_map             no rule                      2  1.00 GiB
random_bits           no rule                      1       0 B
sort                  its rule splits nothing     12  32.0 KiB

opaque call     source     count     bytes
shard_map       moe.py:57      2  1.00 GiB
debug_callback  -              1       0 B
    what runs inside is not known: its flops are missing above

loop of unknown trip count  count  flops of one trip  of all
flash.py:120                   32          3.000e+11  20.00%
    each is counted as one trip

whole on every chip                   count     bytes
tensors of the rows above, each once         5.00 MiB
closed-over arrays                        2  64.0 MiB
small arguments                           3   512 KiB

left to the compiler: 1 large tables computed from small arguments and constants, 1.00 MiB

sharding annotations of the function that a plan frees: 13"""


def test_the_report_names_all_that_is_not_decided() -> None:
    assert to_text("step", FULL) == TEXT


def test_what_there_is_none_of_is_said() -> None:
    text = to_text("step", msgspec.structs.replace(FULL, unruled=(), unsplit=(), opaque=(), unknown_loops=()))
    assert "replicated primitives: none" in text
    assert "opaque calls: none" in text
    assert "loops of unknown trip count: none" in text


@pytest.mark.parametrize(
    ("fraction", "share"),
    [(0.99, "99.00%"), (0.989999, "98.99%"), (0.999999, "99.99%"), (1.0, "100.00%"), (0.0, "0.00%")],
)
def test_a_share_is_never_rounded_up(fraction: float, share: str) -> None:
    shares = to_text("step", msgspec.structs.replace(FULL, bytes_fraction=fraction)).splitlines()[2]
    assert shares.split()[:2] == ["bytes", share]


def test_an_old_plan_says_what_it_has_and_what_it_lacks(plan: Plan) -> None:
    assert to_text("decode_step", plan.coverage) == (
        "decode_step: 3 einsums among 412 equations\n"
        "flops  99.87% under decisions\n\n"
        "replicated primitive  why      count     bytes\n"
        "top_k                 no rule      1  32.0 KiB\n\n"
        "this plan is from before bytes were counted: tune it again"
    )


def test_json_has_every_field_null_where_it_was_not_counted(plan: Plan) -> None:
    facts = json.loads(to_json("step", FULL))
    assert facts["function"] == "step"
    assert tuple(facts["coverage"]) == Coverage.__struct_fields__
    assert facts["coverage"]["bytes_fraction"] == 0.98999
    assert facts["coverage"]["opaque"][0] == {
        "primitive": "shard_map",
        "source": "moe.py:57",
        "count": 2,
        "bytes": 2**30,
    }
    old = json.loads(to_json("step", plan.coverage))["coverage"]
    assert tuple(old) == Coverage.__struct_fields__
    assert (old["bytes_fraction"], old["opaque"], old["constants"]) == (None, [], None)


def test_json_of_a_covered_function_holds_the_same_facts() -> None:
    facts = json.loads(to_json("step", FULL))["coverage"]
    assert msgspec.convert(facts, Coverage) == FULL
