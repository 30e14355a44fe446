import json
import lzma
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from autoshard.compiled import chrome_trace as module
from autoshard.compiled.chrome_trace import chrome_trace
from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

HLO = Path(__file__).parents[2] / "assets" / "hlo_generations"
MESH = native_mesh(parse_slice("v4:4x4x4"))
CHIP = MESH.slice.chip
MIB = 2**20
HOP_SECONDS = CHIP.collective_base_seconds + CHIP.hop_seconds + MIB / CHIP.link_bytes_per_second
PAIRS = ",".join(f"{{{i},{i // 4 * 4 + (i + 1) % 4}}}" for i in range(64))  # one step along z

PROGRAM = """HloModule m, num_partitions=64

FileNames
1 "/home/me/model.py"

FunctionNames
1 "layer"

FileLocations
1 {file_name_id=1 function_name_id=1 line=27 end_line=27 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%body (s: (s32[], bf16[512,1024])) -> (s32[], bf16[512,1024]) {
  %s = (s32[], bf16[512,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %n = s32[] add(%i, %one)
  %x = bf16[512,1024]{1,0} get-tuple-element(%s), index=1
  %r = (bf16[512,1024]{1,0}, bf16[512,1024]{1,0}) collective-permute-start(%x), source_target_pairs={PAIRS}
  %f = bf16[512,1024]{1,0} fusion(%x), kind=kOutput, calls=%c, metadata={op_name="jit(f)/ffn/be,ef->bf/dot_general" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"1050"}}
  %d = bf16[512,1024]{1,0} collective-permute-done(%r)
  ROOT %t = (s32[], bf16[512,1024]{1,0}) tuple(%n, %d)
}

%condition (s: (s32[], bf16[512,1024])) -> pred[] {
  %s.1 = (s32[], bf16[512,1024]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %bound = s32[] constant(3)
  ROOT %c.1 = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (p: bf16[512,1024]) -> bf16[512,1024] {
  %p = bf16[512,1024]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[512,1024]{1,0}) tuple(%zero, %p)
  %w = (s32[], bf16[512,1024]{1,0}) while(%init), condition=%condition, body=%body
  ROOT %out = bf16[512,1024]{1,0} get-tuple-element(%w), index=1
}
""".replace("PAIRS", PAIRS)  # noqa: E501 - HLO has one instruction on a line
COMPUTE_SECONDS = 1050 / CHIP.clock_hz


def traced() -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The slices of the program and the names of its threads."""
    trace = chrome_trace(PROGRAM, MESH, "step")
    events = json.loads(json.dumps(trace))["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [event for event in events if event["ph"] == "X"], threads


def test_one_process_stands_for_all_chips_and_is_called_estimated() -> None:
    (process,) = (
        e for e in chrome_trace(PROGRAM, MESH, "step")["traceEvents"] if e["name"] == "process_name"
    )
    assert process["args"]["name"] == (
        "step on v4:4x4x4: each of 64 chips, estimated from the compiler's schedule"
    )


def test_threads_are_the_core_the_copies_and_the_links_in_use() -> None:
    _, threads = traced()
    assert list(threads.values()) == ["core", "copies between HBM and on-chip memory", "ICI z +"]


def test_a_loop_is_drawn_trip_by_trip() -> None:
    slices, threads = traced()
    permutes = [each for each in slices if threads[each["tid"]] == "ICI z +"]
    fusions = [each for each in slices if each["name"] == "f"]
    (loop,) = (each for each in slices if each["name"] == "w")
    trip_seconds = max(COMPUTE_SECONDS, HOP_SECONDS)
    starts = [each["ts"] for each in permutes]
    assert starts == pytest.approx([1e6 * trip_seconds * i for i in range(3)], abs=0.002)
    assert [each["ts"] for each in fusions] == pytest.approx(starts, abs=0.002)
    assert {each["dur"] for each in fusions} == {1.0}  # 1050 cycles of 1.05 GHz
    assert loop["dur"] == pytest.approx(3e6 * trip_seconds, abs=0.002)
    assert loop["args"]["trips"] == 3


def test_the_core_waits_for_what_is_not_hidden() -> None:
    slices, threads = traced()
    waits = [each for each in slices if each["cat"] == "wait"]
    assert [each["name"] for each in waits] == ["wait for r"] * 3
    assert {threads[each["tid"]] for each in waits} == {"core"}
    exposed = HOP_SECONDS - COMPUTE_SECONDS
    assert [each["dur"] for each in waits] == pytest.approx([1e6 * exposed] * 3, abs=0.002)


def test_slices_say_what_they_are() -> None:
    slices, _ = traced()
    arguments = {each["name"]: each["args"] for each in slices}
    assert arguments["f"] == {
        "opcode": "fusion",
        "op_name": "jit(f)/ffn/be,ef->bf/dot_general",
        "einsum": "be,ef->bf",
        "source": "/home/me/model.py:27",
        "cycles": 1050,
    }
    assert arguments["r"] == {
        "opcode": "collective-permute-start",
        "collective": "collective-permute",
        "axes": "z",
        "bytes": MIB,
        "asynchronous": True,
    }


def test_a_loop_of_too_many_events_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = traced()
    monkeypatch.setattr(module, "DRAWN_EVENTS", 5)
    slices, _ = traced()
    (rest,) = (each for each in slices if "more trips" in each["name"])
    (loop,) = (each for each in slices if each["name"] == "w")
    assert rest["name"] == "2 more trips, as the first"
    assert sum(each["name"] == "f" for each in slices) == 1
    assert rest["ts"] + rest["dur"] == pytest.approx(loop["ts"] + loop["dur"])
    assert rest["dur"] == pytest.approx(2 / 3 * loop["dur"], abs=0.002)
    assert len(slices) < len(whole)


@pytest.mark.parametrize("name", ["v4-2x2x2.jax-0.10.2", "v5e-2x4.jax-0.12.0.1"])
def test_slices_of_a_thread_nest_and_end_with_the_step(name: str) -> None:
    text = lzma.decompress((HLO / f"{name}.hlo.xz").read_bytes()).decode()
    mesh = native_mesh(parse_slice(name.split(".")[0].replace("-", ":", 1)))
    by_thread = defaultdict(list)
    for event in chrome_trace(text, mesh, "step")["traceEvents"]:
        if event["ph"] == "X":
            first = round(event["ts"] * 1000)
            by_thread[event["tid"]].append((first, first + round(event["dur"] * 1000)))
    for slices in by_thread.values():
        open_ends: list[int] = []
        for first, last in sorted(slices, key=lambda each: (each[0], -each[1])):
            while open_ends and open_ends[-1] <= first:
                open_ends.pop()
            assert not open_ends or last <= open_ends[-1]
            open_ends.append(last)
    timeline = estimate_timeline(text, mesh)
    assert max(last for slices in by_thread.values() for _, last in slices) == round(timeline.seconds * 1e9)


def test_the_events_of_a_timeline_are_its_sums() -> None:
    timeline = estimate_timeline(PROGRAM, MESH)
    (loop,) = timeline.events
    assert loop.body is not None
    lanes: defaultdict[str, float] = defaultdict(float)
    for event in loop.body.events:
        lanes[event.lane] += event.seconds * loop.trips
    assert lanes["core"] == pytest.approx(timeline.compute_seconds + timeline.filled_seconds)
    assert lanes["wait"] == pytest.approx(timeline.exposed_collective_seconds)
    assert lanes["links"] == pytest.approx(timeline.collective_seconds)
    assert loop.seconds == pytest.approx(timeline.seconds)
